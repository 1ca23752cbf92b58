"""What each published checkpoint takes in memory at 16, 8 and 4 bits, as the table in README.

    python scripts/sizes.py --configs DIR       # DIR/org__name/config.json, or .../config.reconstructed.json

Computed from the lazily built graph and the family's recipe, so it costs no memory: weights with the scales and biases of
packed layers, everything else in 16 bits; the cache of keys and values per 1000 tokens. The machine is the smallest whose
GPU may take (two thirds of the memory) 1.15 x the weights, the cache of 8000 tokens and 1 GB to work in.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from ocr_mlx.domain import Quantization
from ocr_mlx.model import registry
from ocr_mlx.model.base import Family
from ocr_mlx.model.load import parameters
from ocr_mlx.model.quantized import make_room, plan

BITS = (16, 8, 4)
GROUP_SIZE = 64
HALF = 2
MACHINES = (8, 16, 24, 32, 48, 64)
GPU_SHARE, LOAD_PEAK, TOKENS, WORKING = 2 / 3, 1.15, 8000, 1e9


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """One checkpoint: bytes of weights by bits, and bytes of cache for each token."""

    checkpoint: str
    family: str
    weights: Mapping[int, int]
    cache: int

    def machine(self, bits: int) -> str:
        """The smallest memory, in GB, that holds it at so many bits."""
        needed = self.weights[bits] * LOAD_PEAK + self.cache * TOKENS + WORKING
        fitting = [size for size in MACHINES if size * 2**30 * GPU_SHARE >= needed]
        return f"{fitting[0]} GB" if fitting else f"more than {MACHINES[-1]} GB"


def measure(checkpoint: str, config: Mapping[str, Any]) -> Sizes:
    """The sizes of one checkpoint. Raises UnsupportedArchitecture."""
    family = registry.family_for(config)
    return Sizes(
        checkpoint=checkpoint,
        family=family.name,
        weights={bits: weight_bytes(family, config, bits) for bits in BITS},
        cache=cache_bytes(family.build(config)),
    )


def weight_bytes(family: Family, config: Mapping[str, Any], bits: int) -> int:
    """Bytes of the weights with the layers of the recipe packed, floats in 16 bits."""
    graph: Any = family.build(config)
    if bits < 16:
        make_room(graph, plan(graph, family.recipe, Quantization(bits=bits, group_size=GROUP_SIZE)))
    arrays = {id(array): array for array in parameters(graph).values()}.values()
    return sum(a.size * HALF if mx.issubdtype(a.dtype, mx.floating) else a.nbytes for a in arrays)


def cache_bytes(graph: Any) -> int:
    """Bytes of keys and values for each token in 16 bits: of the decoder, which is what holds a vocabulary and layers."""
    decoders = [module for _, module in graph.named_modules() if "embed_tokens" in module and "layers" in module]
    widths = [
        linear.weight.shape[0]
        for decoder in decoders
        for layer in decoder.layers
        for linear in (layer.self_attn.k_proj, layer.self_attn.v_proj)
    ]
    if not widths:
        raise ValueError(f"{type(graph).__name__} has no decoder that can be told by its names")
    return sum(widths) * HALF


def published(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Checkpoint and config.json of each `org__name` folder."""
    for path in sorted(folder.iterdir()):
        files = [path / name for name in ("config.json", "config.reconstructed.json")]
        for file in [file for file in files if file.is_file()][:1]:
            yield path.name.replace("__", "/", 1), json.loads(file.read_text(encoding="utf-8"))


def table(rows: list[Sizes]) -> str:
    """Markdown."""
    lines = [
        "| checkpoint | family | 16 bits | 8 bits | 4 bits | cache for 1000 tokens | Apple machine at 16 / 8 / 4 bits |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [gigabytes(row.weights[bits]) for bits in BITS]
        machines = " / ".join(row.machine(bits) for bits in BITS)
        cache = f"{row.cache * 1000 / 1e6:.0f} MB"
        lines.append(f"| {row.checkpoint} | {row.family} | {' | '.join(cells)} | {cache} | {machines} |")
    return "\n".join(lines)


def gigabytes(count: int) -> str:
    """In GB with two digits behind the point."""
    return f"{count / 1e9:.2f} GB"


def doubts(row: Sizes) -> Iterator[str]:
    """Where the graph and what the family says of the published files are more than 2 % apart, at 16 or 32 bits."""
    said = {name: size for family in registry.families() for name, size in family.sizes.items()}.get(row.checkpoint)
    if said is not None and not any(abs(row.weights[16] * k / said - 1) < 0.02 for k in (1, 2)):
        yield f"{row.checkpoint}: {gigabytes(row.weights[16])} by the graph, {gigabytes(said)} by the family's `sizes`"


def main() -> None:
    """Print the table; doubts go to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", type=Path, required=True, help="folder of published configs, one folder each")
    parser.add_argument("--family", help="only this family")
    options = parser.parse_args()
    rows = []
    for checkpoint, config in published(options.configs):
        if options.family in (None, registry.family_for(config).name):
            rows.append(measure(checkpoint, config))
    rows.sort(key=lambda row: (row.family, row.checkpoint))
    print(table(rows))
    for row in rows:
        for doubt in doubts(row):
            print(doubt, file=sys.stderr)


if __name__ == "__main__":
    main()
