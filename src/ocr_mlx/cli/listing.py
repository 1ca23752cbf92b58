"""What `ocr_mlx models` prints: a table of all, or all about one model or family."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Final

from ocr_mlx.cli.models import Entry, Overview, mode_params
from ocr_mlx.cli.servers import Held, Server
from ocr_mlx.domain import DecodeParams
from ocr_mlx.engine.remote import is_reference

if TYPE_CHECKING:
    from ocr_mlx.model.base import Family, Mode

WIDTH: Final = 100
_LEAST_NAMES: Final = 16
_HEAD: Final = ("MODEL", "ALSO", "SIZE", "MEMORY", "STATE")
_OPTIONS: Final = {"max_new_tokens": "max-tokens"}
_ALWAYS: Final = ("max_new_tokens", "temperature")


def table(whole: Overview) -> list[str]:
    """All models by family, in at most `WIDTH` columns unless a model's own name is longer."""
    widths = _widths(whole)
    lines = [_row(_HEAD, widths)]
    for family in whole.families:
        lines += ["", *wrapped(f"{family.name}: {family.licence.splitlines()[0]}")]
        for entry in (entry for entry in whole.models if entry.family == family.name):
            lines += _entry_rows(entry, whole.default, widths)
            if entry.licence != family.licence:
                lines += wrapped(f"licence: {entry.licence}", " " * 4)
    return [*lines, "", *wrapped(_legend(whole)), *_servers(whole.servers)]


def details(whole: Overview) -> list[str]:
    """One model, or one family with its models: modes, prompts and how they decode."""
    [family] = whole.families
    lines: list[str] = []
    for entry in whole.models:
        lines += [*_about(entry, whole), ""]
    return lines + modes(family)


def modes(family: Family) -> list[str]:
    """What a family may be asked, and how it decodes."""
    lines = [f"Modes of {family.name} (--mode NAME):"]
    for mode in family.modes.values():
        lines += _about_mode(family, mode)
    shown = _params(family.defaults)
    return [*lines, *wrapped(f"Decoding, unless a mode says otherwise: {shown}", "  ", first="")]


def _widths(whole: Overview) -> list[int]:
    rows = [_HEAD, *(_cells(entry, whole.default) for entry in whole.models)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    rest = sum(widths) - widths[1] + 2 * (len(widths) - 1)
    widths[1] = min(widths[1], max(_LEAST_NAMES, WIDTH - rest))
    return widths


def _cells(entry: Entry, default: str) -> tuple[str, ...]:
    mark = " *" if default in (entry.checkpoint, *entry.names) else ""
    return (f"  {entry.checkpoint}{mark}", ", ".join(entry.names), _size(entry), _bytes(entry.memory), _state(entry))


def _entry_rows(entry: Entry, default: str, widths: Sequence[int]) -> Iterator[str]:
    model, names, *rest = _cells(entry, default)
    first, *more = textwrap.wrap(names, widths[1], break_long_words=False, break_on_hyphens=False) or [""]
    yield _row((model, first, *rest), widths)
    for line in more:
        yield _row(("", line, "", "", ""), widths)


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    aligned = [
        cell.rjust(width) if column in (2, 3) else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(aligned).rstrip()


def _size(entry: Entry) -> str:
    return _bytes(entry.published if entry.bytes is None else entry.bytes)


def _bytes(count: int | None) -> str:
    if count is None:
        return "?"
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _state(entry: Entry) -> str:
    if entry.loaded:
        return "loaded"
    if entry.bytes is None:
        return "-"
    return "here" if entry.complete else "incomplete"


def _legend(whole: Overview) -> str:
    default = f"The default model is {whole.default}" if is_reference(whole.default) else "* is the default model"
    elsewhere = (
        f" All but folders and the built-in model are read at {whole.engine} (MODEL_SOURCE)." if whole.engine else ""
    )
    return (
        f"{default}. SIZE is on this disk, or what a download would bring; MEMORY is what the weights take "
        f"on this machine ({whole.held}).{elsewhere} `ocr_mlx models NAME` tells a model's modes and how it decodes."
    )


def _servers(running: Sequence[Server]) -> Iterator[str]:
    for server in running:
        held = "; ".join(map(_held, server.models)) or "no model in memory"
        yield from wrapped(f"Running: {server.url} (process {server.pid}): {held}", "  ", first="")


def _held(model: Held) -> str:
    use = "in use" if model.leases else "kept for good" if model.pinned else f"idle for {model.idle_seconds:.0f} s"
    return f"{model.id}, {_bytes(model.bytes)}, {use}"


def _about(entry: Entry, whole: Overview) -> Iterator[str]:
    yield entry.checkpoint + (" (the default model)" if whole.default in (entry.checkpoint, *entry.names) else "")
    facts = {
        "family": entry.family,
        "also": ", ".join(entry.names),
        "licence": entry.licence,
        "here": _whereabouts(entry),
        "download": "" if entry.published is None else _bytes(entry.published),
        "memory": "" if entry.memory is None else f"{_bytes(entry.memory)} ({whole.held})",
        "loaded": ", ".join(entry.loaded),
        "read at": _engine(entry, whole),
    }
    if entry.ref is not None and entry.ref.quantization is not None:
        quantization = entry.ref.quantization
        facts["quantized"] = f"{quantization.bits} bits in groups of {quantization.group_size}"
    for name, fact in facts.items():
        if fact:
            yield from wrapped(fact, " " * 13, first=f"  {name:<11}")


def _engine(entry: Entry, whole: Overview) -> str:
    """Where the model is read instead of here; empty where it is not."""
    from ocr_mlx.model.registry import BUILTIN, is_folder_name

    return "" if entry.checkpoint == BUILTIN or is_folder_name(entry.checkpoint) else whole.engine


def _whereabouts(entry: Entry) -> str:
    if entry.bytes is None:
        return "no"
    if not entry.complete:
        return f"{_bytes(entry.bytes)}, incomplete: the next use completes it"
    ref = entry.ref
    if ref is None:
        return _bytes(entry.bytes)
    return f"{_bytes(entry.bytes)} in {ref.path if ref.adapter is None else f'{ref.adapter}, merged into {ref.path}'}"


def _about_mode(family: Family, mode: Mode) -> Iterator[str]:
    default = " (default)" if mode.name == family.default_mode else ""
    yield from wrapped(mode.description, " " * 6, first=f"  {mode.name}{default}: ")
    if mode.prompt:
        yield from wrapped(f"prompt: {mode.prompt.strip()!r}", " " * 8, first=" " * 6)
    if mode.pages_together > 1:
        yield f"      up to {mode.pages_together} pages in one prompt"
    params = mode_params(family, mode)
    if params != family.defaults:
        yield from wrapped(_params(params, besides=family.defaults), " " * 8, first=" " * 6)


def _params(params: DecodeParams, besides: DecodeParams | None = None) -> str:
    """What is not usual, under the names of `read`'s options; or what differs from `besides`."""
    usual = DecodeParams() if besides is None else besides
    names = [field.name for field in fields(params)]
    always = _ALWAYS if besides is None else ()
    shown = [name for name in names if name in always or getattr(params, name) != getattr(usual, name)]
    return ", ".join(f"{_OPTIONS.get(name, name.replace('_', '-'))} {_value(getattr(params, name))}" for name in shown)


def _value(value: object) -> str:
    return " ".join(map(repr, value)) if isinstance(value, tuple) else str(value)


def wrapped(text: str, indent: str = "", *, first: str | None = None) -> list[str]:
    """The text in lines of at most `WIDTH` columns; `first` stands before the first of them, `indent` before the others."""
    start = indent if first is None else first
    lines = textwrap.wrap(
        text, WIDTH, initial_indent=start, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return lines or [start.rstrip(": ")]
