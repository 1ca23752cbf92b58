"""Drafts with the built-in model over twenty drawn pages: nothing that is said changes, and right words save passes."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from scripts import drafts
from scripts.drafting import pages

from ocr_mlx.pages.pool import PageProcesses

pytestmark = pytest.mark.slow
RIGHT = ("right", "right, two columns", "ligatures, hyphens", "lines shuffled", "columns read across")


@pytest.fixture(scope="module")
def tallies() -> Iterator[dict[str, drafts.Tally]]:
    with PageProcesses() as renderer:
        samples = list(drafts.drawn(20, random.Random(7), renderer))
    yield drafts.measure("builtin", samples)


def test_every_page_says_the_same(tallies: dict[str, drafts.Tally]) -> None:
    assert [name for tally in tallies.values() for name in tally.different] == []
    assert sum(tally.same for tally in tallies.values()) == 20


@pytest.mark.parametrize("kind", RIGHT)
def test_right_words_save_two_passes_of_three(tallies: dict[str, drafts.Tally], kind: str) -> None:
    assert tallies[kind].plain_steps >= 3 * tallies[kind].steps


@pytest.mark.parametrize("kind", ["another page's", "misplaced", "none"])
def test_wrong_words_cost_nothing(tallies: dict[str, drafts.Tally], kind: str) -> None:
    assert tallies[kind].steps <= tallies[kind].plain_steps
    assert tallies[kind].drafted <= 0.01 * tallies[kind].tokens


def test_the_pages_are_what_they_should_be() -> None:
    """What the evaluation stands on: the layer's words lie where they are printed, and are changed as told."""
    texts, rng = pages.paragraphs(), random.Random(1)
    assert len(texts) > 50
    with PageProcesses() as renderer:
        data = pages.draw_page(rng, texts)
        right, copied = pages.words(data, renderer), pages.words(pages.spoil(data, list, renderer), renderer)
        assert [word.text for word in copied] == [word.text for word in right]
        assert all(
            abs(a.box[0] - b.box[0]) < 12 and abs(a.box[3] - b.box[3]) < 12 for a, b in zip(right, copied, strict=True)
        )
        assert pages.words(pages.spoil(data, pages.nothing, renderer), renderer) == []
        fused = pages.words(pages.spoil(data, pages.ligatures, renderer), renderer)
        assert [word.text for word in fused] == [word.text for word in right]  # pdfium takes them apart itself
