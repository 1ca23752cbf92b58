"""The built-in model's own rows: drafts, company and real loops change no byte of what they should not."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ocr_mlx.domain import Page, Prompt
from ocr_mlx.inference import guard
from ocr_mlx.inference.batch import DecodeBatch
from ocr_mlx.inference.pipeline import prepare
from ocr_mlx.inference.stopping import Row, RowOutcome
from ocr_mlx.model.base import LoadedModel, ModelInputs
from ocr_mlx.model.families.nougat.strips import strip_planes
from ocr_mlx.model.hub import find
from ocr_mlx.model.load import load_model
from tests.unit.inference.test_verify import Scripted, guesses

PAGE = Path(__file__).parents[3] / "examples" / "page.png"


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(find("builtin", offline=True, cache_dir=None), dtype="float32")


@pytest.fixture(scope="module")
def lines(model: LoadedModel) -> tuple[ModelInputs, ...]:
    image = Image.open(PAGE).convert("RGB")
    page = Page(index=0, image=image, width=image.width, height=image.height, dpi=None, origin="image")
    return prepare(model, page, Prompt(), model.family.modes[model.family.default_mode]).rows


class Row1:
    """A row and the text as somebody has it who follows its deltas and rewinds."""

    def __init__(self, model: LoadedModel, inputs: ModelInputs, drafter: Scripted | None = None) -> None:
        self.told = ""
        self.row = Row(
            model,
            inputs,
            model.family.defaults,
            on_text=self._text,
            on_rewind=self._rewind,
            on_done=lambda outcome: None,
            cancel=threading.Event(),
            drafter=drafter,
        )

    def _text(self, delta: str, tokens: int) -> None:
        self.told += delta

    def _rewind(self, length: int) -> None:
        self.told = self.told[:length]

    @property
    def end(self) -> RowOutcome:
        assert self.row.outcome is not None and self.told == self.row.outcome.text
        return self.row.outcome


def read(
    model: LoadedModel,
    inputs: Sequence[ModelInputs],
    drafter: Callable[[int], Scripted | None] = lambda i: None,
    *,
    late: int = 0,
    width: int | None = None,
) -> list[RowOutcome]:
    """Decode rows together; each joins `late` steps behind the one before."""
    batch = DecodeBatch(model, width)
    rows = [Row1(model, one, drafter(i)) for i, one in enumerate(inputs)]
    for row in rows if late else ():
        batch.join([row.row])
        for _ in range(late):
            batch.step()
    if not late:
        batch.join([row.row for row in rows])
    while batch.rows:
        batch.step()
    assert batch.cache_bytes == 0
    return [row.end for row in rows]


def bytes_of(outcomes: Sequence[RowOutcome]) -> list[tuple[object, ...]]:
    return [(o.tokens, o.text, o.finish, o.recovered) for o in outcomes]


def test_drafts_right_and_wrong_change_nothing_but_the_passes(
    model: LoadedModel, lines: tuple[ModelInputs, ...]
) -> None:
    lines = lines[:5]
    wanted = read(model, lines)
    assert all(outcome.text for outcome in wanted)
    read(model, lines, lambda i: guesses(wanted[i].tokens, i, 1.0))  # measures the rounding
    for right in (1.0, 0.6):
        found = read(model, lines, lambda i, right=right: guesses(wanted[i].tokens, i, right), late=3)  # type: ignore[misc]
        assert bytes_of(found) == bytes_of(wanted)
        if right == 1.0:
            assert sum(o.decode_steps for o in found) < 0.6 * sum(o.decode_steps for o in wanted)


@pytest.mark.parametrize("width", [None, pytest.param(8, marks=pytest.mark.slow)])
def test_alone_and_in_a_crowd(model: LoadedModel, lines: tuple[ModelInputs, ...], width: int | None) -> None:
    some = lines[:4]
    alone = [read(model, [line], width=width)[0] for line in some]
    for late in (0, 4):
        crowd = read(model, some, late=late, width=width)
        assert bytes_of(crowd) == bytes_of(alone)
        assert width is None or [o.logprobs for o in crowd] == [o.logprobs for o in alone], "to the last bit"


def textures() -> list[ModelInputs]:
    """Strips of bars and dots, on which the model runs away; the first ones of them do."""
    draw = random.Random(7)
    y, x = np.mgrid[:24, :256]
    found = []
    for _ in range(6):
        step, thick, down = draw.randrange(3, 14), draw.randrange(1, 4), draw.randrange(2, 9)
        found.append((x % step < thick) & (y > 3) & (y < 21))
        found.append((x % step < 2) & (y % down < 2))
    ink = np.stack([np.where(one, 0, 255) for one in found]).astype(np.uint8)
    planes = strip_planes(ink).transpose(0, 2, 3, 1)
    return [ModelInputs(token_ids=(0,), pixels=np.ascontiguousarray(p), prompt_tokens=1) for p in planes]


def test_real_loops_are_taken_back_and_their_neighbours_keep_their_bytes(
    model: LoadedModel, lines: tuple[ModelInputs, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    strips, lines = textures(), lines[:3]
    wanted = read(model, lines)
    found = read(model, [*lines, *strips])
    assert bytes_of(found[: len(lines)]) == bytes_of(wanted)
    loops = found[len(lines) :]
    monkeypatch.setattr(guard, "loop_start", lambda tokens, **_: None)
    runaway = read(model, strips)
    touched = [(new, old) for new, old in zip(loops, runaway, strict=True) if new.tokens != old.tokens]
    assert len(touched) >= 3 and sum(new.recovered for new, _ in touched) >= 2
    for new, old in touched:
        assert old.finish.value == "length", "only rows that had run to their limit were touched"
        assert new.recovered or (new.finish.value == "loop" and new.tokens == old.tokens[: len(new.tokens)])
    assert not [1 for new, old in zip(loops, runaway, strict=True) if new.recovered and old.finish.value != "length"]
