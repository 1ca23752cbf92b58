"""Tiny checkpoints, with and without drafts: what was said before, and what is wrong from some place on.

The words of the tiny Nougat hold no letters to follow; the built-in model stands for its family elsewhere.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ocr_mlx.domain import DecodeParams, Page
from ocr_mlx.inference.batch import DecodeBatch
from ocr_mlx.inference.draft import drafters
from ocr_mlx.inference.stopping import Row, RowOutcome
from ocr_mlx.model.base import LoadedModel, ModelInputs, PreparedPage
from tests.families import crowd
from tests.families.test_crowd import Guests, deepseek_window, got, lighton, qwen2_vl
from tests.unit.fakes import page

PLAIN = DecodeParams(max_new_tokens=20)
GUARDED = DecodeParams(max_new_tokens=20, no_repeat_ngram=2, ngram_window=12)
"""As DeepSeek-OCR and GOT decode by default, but so that it bites within few tokens."""
PAGE: Page = page(0, 0)


def read(
    model: LoadedModel, rows: Sequence[ModelInputs], earlier: Sequence[str] | None, params: DecodeParams
) -> list[RowOutcome]:
    """What rows say together, each with a draft of its own."""
    said: dict[int, RowOutcome] = {}
    batch = DecodeBatch(model)
    joining = []
    for i, inputs in enumerate(rows):
        prepared = PreparedPage(rows=(inputs,))
        (drafter,) = drafters(model, PAGE, prepared, earlier[i]) if earlier else [None]
        joining.append(
            Row(
                model,
                inputs,
                params,
                on_text=lambda _delta, _tokens: None,
                on_done=lambda outcome, i=i: said.update({i: outcome}),
                cancel=threading.Event(),
                drafter=drafter,
            )
        )
    batch.join(joining)
    while batch.rows:
        batch.step()
    return [said[i] for i in range(len(rows))]


@pytest.mark.parametrize("params", [PLAIN, GUARDED], ids=["plain", "guarded"])
@pytest.mark.parametrize("make", [lighton, deepseek_window, got, qwen2_vl])
def test_drafts_change_no_words(make: Callable[[Path], Guests], params: DecodeParams, tmp_path: Path) -> None:
    model, rows = make(tmp_path / "model")
    rows = rows[:3]
    plain = read(model, rows, None, params)
    texts = [outcome.text for outcome in plain]
    drafted = 0
    for earlier in (texts, [text[: len(text) // 2] + " and more" for text in texts], texts[1:] + texts[:1]):
        found = read(model, rows, earlier, params)
        assert all(crowd.same_words(one, other) for one, other in zip(found, plain, strict=True))
        drafted += sum(outcome.drafted for outcome in found)
    assert drafted, "nothing was proposed, so nothing is shown"
