"""Write a model's folder in one step: it appears whole, or not at all."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import mlx.core as mx

from ocr_mlx.errors import ModelError, OutputExists
from ocr_mlx.model.weight_files import INDEX, SINGLE

OnProgress = Callable[[int, int], None]
"""(bytes written, bytes in all)"""
SHARD_BYTES: Final = 5_000_000_000
_HINT: Final = "Check that there is room and that you may write there."


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` to fill, which becomes `out` at the end; after any error nothing of it remains.

    Raises OutputExists where something is there by then, ModelError where it cannot be written.
    """
    with _said(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        filling = out.parent / f".{out.name}.{secrets.token_hex(4)}"
        filling.mkdir()
    try:
        with _said(out):
            yield filling
            _harden(filling)
            filling.rename(out)
            _sync(out.parent)
    finally:
        shutil.rmtree(filling, ignore_errors=True)


def check_free(out: Path) -> None:
    """Raise OutputExists unless `out` is new or an empty folder."""
    if out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir()))):
        raise OutputExists(f"{out} exists already.", hint="Choose another folder, or remove that one first.")


def save_tensors(
    folder: Path, tensors: dict[str, mx.array], *, shard_bytes: int = SHARD_BYTES, on_progress: OnProgress | None = None
) -> None:
    """Write the tensors as safetensors with an index; `tensors` is emptied while that happens, to free its memory.

    One file where all fits into `shard_bytes`, else `model-00001-of-0000N.safetensors` and so on.
    """
    total, done = sum(array.nbytes for array in tensors.values()), 0
    shards = _shards(tensors, shard_bytes)
    table: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        shard: dict[str, mx.array] = {}
        for name in names:
            array = tensors.pop(name)
            mx.eval(array)
            shard[name] = array
            done += array.nbytes
            table[name] = file
            if on_progress is not None:
                on_progress(done, total)
        mx.save_safetensors(str(folder / file), shard, metadata={"format": "mlx"})
        shard.clear()
        mx.clear_cache()
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(table.items()))})


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Indented JSON, in the order given."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _shards(tensors: Mapping[str, mx.array], most: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    size = 0
    for name, array in tensors.items():
        if shards[-1] and size + array.nbytes > most:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += array.nbytes
    return shards


@contextmanager
def _said(out: Path) -> Iterator[None]:
    """The one door for errors of the disk; MLX reports its own as RuntimeError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR) and out.exists():
            raise OutputExists(f"{out} has appeared meanwhile.", hint="Choose another folder.") from error
        raise ModelError(f"{out} could not be written: {error.strerror or error}.", hint=_HINT) from error
    except RuntimeError as error:
        if not str(error).startswith(("[save_safetensors]", "[write]")):
            raise
        raise ModelError(f"{out} could not be written: the disk took no more.", hint=_HINT) from error


def _harden(folder: Path) -> None:
    """Everything to the disk before the name appears."""
    for path in (*folder.rglob("*"), folder):
        _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
