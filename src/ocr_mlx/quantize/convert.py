"""Turn a checkpoint into an MLX folder: another float type, packed layers, or both."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ocr_mlx.domain import ModelRef, Quantization
from ocr_mlx.errors import ModelError
from ocr_mlx.model.folder import CONFIG
from ocr_mlx.model.load import check_fit, companion_files, floats_of, open_checkpoint, read_sanitized
from ocr_mlx.model.quantized import Packings, make_room, pack
from ocr_mlx.quantize.recipe import check_options, choose, record
from ocr_mlx.quantize.save import OnProgress, check_free, new_folder, save_tensors, write_json


def convert(
    source: ModelRef,
    out: Path,
    *,
    bits: int | None,
    group_size: int = 64,
    mixed: bool = False,
    dtype: str | None = None,
    on_progress: OnProgress | None = None,
) -> Path:
    """Write `source` to the new folder `out`, and return it; an adapter becomes a whole model.

    `bits` None packs nothing; `mixed` lets the family give some layers more bits; `dtype` as in `load_model`, None
    keeps the stored type. Loading the result gives exactly what packing in memory gives.
    Raises InvalidOption, OutputExists, and ModelError and its kinds; whatever happens, no half-written folder stays.
    """
    check_options(bits=bits, group_size=group_size, mixed=mixed, dtype=dtype)
    out = Path(out).expanduser()
    check_free(out)
    floats = floats_of(dtype)
    checkpoint = open_checkpoint(source.path, source.adapter)
    if checkpoint.record is not None:
        raise ModelError(f"{source.id} is quantized already.", hint="Convert the original checkpoint.")
    quantization = None if bits is None else Quantization(bits=bits, group_size=group_size)
    packings: Packings = {} if quantization is None else choose(checkpoint, quantization, mixed)
    tensors = pack(read_sanitized(checkpoint, floats), packings)
    make_room(checkpoint.module, packings)
    check_fit(checkpoint.module, tensors)
    with new_folder(out) as folder:
        for name, path in companion_files(checkpoint).items():
            shutil.copyfile(path, folder / name)
        write_json(folder / CONFIG, _config(checkpoint.config, packings, quantization, dtype))
        save_tensors(folder, tensors, on_progress=on_progress)
    return out


def _config(
    config: Mapping[str, Any], packings: Packings, quantization: Quantization | None, dtype: str | None
) -> dict[str, Any]:
    written = record(config, packings, quantization)
    if floats_of(dtype) is not None:
        written["dtype" if "dtype" in config else "torch_dtype"] = dtype
    return written
