"""A folder becomes a model in memory: config.json, family, graph, tensors, quantization, strict fit."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final, cast

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

from ocr_mlx.domain import ModelRef, Quantization
from ocr_mlx.errors import CheckpointIncomplete, ModelError, WeightMismatch
from ocr_mlx.model import lora, quantized, registry, weights
from ocr_mlx.model.adapter import ADAPTER_CONFIG, Adapter, check_base, read_adapter
from ocr_mlx.model.base import Family, Graph, LoadedModel, Processor
from ocr_mlx.model.folder import CONFIG, check_numbers, member, quantization_of, quantization_record, read_config
from ocr_mlx.model.layers.few_rows import prefer_few_rows
from ocr_mlx.model.layers.host import on_cpu
from ocr_mlx.model.weight_files import is_weight_file

STORED: Final = "stored"
DTYPES: Final[Mapping[str, mx.Dtype]] = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
_SETTLE_BYTES: Final = 64_000_000
_NONSENSE: Final = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    NotImplementedError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What a family's code raises where a list stands for a number, a word for a list, or a number is out of all measure."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A model's folder, understood but not read: `graph` has no weights yet, `record` is config.json's quantization.

    `adapter` is merged into the folder's tensors as they are read.
    """

    folder: Path
    config: Mapping[str, Any]
    family: Family
    graph: Graph
    record: Mapping[str, Any] | None
    adapter: Adapter | None = None

    @property
    def module(self) -> nn.Module:
        """The graph, as the module that it is."""
        return cast(nn.Module, self.graph)


def load_model(ref: ModelRef, *, dtype: str | None = None, quantize: Quantization | None = None) -> LoadedModel:
    """Read a model into memory.

    `dtype` is `float32`, `float16`, `bfloat16` or `stored`. None means as stored on a GPU; on a CPU, where half
    precision and packed layers are slow, everything becomes plain float32. An explicit dtype leaves packed layers
    packed. `quantize` packs the layers that the family's recipe names, exactly as a conversion would.
    Raises ModelError and its kinds; the message names what is missing.
    """
    floats = floats_of(dtype)
    checkpoint = open_checkpoint(ref.path, ref.adapter)
    if quantize is not None and checkpoint.record is not None:
        raise ModelError(f"{ref.id} is quantized already.", hint="Take the original checkpoint to quantize it anew.")
    with _described(ref.path, checkpoint.family):
        processor = _processor(checkpoint)
    expand = dtype is None and on_cpu()
    _fill(checkpoint, floats, quantize, expand)
    if on_cpu():
        prefer_few_rows(checkpoint.module)
    return LoadedModel(
        ref=replace(ref, quantization=quantize or quantization_of(checkpoint.config)),
        family=checkpoint.family,
        graph=checkpoint.graph,
        processor=processor,
        bytes=_settle(checkpoint.module),
    )


def expected_bytes(ref: ModelRef, *, dtype: str | None = None) -> int:
    """About what `load_model` will hold, from the tables of the files alone, so that room can be made before."""
    floats = floats_of(dtype)
    if dtype is not None or not on_cpu():
        return weights.stored_bytes(ref.path, floats.size if floats is not None else None)
    record = quantization_record(read_config(ref.path)) or {}

    def group_size(path: str) -> int:
        own = record.get(path)
        return int((own if isinstance(own, Mapping) else record).get("group_size", 0))

    return weights.stored_bytes(ref.path, mx.float32.size, group_size)


def floats_of(dtype: str | None) -> mx.Dtype | None:
    """The floating type that a name asks for, None where the stored ones stay; raises ModelError for other names."""
    if dtype is None or dtype == STORED:
        return None
    if dtype not in DTYPES:
        raise ModelError(f"There is no dtype {dtype!r}.", hint=f"Choose one of {', '.join((*DTYPES, STORED))}.")
    return DTYPES[dtype]


def open_checkpoint(folder: Path, adapter: Path | None = None) -> Checkpoint:
    """Read config.json and build the graph; the record names layers as the graph does. `adapter` is a LoRA's folder.

    Raises CheckpointIncomplete, UnsupportedArchitecture, or ModelError for an adapter that cannot be merged.
    """
    config = read_config(folder)
    family = registry.family_for(config)
    check_numbers(config)
    to_merge = None if adapter is None else read_adapter(adapter)
    if to_merge is not None:
        check_base(to_merge, config)
    record = quantization_record(config)
    if record is not None:
        record = {family.rename(name): value for name, value in record.items()}
    with _described(folder, family):
        graph = family.build(config)
    return Checkpoint(folder=folder, config=config, family=family, graph=graph, record=record, adapter=to_merge)


@contextmanager
def _described(folder: Path, family: Family) -> Iterator[None]:
    """The one door for what a config.json with wrong values makes of a family's code."""
    try:
        yield
    except KeyError as error:
        raise CheckpointIncomplete(
            f"config.json in {folder.name} has no {error.args[0]!r}, which a {family.name} model needs.",
            hint="Download or convert the model again.",
        ) from error
    except _NONSENSE as error:
        raise CheckpointIncomplete(
            f"config.json in {folder.name} describes no {family.name} model: {error}.",
            hint="Download or convert the model again.",
        ) from error


def read_sanitized(checkpoint: Checkpoint, floats: mx.Dtype | None) -> dict[str, mx.array]:
    """The folder's tensors in the graph's names and layout, floating ones as `floats` if given, an adapter's merged.

    Errors as `read_weights` and `lora.merge`.
    """
    family, adapter = checkpoint.family, checkpoint.adapter
    if adapter is None:
        found = weights.renamed(weights.read_weights(checkpoint.folder, floats), family.rename)
        return checkpoint.graph.sanitize(found)
    found = weights.renamed(weights.read_weights(checkpoint.folder), family.rename)
    merged = lora.merge(found, adapter, family.rename, floats)
    changed = [name for name, array in merged.items() if array is not found[name]]
    if floats is not None:
        merged = {name: weights.cast(array, floats) for name, array in merged.items()}
    tensors = checkpoint.graph.sanitize(merged)
    if dropped := sorted(set(changed) - tensors.keys()):
        raise ModelError(
            f"The adapter {adapter.folder.name} changes {dropped[0]}, which this model has not by itself.",
            hint="Merge it with the library that trained it, and take the merged model.",
        )
    return tensors


def companion_files(checkpoint: Checkpoint) -> dict[str, Path]:
    """Tokenizer, processor and generation files by name: what the family downloads, but for config and weights.

    An adapter's own files go before its base's.
    """
    adapter = checkpoint.adapter
    found: dict[str, Path] = {}
    for folder in (checkpoint.folder, *([adapter.folder] if adapter is not None else [])):
        for path in sorted(folder.iterdir()):
            wanted = any(fnmatch(path.name, pattern) for pattern in checkpoint.family.files)
            special = path.name in (CONFIG, ADAPTER_CONFIG) or is_weight_file(path.name)
            if wanted and not special and path.is_file():
                found[path.name] = member(folder, path.name)
    return found


def parameters(module: nn.Module) -> dict[str, mx.array]:
    """The module's arrays by their names in a checkpoint."""
    return dict(cast("list[tuple[str, mx.array]]", tree_flatten(module.parameters())))


def check_fit(module: nn.Module, tensors: Mapping[str, mx.array]) -> None:
    """Raise WeightMismatch unless the tensors are exactly those of the module."""
    expected = {name: array.shape for name, array in parameters(module).items()}
    found = {name: array.shape for name, array in tensors.items()}
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    both = sorted(expected.keys() & found.keys())
    shape = {name: (expected[name], found[name]) for name in both if expected[name] != found[name]}
    if missing or extra or shape:
        raise WeightMismatch(missing=missing, extra=extra, shape=shape)
    _check_kinds(module, tensors)


def _check_kinds(module: nn.Module, tensors: Mapping[str, mx.array]) -> None:
    """Whole numbers where the graph has others, or the reverse, would only show while a page is read."""
    for name, array in parameters(module).items():
        if mx.issubdtype(array.dtype, mx.floating) != mx.issubdtype(tensors[name].dtype, mx.floating):
            raise CheckpointIncomplete(
                f"Tensor {name} is stored as {_type_name(tensors[name])}, where this model has {_type_name(array)}.",
                hint="The checkpoint is damaged or belongs to another model; download or convert it again.",
            )


def _type_name(array: mx.array) -> str:
    return str(array.dtype).removeprefix("mlx.core.")


def _processor(checkpoint: Checkpoint) -> Processor:
    """The family's processor. Where an adapter brings files of its own, both folders' are laid together for the reading."""
    family, adapter = checkpoint.family, checkpoint.adapter
    files = companion_files(checkpoint) if adapter is not None else {}
    if adapter is None or not any(path.parent == adapter.folder for path in files.values()):
        return family.processor(checkpoint.folder, checkpoint.config)
    with tempfile.TemporaryDirectory(prefix="ocr_mlx-") as scratch:
        together = Path(scratch) / adapter.folder.name
        together.mkdir()
        for name, path in {**files, CONFIG: checkpoint.folder / CONFIG}.items():
            shutil.copyfile(path, together / name)
        return family.processor(together, checkpoint.config)


def _fill(checkpoint: Checkpoint, floats: mx.Dtype | None, quantize: Quantization | None, expand: bool) -> None:
    """Give the graph its tensors, not yet evaluated.

    What is quantized in memory is packed in its stored type first, as a conversion does, and expanded after.
    """
    module = checkpoint.module
    if expand and quantize is None:
        floats = mx.float32
    tensors = read_sanitized(checkpoint, floats)
    if quantize is not None:
        packings = quantized.plan(module, checkpoint.family.recipe, quantize)
        tensors = quantized.pack(tensors, packings)
    else:
        packings = quantized.recorded(module, tensors, checkpoint.record)
    if expand:
        tensors = quantized.unpack(tensors, packings)
        tensors = {name: weights.cast(array, mx.float32) for name, array in tensors.items()}
    else:
        quantized.make_room(module, packings)
    check_fit(module, tensors)
    module.load_weights(list(tensors.items()), strict=False)
    module.eval()


def _settle(module: nn.Module) -> int:
    """Evaluate one tensor after the other, so that each source can go before the next is read; the bytes held.

    The largest first, while there is little else: the peak is then hardly more than what stays.
    """
    pending = total = 0
    arrays = {id(array): array for array in parameters(module).values()}.values()
    for array in sorted(arrays, key=lambda array: array.nbytes, reverse=True):
        mx.eval(array)
        total += array.nbytes
        pending += array.nbytes
        if pending > _SETTLE_BYTES:
            mx.clear_cache()
            pending = 0
    mx.clear_cache()
    return total
