"""What is in a model's folder: its config.json, and files that are really its own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from ocr_mlx.domain import Quantization
from ocr_mlx.errors import CheckpointIncomplete, ModelError

CONFIG = "config.json"
_AGAIN = "Download or convert the model again."
_LFS = b"version https://git-lfs"
_MOST_JSON: Final = 16_000_000
"""Bytes; an index of a hundred thousand tensors has fewer."""
_LAYERS: Final = re.compile(r"layers|depth", re.IGNORECASE)
_MOST_LAYERS: Final = 1000
_MOST: Final = tuple(
    (re.compile(f"({words})$", re.IGNORECASE), most)
    for words, most in (
        ("image_size", 8192),
        ("patch_size|merge_size", 256),
        ("size|dim|width|heads|channels|experts|d_model", 1_000_000),
        ("", 2**63),
    )
)
"""What the numbers of a config.json stay below, by how their names end: many times what published models have."""
_MOST_BITS: Final = 32
_MOST_GROUP: Final = 4096


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
        if path.stat().st_size > _MOST_JSON:
            raise CheckpointIncomplete(f"{path.name} is larger than any such file.", hint=_AGAIN)
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
    if escapes or not _is_inside(path, folder):
        raise CheckpointIncomplete(
            f"The file name {name!r} leads out of the model's folder {folder.name}.",
            hint="Copy the file into the folder, or get the model from a source that you trust.",
        )
    return path


def _is_inside(path: Path, folder: Path) -> bool:
    try:
        return path.resolve().is_relative_to(_root(folder))
    except (OSError, RuntimeError, ValueError):  # links in a circle, or a name that no file can have
        return False


def _root(folder: Path) -> Path:
    """The hub's cache keeps a snapshot's files as links to blobs beside it, or to blobs that its models share."""
    folder = folder.resolve()
    snapshots = folder.parent
    inside_cache = snapshots.name == "snapshots" and snapshots.parent.name.startswith("models--")
    return snapshots.parents[1] if inside_cache else folder


def data_file(folder: Path, name: str) -> Path:
    """A weight file of the folder; raises CheckpointIncomplete where it is missing, empty or a Git LFS pointer."""
    path = member(folder, name)
    missing = CheckpointIncomplete(f"The weight file {name} is missing in {folder.name}.", hint=_AGAIN)
    try:
        if not path.is_file():  # a pipe would never open
            raise missing
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(len(_LFS))
    except OSError as error:
        raise missing from error
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
    for packing in (record, *(own for own in record.values() if isinstance(own, Mapping))):
        _check_packing(packing)
    return record


def _check_packing(packing: Mapping[str, Any]) -> None:
    """Only what could be: which bits and groups there are is known where layers are packed."""
    for name, most in (("bits", _MOST_BITS), ("group_size", _MOST_GROUP)):
        value = packing.get(name, 1)
        if type(value) is not int or not 0 < value <= most:
            raise CheckpointIncomplete(
                f"`quantization` in config.json: {name} is {value!r}, not a whole number from 1 to {most}.", hint=_AGAIN
            )
    if not isinstance(packing.get("mode", ""), str):
        raise CheckpointIncomplete("`quantization` in config.json: mode is no name.", hint=_AGAIN)


def quantization_of(config: Mapping[str, Any]) -> Quantization | None:
    """The folder's overall quantization; errors as `quantization_record`."""
    record = quantization_record(config)
    if record is None:
        return None
    return Quantization(bits=record["bits"], group_size=record["group_size"])


def check_numbers(config: Mapping[str, Any]) -> None:
    """Raise CheckpointIncomplete for layers and sizes beyond any model's, before a graph of them takes all memory."""
    layers: dict[str, float] = {}
    for name, value in _numbers(config):
        if _LAYERS.search(name) and isinstance(value, int):
            layers[name] = layers.get(name, 0) + max(value, 0)
        most = next(most for end, most in _MOST if end.search(name))
        if not abs(value) < most:  # not a number, too
            raise CheckpointIncomplete(f"config.json: {name} is {value}, which no model has.", hint=_AGAIN)
    for name, count in layers.items():
        if count > _MOST_LAYERS:
            raise CheckpointIncomplete(
                f"config.json: {name} makes more than {_MOST_LAYERS} layers, which no model has.", hint=_AGAIN
            )


def _numbers(config: Mapping[str, Any]) -> Iterator[tuple[str, int | float]]:
    """Every number under the last name above it."""
    pending: list[tuple[str, Any]] = list(config.items())
    while pending:
        name, value = pending.pop()
        if isinstance(value, Mapping):
            pending += value.items()
        elif isinstance(value, list):
            pending += ((name, one) for one in value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, value
