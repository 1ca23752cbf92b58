"""What is in a model's folder: its config.json, and files that are really its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ocr_mlx.domain import Quantization
from ocr_mlx.errors import CheckpointIncomplete, ModelError

CONFIG = "config.json"
_AGAIN = "Download or convert the model again."
_LFS = b"version https://git-lfs"


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json.

    Raises CheckpointIncomplete where it is missing, unreadable or no JSON object.
    """
    if not folder.is_dir():
        raise CheckpointIncomplete(f"There is no folder {folder.name}.", hint="Check the path.")
    return read_json(member(folder, CONFIG))


def read_json(path: Path) -> dict[str, Any]:
    """A file that must hold one JSON object; raises CheckpointIncomplete otherwise."""
    if not path.is_file():
        raise CheckpointIncomplete(f"{path.name} is missing in {path.parent.name}.", hint="Is this a model's folder?")
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointIncomplete(f"{path.name} is not JSON: {error}.", hint=_AGAIN) from error
    except OSError as error:
        raise CheckpointIncomplete(
            f"{path.name} cannot be read: {error.strerror}.", hint="Check its rights."
        ) from error
    if not isinstance(found, dict):
        raise CheckpointIncomplete(f"{path.name} holds a {type(found).__name__}, not an object.", hint=_AGAIN)
    return found


def member(folder: Path, name: str) -> Path:
    """The path of `name` in the folder. Names may come from a downloaded index, so they may not lead elsewhere.

    A link may point inside the folder or, in the hub's cache, inside that cache. Raises CheckpointIncomplete otherwise.
    """
    plain = Path(name)
    path = folder / plain
    escapes = not name or "\0" in name or "\\" in name or plain.is_absolute() or ".." in plain.parts
    if escapes or not path.resolve().is_relative_to(_root(folder)):
        raise CheckpointIncomplete(
            f"The file name {name!r} leads out of the model's folder {folder.name}.",
            hint="Copy the file into the folder, or get the model from a source that you trust.",
        )
    return path


def _root(folder: Path) -> Path:
    """The hub's cache keeps a snapshot's files as links to blobs beside it, or to blobs that its models share."""
    folder = folder.resolve()
    snapshots = folder.parent
    inside_cache = snapshots.name == "snapshots" and snapshots.parent.name.startswith("models--")
    return snapshots.parents[1] if inside_cache else folder


def data_file(folder: Path, name: str) -> Path:
    """A weight file of the folder; raises CheckpointIncomplete where it is missing, empty or a Git LFS pointer."""
    path = member(folder, name)
    try:
        size = path.stat().st_size if path.is_file() else None
        with path.open("rb") as file:
            head = file.read(len(_LFS))
    except OSError as error:
        raise CheckpointIncomplete(f"The weight file {name} is missing in {folder.name}.", hint=_AGAIN) from error
    if not size:
        raise CheckpointIncomplete(f"The weight file {name} in {folder.name} is empty.", hint=_AGAIN)
    if head == _LFS:
        raise CheckpointIncomplete(
            f"{path.name} is a Git LFS pointer, not the weights.", hint="Run `git lfs pull` in the folder."
        )
    return path


def quantization_record(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What config.json says about quantized layers in MLX's own convention, None where nothing is quantized.

    Raises ModelError for another tool's packing, CheckpointIncomplete for a record that makes no sense.
    """
    foreign = config.get("quantization_config")
    record = config.get("quantization") or foreign
    if not record:
        return None
    if not isinstance(record, Mapping):
        raise CheckpointIncomplete("`quantization` in config.json is not an object.", hint=_AGAIN)
    if "bits" not in record or "group_size" not in record or "quant_method" in record:
        method = record.get("quant_method", "an unknown method")
        raise ModelError(
            f"The weights were packed by {method}, which MLX does not read.",
            hint="Take the original checkpoint; `ocr_mlx convert --bits 4` quantizes it.",
        )
    return record


def quantization_of(config: Mapping[str, Any]) -> Quantization | None:
    """The folder's overall quantization; errors as `quantization_record`."""
    record = quantization_record(config)
    if record is None:
        return None
    bits, group_size = record["bits"], record["group_size"]
    if not isinstance(bits, int) or not isinstance(group_size, int):
        raise CheckpointIncomplete("`quantization` in config.json has no whole numbers.", hint=_AGAIN)
    return Quantization(bits=bits, group_size=group_size)
