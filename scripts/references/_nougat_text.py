"""Nougat's post-processing and repetition test as upstream computes them, over texts that trigger every rule."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import NougatTokenizer

from references import _nougat_pages as nougat_pages
from tests.families import nougat_made


def record(out: Path) -> None:
    """Write postprocess.json and stopping.json."""
    cases = [{"text": text, "page": clean(text, False), "markdown": clean(text, True)} for text in nougat_pages.PAGES]
    (out / "postprocess.json").write_text(json.dumps(cases, ensure_ascii=False, indent=0) + "\n")
    changed = sum(case["text"].strip() != case["markdown"].strip() for case in cases)
    print(f"postprocess: {len(cases)} pages, {changed} changed")
    curves = [stopping(index) for index in range(nougat_made.CURVES)]
    (out / "stopping.json").write_text(json.dumps(curves) + "\n")
    print("stopping:", [(curve["stopped"], curve["repeats"]) for curve in curves])


def clean(text: str, markdown: bool) -> str:
    """Upstream's post-processing, with nltk installed and its word list absent."""
    return str(object.__new__(NougatTokenizer).post_process_single(text, fix_markdown=markdown))


def stopping(index: int) -> dict[str, Any]:
    """At which step upstream's criterion stops this curve, and where its second look says that it repeats."""
    values = nougat_made.curve(index)
    stopped = _stop_step(values)
    return {"index": index, "stopped": stopped, "repeats": _repeats(values[: stopped or len(values)])}


def _stop_step(values: np.ndarray) -> int | None:
    """A row alone under the published criterion (window 15, then 200, threshold 0.015, unbiased variances)."""
    short, long, stop_index, size = [], [], 0, 0
    for value in torch.tensor(values, dtype=torch.float32):
        short = [*short, value][-15:]
        long = [*long, torch.var(torch.stack(short)) / len(short)][-200:]
        size += 1
        if size < 200:
            continue
        if not torch.var(torch.stack(long)) < 0.015:
            stop_index = 0
        elif stop_index > 0:
            if stop_index >= size:
                return size
        else:
            stop_index = int(min(max(size, 1) * 1.15 + 150 + 200, 4095))
    return None


def _repeats(values: np.ndarray) -> int | None:
    """The published second look, written out naively; the row has not ended by itself."""
    variances = np.array([np.var(values[i : i + 15]) / 15 for i in range(len(values) - 15)])
    if len(variances) < 10:
        return None
    backwards = variances[::-1]
    spread = np.array([np.var(backwards[: i + 10]) for i in range(len(backwards) - 10)][::-1])
    small = np.where(spread < 0.045)[0]
    if len(small) <= 1 or not np.all(np.diff(small) < 2):
        return None
    index = int(min(max(small[0], 1) * 1.08 + 120, 4095))
    if index / len(values) > 0.9:
        return None
    return 0 if small[0] < 30 else index
