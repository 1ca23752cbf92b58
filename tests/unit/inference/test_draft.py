from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ocr_mlx.domain import DecodeParams, Page, PageResult, PageStatus, Prompt, Word
from ocr_mlx.inference.batch import DecodeBatch
from ocr_mlx.inference.draft import drafters
from ocr_mlx.inference.pipeline import PageRun, prepare
from ocr_mlx.model.base import LoadedModel, PreparedPage
from tests.unit.fakes import fake_model, ids, never, page

SAID = [
    "The words of a page are often known before anybody looks at it, since the file carries them along.",
    "They are only suggestions: the model reads what is printed, and it has the last word on each of them.",
]
PARAMS = DecodeParams()
Change = Callable[[str], str]


def words_of(*lines: str) -> tuple[Word, ...]:
    return tuple(
        Word(text=word, box=(10.0 * i, 20.0 * number, 10.0 * i + 8, 20.0 * number + 12))
        for number, line in enumerate(lines)
        for i, word in enumerate(line.split())
    )


def layered(*lines: str) -> Page:
    return replace(page(0, 0), text_layer=words_of(*lines))


def read(
    picture: Page,
    params: DecodeParams = PARAMS,
    *,
    drafts: bool = True,
    earlier: str = "",
    model: LoadedModel | None = None,
) -> PageResult:
    """The page that says SAID, each line in a row that looks at it alone."""
    model = model or fake_model([[ids(line) for line in SAID]])
    mode = model.family.modes["plain"]
    prepared = replace(prepare(model, picture, Prompt(), mode), boxes=((0, 0, 500, 14), (0, 19, 500, 34)))
    run = PageRun(model, picture, prepared, mode, on_text=lambda delta: None, on_done=lambda: None)
    batch = DecodeBatch(model)
    batch.join(run.rows(params, never(), drafts=drafts, earlier=earlier))
    while batch.rows:
        batch.step()
    return run.result()


def read_twice(picture: Page, earlier: str = "") -> PageResult:
    """The second reading: in the first, a model is also measured."""
    model = fake_model([[ids(line) for line in SAID]])
    return [read(picture, earlier=earlier, model=model) for _ in range(2)][1]


def plainly(result: PageResult) -> PageResult:
    """The result as if nothing had been drafted."""
    return replace(result, seconds=0.0, decode_steps=0, drafted=0, accepted=0)


@pytest.mark.parametrize(
    "layer",
    [
        SAID,
        SAID[::-1],
        [line.upper() for line in SAID],
        [line.replace("e", "") for line in SAID],
        ["nothing", "of this"],
        ["\ud83d\ude00", "()"],
    ],
    ids=["right", "exchanged", "capitals", "no e", "wrong", "no letters"],
)
@pytest.mark.parametrize("params", [PARAMS, DecodeParams(max_new_tokens=37), DecodeParams(stop=("reads",))])
def test_a_draft_changes_nothing_that_is_said(layer: list[str], params: DecodeParams) -> None:
    assert plainly(read(layered(*layer), params)) == plainly(read(layered(*layer), params, drafts=False))


def test_a_pages_own_words_save_passes() -> None:
    result = read_twice(layered(*SAID))
    assert result.status is PageStatus.OK
    assert result.raw_text == "\n".join(SAID)
    assert result.decode_steps < result.generated_tokens / 3
    assert result.drafted >= result.accepted > result.generated_tokens / 2
    plain = read(layered(*SAID), drafts=False)
    assert (plain.decode_steps, plain.drafted, plain.accepted) == (plain.generated_tokens, 0, 0)


def test_what_was_once_read_saves_passes_and_goes_before_the_files_words() -> None:
    result = read_twice(layered("quite", "wrong"), earlier="\n".join(SAID))
    assert result.raw_text == "\n".join(SAID)
    assert result.decode_steps < result.generated_tokens / 3


def test_an_earlier_text_that_does_not_fit_leaves_the_files_words() -> None:
    result = read_twice(layered(*SAID), earlier="one line alone")
    assert result.decode_steps < result.generated_tokens / 3


def test_nothing_is_drafted_where_tokens_are_drawn() -> None:
    assert read(layered(*SAID), DecodeParams(temperature=0.5, seed=1)).drafted == 0


def test_pages_without_words_have_no_drafters() -> None:
    model = fake_model([[ids("a"), ids("b")]])
    prepared = prepare(model, page(0, 0), Prompt(), model.family.modes["plain"])
    assert drafters(model, page(0, 0), prepared) == [None, None]
    assert drafters(model, page(0, 0), prepared, "") == [None, None]
    assert drafters(model, layered("(", "-"), prepared) == [None, None]
    assert drafters(model, layered(*SAID), PreparedPage(rows=(), glue=())) == []


def test_a_row_that_sees_no_word_has_no_drafter() -> None:
    model = fake_model([[ids("a"), ids("b")]])
    prepared = prepare(model, page(0, 0), Prompt(), model.family.modes["plain"])
    prepared = replace(prepared, boxes=((0, 0, 500, 14), (0, 100, 500, 114)))
    first, second = drafters(model, layered(*SAID), prepared)
    assert first is not None
    assert second is None
