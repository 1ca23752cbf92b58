"""Which files of a folder hold its tensors: safetensors first, PyTorch's own otherwise; one file, or many by index."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ocr_mlx.errors import CheckpointIncomplete
from ocr_mlx.model.folder import data_file, member, read_json

INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = "model.safetensors"
SAFETENSORS: Final = ".safetensors"
_TORCH: Final = ".bin"
_TORCH_INDEX: Final = "pytorch_model.bin.index.json"
_TORCH_SINGLE: Final = "pytorch_model.bin"
_OF_ANOTHER_LOADER: Final = "consolidated"
_AGAIN: Final = "Download or convert the model again."


def is_weight_file(name: str) -> bool:
    """Whether a file holds tensors, or says which file does."""
    return name.endswith((SAFETENSORS, _TORCH, f"{SAFETENSORS}.index.json", f"{_TORCH}.index.json"))


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The files that hold the folder's tensors, in order.

    Raises CheckpointIncomplete that names the missing file.
    """
    table, single = _listing(folder)
    names = dict.fromkeys(table.values()) if single is None else (single,)
    return tuple(data_file(folder, name) for name in names or _unlisted(folder))


def weight_index(folder: Path) -> dict[str, str]:
    """Tensor name -> file, as the folder's index has it; empty where there is none."""
    return _listing(folder)[0]


def choose_weights(names: list[str]) -> list[str]:
    """Of a repository's files, those that hold its tensors once: never two formats, never another loader's copy."""
    top = [name for name in names if "/" not in name and is_weight_file(name)]
    safetensors = [name for name in top if SAFETENSORS in name and not name.startswith(_OF_ANOTHER_LOADER)]
    found = safetensors or [name for name in top if name.startswith("pytorch_model")]
    singles = (SINGLE, _TORCH_SINGLE)
    if any("-of-" in name for name in found):
        return [name for name in found if name not in singles]
    if any(name in singles for name in found):
        return [name for name in found if name in (*singles, INDEX, _TORCH_INDEX)]
    return found


def _listing(folder: Path) -> tuple[dict[str, str], str | None]:
    """The index that counts, or else the one file that holds everything, or neither."""
    for index, single in ((INDEX, SINGLE), (_TORCH_INDEX, _TORCH_SINGLE)):
        if (folder / index).is_file():
            return _weight_map(member(folder, index)), None
        if (folder / single).exists() or (folder / single).is_symlink():
            return {}, single
    return {}, None


def _unlisted(folder: Path) -> list[str]:
    found = sorted(path.name for path in folder.glob(f"*{SAFETENSORS}"))
    found = [name for name in found if not name.startswith(_OF_ANOTHER_LOADER)]
    if not found:
        raise CheckpointIncomplete(
            f"There are no weights in {folder.name}: looked for {SINGLE}, {INDEX}, {_TORCH_SINGLE} and {_TORCH_INDEX}.",
            hint="Download the model again.",
        )
    return found


def _weight_map(index: Path) -> dict[str, str]:
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table or not all(isinstance(file, str) for file in table.values()):
        raise CheckpointIncomplete(f"{index.name} has no `weight_map`.", hint=_AGAIN)
    wrong = [file for file in table.values() if not file.endswith((SAFETENSORS, _TORCH))]
    if wrong:
        raise CheckpointIncomplete(f"{index.name} names {wrong[0]!r}, which is no weight file.", hint=_AGAIN)
    return table
