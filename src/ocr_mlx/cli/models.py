"""`ocr_mlx models`: families, checkpoints, short names, and what is on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ocr_mlx.settings import Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One checkpoint. `bytes` on this disk, None where it is not here; `complete`: it can be loaded offline."""

    checkpoint: str
    names: tuple[str, ...]
    family: str
    licence: str
    bytes: int | None
    complete: bool

    def record(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def entries(settings: Settings) -> list[Entry]:
    """The built-in model, every known checkpoint, and what else of these families was downloaded."""
    from ocr_mlx.model import hub, registry

    here = {found.ref.id: found for found in hub.downloaded(settings.models_dir)}
    known = list(_builtin(registry.BUILTIN, registry.builtin_folder()))
    for family in registry.families():
        others = [
            name for name, found in here.items() if found.family == family.name and name not in family.checkpoints
        ]
        for checkpoint in (*family.checkpoints, *sorted(others)):
            found = here.get(checkpoint)
            known.append(
                Entry(
                    checkpoint=checkpoint,
                    names=tuple(sorted(name for name, target in family.aliases.items() if target == checkpoint)),
                    family=family.name,
                    licence=family.licence,
                    bytes=found.bytes if found else None,
                    complete=found.complete if found else False,
                )
            )
    return known


def _builtin(name: str, folder: Path) -> Iterator[Entry]:
    if (folder / "config.json").is_file():
        size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
        yield Entry(checkpoint=name, names=(), family="nougat", licence="part of ocr_mlx", bytes=size, complete=True)


def table(found: Sequence[Entry], default: str) -> list[str]:
    """Aligned lines; the default model is marked."""
    rows = [("MODEL", "ALSO", "FAMILY", "ON DISK", "LICENCE")]
    for entry in found:
        mark = " (default)" if default in (entry.checkpoint, *entry.names) else ""
        rows.append(
            (entry.checkpoint + mark, ", ".join(entry.names), entry.family, _disk(entry), entry.licence.splitlines()[0])
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _disk(entry: Entry) -> str:
    if entry.bytes is None:
        return "no"
    size = f"{entry.bytes / 1e6:.0f} MB"
    return size if entry.complete else f"{size}, incomplete"
