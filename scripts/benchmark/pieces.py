"""Where a pass spends its time: every call of some functions is finished before it counts, and so is what it is given.

That takes the overlap and the laziness out, so the sum is larger than the pass; the shares are what it is for.
"""

from __future__ import annotations

import functools
import importlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

Owner = tuple[Any, str]
"""A class or a module, and the name of its function."""


@contextmanager
def clocked(pieces: Mapping[str, Sequence[Owner]], clock: Callable[[], float]) -> Iterator[dict[str, float]]:
    """Seconds by piece of all calls meanwhile; a piece inside another one counts for itself only."""
    spent = dict.fromkeys(pieces, 0.0)
    inside: list[float] = []

    def wrap(name: str, call: Any) -> Any:
        @functools.wraps(call)
        def timed(*args: Any, **options: Any) -> Any:
            _finish((*args, *options.values()))
            started = clock()
            inside.append(0.0)
            out = call(*args, **options)
            _finish((out,))
            seconds = clock() - started
            spent[name] += seconds - inside.pop()
            if inside:
                inside[-1] += seconds
            return out

        return timed

    before = [(owner, name, vars(owner)[name]) for owners in pieces.values() for owner, name in owners]
    try:
        for piece, owners in pieces.items():
            for owner, name in owners:
                setattr(owner, name, wrap(piece, vars(owner)[name]))
        yield spent
    finally:
        for owner, name, call in before:
            setattr(owner, name, call)


def _finish(values: Iterable[Any]) -> None:
    import mlx.core as mx

    for value in values:
        if isinstance(value, mx.array):
            mx.eval(value)
        elif isinstance(value, tuple | list):
            _finish(value)


def shares(way: Callable[[], object], pieces: Mapping[str, Sequence[Owner]], runs: int = 1) -> dict[str, float]:
    """Milliseconds of `way` by piece, the mean of `runs`; `rest` is what is in none, `whole` the pass left as it is."""
    way()
    started = time.perf_counter()
    for _ in range(runs):
        way()
    whole = time.perf_counter() - started
    with clocked(pieces, time.perf_counter) as spent:
        started = time.perf_counter()
        for _ in range(runs):
            way()
        apart = time.perf_counter() - started
    found = {name: seconds * 1e3 / runs for name, seconds in spent.items()}
    return found | {"rest": (apart - sum(spent.values())) * 1e3 / runs, "whole": whole * 1e3 / runs}


_LAYERS = "ocr_mlx.model.layers"
_NOUGAT = "ocr_mlx.model.families.nougat"
_PRODUCTS = ("mlx.nn:Linear.__call__", f"{_LAYERS}.few_rows:FewRowsLinear.__call__")
VISION = {
    "matrix products": _PRODUCTS,
    "norms": ("mlx.nn:LayerNorm.__call__",),
    "windows": (f"{_NOUGAT}.windows:Geometry.split", f"{_NOUGAT}.windows:Geometry.join"),
    "attention": (f"{_NOUGAT}.encoder:SelfAttention.__call__",),
    "activation and pieces": (f"{_NOUGAT}.encoder:Block._mixed_channels",),
    "patches, merging, sums": (
        f"{_NOUGAT}.encoder:PatchEmbeddings.__call__",
        f"{_NOUGAT}.encoder:PatchMerging.__call__",
        f"{_NOUGAT}.encoder:Block.__call__",
    ),
}
"""Nougat's encoder; what a graph no longer has counts with what calls it."""
STEP = {
    "matrix products": (*_PRODUCTS, f"{_NOUGAT}.decoder_step:linear"),
    "norms": ("mlx.nn:LayerNorm.__call__", f"{_NOUGAT}.decoder_step:layer_norm"),
    "cache": (f"{_LAYERS}.kv_cache:BatchKVCache.append", f"{_LAYERS}.kv_cache:BatchKVCache.append_on_host"),
    "attention": (
        f"{_NOUGAT}.decoder:Attention.__call__",
        f"{_NOUGAT}.decoder:Attention.keys_values",
        f"{_NOUGAT}.decoder_step:_text",
        f"{_NOUGAT}.decoder_step:_attend",
    ),
    "activation and sums": (f"{_NOUGAT}.decoder:Layer.__call__", f"{_NOUGAT}.decoder_step:step"),
    "head": (f"{_NOUGAT}.decoder:MBartForCausalLM.__call__",),
}
"""One step of Nougat's decoder."""


def owners(named: dict[str, tuple[str, ...]]) -> dict[str, list[Owner]]:
    """The functions of those names, `module:Class.function`, as far as they are there."""
    return {piece: [owner for name in names for owner in _owner(name)] for piece, names in named.items()}


def _owner(name: str) -> list[Owner]:
    module, _, path = name.partition(":")
    *classes, function = path.split(".")
    try:
        found: Any = importlib.import_module(module)
    except ImportError:
        return []
    for part in classes:
        found = getattr(found, part, None)
    return [(found, function)] if found is not None and function in vars(found) else []
