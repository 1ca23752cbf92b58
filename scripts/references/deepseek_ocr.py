"""DeepSeek-OCR under transformers: tiny models stage by stage, the pages half, and a comparison at the published size."""

from pathlib import Path

from references import _deepseek_full_size, _deepseek_graph, _deepseek_pages


def record(out: Path) -> None:
    """Write every golden under `out`."""
    _deepseek_graph.record(out)
    _deepseek_pages.record(out)


def full_size(python: str) -> None:
    """Random weights of both published sizes under torch and under our graph, one page each, float32; needs 20 GB."""
    _deepseek_full_size.compare(python)
