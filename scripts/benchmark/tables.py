"""The figures behind the aims, as Markdown."""

from __future__ import annotations

from typing import Any

from scripts.benchmark import families

Figures = dict[str, Any]
_NOUGAT = (
    ("vision_seconds", "vision pass, s"),
    ("first_token_seconds", "first token, s"),
    ("tokens_per_second", "one page, tokens/s"),
    ("pages_per_second", "one page at a time, pages/s"),
    ("batch_pages_per_second", "8 pages as one batch, pages/s"),
    ("load_seconds", "loading, s"),
    ("weights_mb", "weights, MB"),
    ("peak_mb", "peak memory, MB"),
)


def report(figures: Figures) -> str:
    """A table or a line for every part that was measured."""
    parts = [
        _start(figures.get("start")),
        _nougat(figures),
        _step(figures.get("step")),
        *(_profile(name, one) for name, one in figures.get("profile", {}).items()),
        _overhead(figures.get("overhead")),
        *(_crowd(one) for one in figures.get("server", [])),
        *(_livez(name, one) for name, one in figures.get("livez", {}).items()),
        families.report(figures.get("families", {})),
    ]
    return "\n".join(part for part in parts if part)


def _start(found: Figures | None) -> str:
    if not found:
        return ""
    return (
        f"- spawn to /livez {found['livez_seconds']:.2f} s, bare FastAPI + uvicorn {found['bare_seconds']:.2f} s, "
        f"ratio {found['ratio']:.2f}; import ocr_mlx {found['import_ms']:.0f} ms"
    )


def _nougat(figures: Figures) -> str:
    """One column for each side; `ours` has its BLAS, `reference BLAS` is the one that mlx brings."""
    one, many = figures.get("nougat", {}), figures.get("batch", {})
    columns = {name: one.get(name, {}) | many.get(name, {}) for name in ("ours", "plain", "torch")}
    columns["reference BLAS"] = figures.get("blas", {})
    shown = {name: column for name, column in columns.items() if column}
    if not shown:
        return ""
    lines = [
        "",
        f"| nougat-small's size, random weights, float32 | {' | '.join(shown)} |",
        "|---|" + "---|" * len(shown),
    ]
    for key, title in _NOUGAT:
        if any(key in column for column in shown.values()):
            cells = [f"{column[key]:.3g}" if key in column else "-" for column in shown.values()]
            lines.append(f"| {title} | {' | '.join(cells)} |")
    if "difference" in columns["ours"]:
        ours = columns["ours"]
        lines += [
            "",
            f"- on {ours['device']}, BLAS {ours['blas']}; the plain port's logits differ by {ours['difference']:.0e}",
        ]
    return "\n".join(lines)


def _step(found: Figures | None) -> str:
    if not found:
        return ""
    speeds = ", ".join(f"{name} {speed:.1f}" for name, speed in found["speeds"].items())
    return (
        f"- a decode step takes {found['step_ms']:.1f} ms, reading its {found['step_mb']:.0f} MB of weights "
        f"{found['floor_ms']:.1f} ms; GB/s: {speeds}"
    )


def _profile(name: str, found: Figures) -> str:
    parts = ", ".join(f"{piece} {ms:.3g}" for piece, ms in found.items() if piece != "whole")
    titles = {"vision": "vision pass", "step": "decode step"}
    return f"- profile of a {titles[name]}, ms, every piece waited for: {parts}; left as it is {found['whole']:.3g}"


def _overhead(found: Figures | None) -> str:
    if not found:
        return ""
    pairs = [
        f"{name} {one['http_ms']:.1f} over HTTP, {one['engine_ms']:.1f} in process, difference {one['overhead_ms']:.2f}"
        for name, one in found.items()
        if isinstance(one, dict) and "engine_ms" in one
    ]
    return f"- requests, ms: {'; '.join(pairs)}; from the page cache {found['cached']['http_ms']:.1f} over HTTP"


def _crowd(found: Figures) -> str:
    batch, one = found["batch"], found["one"]
    text = (
        f"- {found['clients']} requests at once, {found['model']}: {batch['tokens']} tokens in {batch['seconds']:.1f} s; "
        f"with a batch of one {one['seconds']:.1f} s"
    )
    if "decoding" in batch:
        text += f"; decoding alone {batch['decoding']:.1f} and {one['decoding']:.1f} tokens/s"
    return text


def _livez(name: str, found: Figures) -> str:
    load, idle = found["load"], found["idle"]
    return (
        f"- /livez, {name}, {found['clients']} clients, {found['pages']} pages: p50 {load['p50_ms']:.1f}, p99 "
        f"{load['p99_ms']:.1f}, max {load['max_ms']:.1f} ms (idle p99 {idle['p99_ms']:.1f}; the asker itself was late by "
        f"{load['late_p99_ms']:.1f})"
    )
