"""Names and shapes of published checkpoints, in tables small enough to commit, and whether our graphs have them.

    python scripts/keys.py make model.safetensors > keys.txt      # or a list "name<TAB>[shape]<TAB>dtype..."
    python scripts/keys.py check CONFIG.json keys.txt             # against the lazily built graph: costs no memory

A line of a table is a name and a shape; `{0..13}` in a name stands for all those numbers. Integer buffers are left out.
"""

import argparse
import itertools
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

Shapes = dict[str, tuple[int, ...]]
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def expand(table: str) -> Shapes:
    """All names of a table with their shapes."""
    shapes: Shapes = {}
    for line in table.splitlines():
        if line and not line.startswith("#"):
            name, shape = line.split("\t")
            shapes |= dict.fromkeys(_all_names(name), tuple(json.loads(shape)))
    return shapes


def compress(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The table of these names: numbers that run through from their first to their last become ranges."""
    rows = [(name, shape) for name, shape in shapes.items()]
    for place in range(max(len(_NUMBER.findall(name)) for name in shapes), -1, -1):
        rows = list(_fold(rows, place))
    return "".join(f"{name}\t{list(shape)}\n" for name, shape in rows)


def disagreements(config: Mapping[str, object], table: str) -> list[str]:
    """What the graph for this config.json lacks, has besides, or has in other shapes; empty when they agree."""
    import mlx.core as mx

    from ocr_mlx.model.load import parameters
    from ocr_mlx.model.registry import family_for

    graph = family_for(config).build(config)
    stored = graph.sanitize({name: mx.zeros(shape) for name, shape in expand(table).items()})
    has = {name: tuple(array.shape) for name, array in parameters(graph).items()}
    wants = {name: tuple(array.shape) for name, array in stored.items()}
    lines = [f"missing {name}" for name in wants.keys() - has.keys()]
    lines += [f"besides {name}" for name in has.keys() - wants.keys()]
    both = wants.keys() & has.keys()
    lines += [f"shape of {name}: {has[name]}, not {wants[name]}" for name in both if has[name] != wants[name]]
    return sorted(lines)


def _all_names(name: str) -> Iterator[str]:
    ranges = [range(int(first), int(last) + 1) for first, last in _RANGE.findall(name)]
    parts = _RANGE.sub("\0", name).split("\0")
    for numbers in itertools.product(*ranges):
        yield parts[0] + "".join(f"{number}{part}" for number, part in zip(numbers, parts[1:], strict=True))


def _fold(rows: Iterable[tuple[str, tuple[int, ...]]], place: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    groups: dict[tuple[str, tuple[int, ...]], list[int | None]] = {}
    for name, shape in rows:
        found = list(_NUMBER.finditer(name))
        if place < len(found):
            at = found[place]
            groups.setdefault((f"{name[: at.start()]}\0{name[at.end() :]}", shape), []).append(int(at[0]))
        else:
            groups.setdefault((name, shape), []).append(None)
    for (name, shape), numbers in groups.items():
        known = sorted(number for number in numbers if number is not None)
        whole = known == list(range(known[0], known[-1] + 1)) if len(known) > 1 else False
        for text in [f"{{{known[0]}..{known[-1]}}}"] if whole else map(str, known or [""]):
            yield name.replace("\0", text), shape


def _read(source: Path) -> Shapes:
    if source.suffix == ".safetensors":
        with source.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        return {n: tuple(t["shape"]) for n, t in header.items() if n != "__metadata__" and t["dtype"][0] in "FB"}
    lines = [line.split("\t") for line in source.read_text().splitlines() if line and not line.startswith("#")]
    shapes: Shapes = {}
    for name, shape, dtype, *rest in lines:
        if "int" not in dtype:
            numbers = [_numbers(part) for part in (rest[-1].split() if rest else [])]
            for chosen in itertools.product(*numbers):
                pieces = iter(chosen)
                full = re.sub(r"(?<=\.)N(?=\.)", lambda _, pieces=pieces: next(pieces), name)
                shapes[full] = tuple(json.loads(shape))
    return shapes


def _numbers(indices: str) -> list[str]:
    """`N=0..3` or `N=0,2,5` as numbers."""
    found: list[str] = []
    for part in indices.removeprefix("N=").split(","):
        first, _, last = part.partition("..")
        found += map(str, range(int(first), int(last or first) + 1))
    return found


def main() -> None:
    """Make or check a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    commands.add_parser("make").add_argument("source", type=Path)
    check = commands.add_parser("check")
    check.add_argument("config", type=Path)
    check.add_argument("table", type=Path)
    options = parser.parse_args()
    if options.command == "make":
        sys.stdout.write(compress(_read(options.source)))
        return
    found = disagreements(json.loads(options.config.read_text()), options.table.read_text())
    print("\n".join(found) or "agree")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
