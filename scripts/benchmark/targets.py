"""The table of aims: what was measured, against what, as one ratio beside the least it should be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One aim. `ours` and `theirs` are in `unit`; `ratio` is better the larger it is, or where `most`, the smaller."""

    what: str
    against: str
    unit: str
    ours: float
    theirs: float | None
    ratio: float
    aim: float
    most: bool = False

    @property
    def reached(self) -> bool:
        """Whether the aim is met."""
        return self.ratio <= self.aim if self.most else self.ratio >= self.aim


def rows(figures: Figures) -> list[Row]:
    """The aims that these figures say something about."""
    found = [*_nougat(figures.get("nougat", {})), *_batch(figures.get("batch", {}))]
    for family, columns in figures.get("families", {}).items():
        found += _family(family, columns)
    found += [row for one in figures.get("server", []) for row in _server(one)]
    found += [_step(name, one) for name, one in _steps(figures).items()]
    found += _overhead(figures.get("overhead", {}))
    return found + [_livez(name, one) for name, one in figures.get("livez", {}).items()]


def report(figures: Figures) -> str:
    """The aims as a Markdown table."""
    lines = ["| what | against | ours | theirs | ratio | aim | reached |", "|---|---|---|---|---|---|---|"]
    for row in rows(figures):
        theirs = "-" if row.theirs is None else f"{row.theirs:.3g} {row.unit}"
        sign, times = ("<= ", "x" if row.theirs is not None else f" {row.unit}") if row.most else ("", "x")
        ratio = f"{row.ratio:.2f}{times}"
        aim, reached = f"{sign}{row.aim:g}{times}", "yes" if row.reached else "no"
        lines.append(
            f"| {row.what} | {row.against} | {row.ours:.3g} {row.unit} | {theirs} | {ratio} | {aim} | {reached} |"
        )
    return "\n".join(lines) if len(lines) > 2 else ""


def _slower(what: str, against: str, ours: float, theirs: float, aim: float) -> Row:
    """Seconds: the ratio is how many times ours are in theirs."""
    return Row(what=what, against=against, unit="s", ours=ours, theirs=theirs, ratio=theirs / ours, aim=aim)


def _faster(what: str, against: str, unit: str, ours: float, theirs: float, aim: float) -> Row:
    return Row(what=what, against=against, unit=unit, ours=ours, theirs=theirs, ratio=ours / theirs, aim=aim)


def _nougat(found: Figures) -> list[Row]:
    made = []
    if plain := found.get("plain"):
        ours, name = found["ours"], "the plain port"
        vision = "Nougat-small, vision pass of one page"
        made.append(_slower(vision, name, ours["vision_seconds"], plain["vision_seconds"], 2.0))
        made.append(_pace("Nougat-small, one page, decoding", name, ours, plain, 1.4))
    if torch := found.get("torch"):
        made.append(_pace("Nougat-small, one page, decoding", "transformers", found["ours"], torch, 1.0))
    return made


def _batch(found: Figures) -> list[Row]:
    if "ours" not in found:
        return []
    ours, what = found["ours"], f"Nougat-small, 8 pages of {found['tokens']} tokens as one batch"
    together, alone = ours["batch_pages_per_second"], ours["pages_per_second"]
    made = [_faster(what, "itself one by one", "pages/s", together, alone, 3.0)]
    if torch := found.get("torch"):
        made.append(_faster(what, "transformers, batch 8", "pages/s", together, torch["batch_pages_per_second"], 1.0))
    return made


def _pace(what: str, against: str, ours: Figures, theirs: Figures, aim: float) -> Row:
    return _faster(what, against, "tokens/s", ours["tokens_per_second"], theirs["tokens_per_second"], aim)


def _family(family: str, columns: Figures) -> list[Row]:
    made, ours = [], columns["ours"]
    if "tokens_per_second" not in ours:
        return []
    peer = columns.get("mlx-vlm", {})
    if "tokens_per_second" in peer:
        first = f"{family}, first token"
        made.append(_slower(first, "mlx-vlm", ours["first_token_seconds"], peer["first_token_seconds"], 1.1))
        made.append(_pace(f"{family}, decoding", "mlx-vlm", ours, peer, 1.1))
    if "tokens_per_second" in columns.get("transformers", {}):
        made.append(_pace(f"{family}, decoding", "transformers", ours, columns["transformers"], 0.9))
    return made


def _server(found: Figures) -> list[Row]:
    what, against = f"{found['clients']} concurrent requests, {found['model']}", "the same server, batch of one"
    batch, one = found["batch"], found["one"]
    made = [_faster(f"{what}, whole requests", against, "tokens/s", batch["whole"], one["whole"], 4.0)]
    if "decoding" in batch:
        made.append(_faster(f"{what}, decoding", against, "tokens/s", batch["decoding"], one["decoding"], 4.0))
    return made


def _steps(figures: Figures) -> dict[str, Figures]:
    """Every model's decode step that was measured."""
    steps = {"nougat-small size": figures["step"]} if "step" in figures else {}
    families = figures.get("families", {})
    return steps | {name: columns["step"] for name, columns in families.items() if "step" in columns}


def _step(name: str, found: Figures) -> Row:
    return Row(
        what=f"decode step, {name}",
        against="reading its weights once",
        unit="ms",
        ours=found["step_ms"],
        theirs=found["floor_ms"],
        ratio=found["times"],
        aim=1.5,
        most=True,
    )


def _overhead(found: Figures) -> list[Row]:
    names = {"blank": "a blank page", "line": "a line of text"}
    return [
        _limit(f"server overhead, {title}", "the same engine in process", found[name]["overhead_ms"], 5.0)
        for name, title in names.items()
        if name in found
    ]


def _livez(name: str, found: Figures) -> Row:
    return _limit(f"/livez p99, {found['clients']} clients, {name}", "-", found["load"]["p99_ms"], 50.0)


def _limit(what: str, against: str, value: float, aim: float) -> Row:
    return Row(what=what, against=against, unit="ms", ours=value, theirs=None, ratio=value, aim=aim, most=True)
