"""The same checkpoint and the same prepared page through mlx-vlm, in an environment of its own.

A family that mlx-vlm has says so in `scripts/references/_bench_<name>.py` by two more functions:

    peer(folder)            the folder as mlx-vlm's own loader reads it, made if need be
    peer_given(row)         what its `generate_step` takes; `row` as in `families`

It gets our BLAS and float32 weights: its bfloat16 would be slow on a CPU. Its image processor is not measured; both sides begin
at the same pixels and token ids.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from scripts.benchmark.common import peak_mb


def child(family: str, folder: Path, tokens: int) -> dict[str, Any]:
    """Seconds to the first token and the pace behind it; `note` instead where mlx-vlm cannot read the checkpoint."""
    from scripts.benchmark.families import COMPARED, hooks

    from ocr_mlx.utils.blas import blas_in_use, load_blas

    load_blas(True)
    import mlx_vlm
    from mlx_vlm.generate import generate_step
    from safetensors.numpy import load_file

    own = hooks(family)
    if not hasattr(own, "peer"):
        return {"note": f"mlx-vlm {mlx_vlm.__version__} has no such model"}
    try:
        model = _load(own.peer(folder))
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as problem:
        reason = " ".join(str(problem).split())[:200]
        return {"note": f"mlx-vlm {mlx_vlm.__version__} cannot read the checkpoint: {reason}"}
    given = own.peer_given(load_file(folder / "row.st"))
    times = [time.perf_counter()]
    said = []
    for token, _ in generate_step(model=model, max_tokens=tokens, temperature=0.0, **given):
        times.append(time.perf_counter())
        said.append(int(token))
    if len(times) != tokens + 1:
        raise RuntimeError("mlx-vlm ended early; the figure would be wrong")
    return {
        "version": mlx_vlm.__version__,
        "blas": blas_in_use(),
        "first_tokens": said[:COMPARED],
        "first_token_seconds": times[1] - times[0],
        "tokens_per_second": (tokens - 1) / (times[-1] - times[1]),
        "peak_mb": peak_mb(),
    }


def _load(folder: Path) -> Any:
    """The model in float32, one tensor after the other, so that the stored ones are not held beside all of them."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_vlm.utils import load_model

    model = load_model(folder, lazy=True)
    model.set_dtype(mx.float32)
    for _, array in tree_flatten(model.parameters()):
        mx.eval(array)
    mx.clear_cache()
    return model


def folder_with(folder: Path, config: Mapping[str, Any], rename: Callable[[str], str] | None = None) -> Path:
    """The checkpoint with another config.json, and tensors under other names if asked for; their bytes stay."""
    other = folder / "mlx-vlm"
    other.mkdir(exist_ok=True)
    (other / "config.json").write_text(json.dumps(config))
    weights, target = folder / "model.safetensors", other / "model.safetensors"
    target.unlink(missing_ok=True)
    if rename is None:
        os.link(weights, target)
    else:
        _copy_renamed(weights, target, rename)
    return other


def _copy_renamed(weights: Path, target: Path, rename: Callable[[str], str]) -> None:
    with weights.open("rb") as source, target.open("wb") as sink:
        (length,) = struct.unpack("<Q", source.read(8))
        header = json.loads(source.read(length))
        text = json.dumps({name if name == "__metadata__" else rename(name): entry for name, entry in header.items()})
        padded = text.encode() + b" " * (-len(text.encode()) % 8)
        sink.write(struct.pack("<Q", len(padded)) + padded)
        shutil.copyfileobj(source, sink, 1 << 24)
