"""Prompts, their ids, and the modes that name them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from ocr_mlx.domain import DecodeOverrides, DecodeParams, Prompt, resolve
from ocr_mlx.errors import InvalidOption
from ocr_mlx.inference.sampling import repeated_ngram_ends
from ocr_mlx.inference.text import TextStream
from ocr_mlx.model.families.deepseek_ocr import tokens
from ocr_mlx.model.families.deepseek_ocr.family import FAMILY
from ocr_mlx.model.families.deepseek_ocr.modes import TASKS, Reading
from ocr_mlx.model.families.deepseek_ocr.prompts import Question, question
from tests.families import deepseek_pages, deepseek_words

GOLDEN: dict[str, list[int]] = json.loads((Path(__file__).parent / "golden" / "pages-prompts.json").read_text())
IMAGE = deepseek_pages.IMAGE_TOKEN
SPECIAL = {name: IMAGE + index for index, name in enumerate(deepseek_words.LAST)}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("words")
    (folder / "config.json").write_text(json.dumps({"image_token_id": IMAGE}))
    deepseek_words.write_tokenizer(folder)
    return tokens.read(folder, IMAGE)


def asked(text: str = "", mode: str = "document", system: str = "") -> Question:
    """The question that comes of the user's words."""
    return question(Prompt(text=text, mode=mode, system=system), FAMILY.modes[mode])


@pytest.mark.parametrize("name", deepseek_pages.PROMPTS)
def test_whole_prompts_have_upstreams_ids(name: str, tokenizer: Tokenizer) -> None:
    found = asked(deepseek_pages.PROMPTS[name]).ids(tokenizer, IMAGE, 3)
    assert list(found) == GOLDEN[name]


@pytest.mark.parametrize("task", [task for task in TASKS if task != "locate"])
def test_tasks_have_upstreams_ids(task: str, tokenizer: Tokenizer) -> None:
    assert list(asked(mode=task).ids(tokenizer, IMAGE, 3)) == GOLDEN[task]


def test_locate_takes_the_users_words(tokenizer: Tokenizer) -> None:
    assert list(asked(" the <td> cell\n", "locate").ids(tokenizer, IMAGE, 3)) == GOLDEN["locate"]
    assert asked(deepseek_pages.PROMPTS["locate"], "locate-small") == asked("the <td> cell", "locate")


def test_locate_needs_words() -> None:
    with pytest.raises(InvalidOption, match="'locate-base' needs to be told"):
        asked("  ", "locate-base")


def test_special_tokens_in_prompts_have_their_ids(tokenizer: Tokenizer) -> None:
    ids = asked("<|grounding|>x<|ref|>y<|/ref|>").ids(tokenizer, IMAGE, 1)
    assert [id_ for id_ in ids if id_ >= IMAGE] == [
        SPECIAL[name] for name in ("<image>", "<|grounding|>", "<|ref|>", "<|/ref|>")
    ]
    assert ids[0] == 0


def test_a_free_prompt_gets_the_picture_in_front() -> None:
    assert asked(" How many tables? ") == Question(before="", after="\nHow many tables?", reading=Reading.ANY)


def test_the_picture_may_stand_anywhere() -> None:
    assert asked("Look: <image>!") == Question(before="Look: ", after="!", reading=Reading.ANY)


def test_one_picture_only() -> None:
    with pytest.raises(InvalidOption, match="more than one <image>"):
        asked("<image><image>")


def test_a_system_prompt_has_no_place() -> None:
    assert asked(system="You are a pirate.") == asked()


def test_parts_are_encoded_apart() -> None:
    """A tokenizer that merges across the picture, were the text encoded as one, does not get to."""

    class Joining:
        def __init__(self) -> None:
            self.seen: list[str] = []

        def encode(self, text: str, add_special_tokens: bool) -> Any:
            assert not add_special_tokens
            self.seen.append(text)
            return type("Encoding", (), {"ids": [len(text)]})()

    joining: Any = Joining()
    assert asked("ab<image>cde").ids(joining, 9, 2) == (0, 2, 9, 9, 3)
    assert joining.seen == ["ab", "cde"]


def test_modes_are_tasks_sizes_and_both() -> None:
    sizes = ("gundam", "tiny", "small", "base", "large")
    names = {*TASKS, *sizes, *(f"{task}-{size}" for task in TASKS for size in sizes)}
    assert set(FAMILY.modes) == names
    assert FAMILY.default_mode == "document"
    for name, mode in FAMILY.modes.items():
        assert mode.name == name and mode.description and "<image>" in mode.prompt
    assert FAMILY.modes["small"].prompt == FAMILY.modes["document"].prompt
    assert FAMILY.modes["free"].options["size"] == "gundam"
    assert FAMILY.modes["free-tiny"].options["size"] == "tiny"
    assert len({mode.description for mode in FAMILY.modes.values()}) == len(TASKS) * len(sizes)


def test_decode_defaults_are_upstreams() -> None:
    assert FAMILY.defaults == DecodeParams(
        max_new_tokens=8192, temperature=0.0, no_repeat_ngram=30, ngram_window=90, ngram_whitelist=(128821, 128822)
    )
    at = tokens.special_ids(128815)
    assert FAMILY.defaults.ngram_whitelist == (at["<td>"], at["</td>"])
    parse = resolve(FAMILY.defaults, FAMILY.modes["parse"].overrides)
    assert (parse.no_repeat_ngram, parse.ngram_window, parse.ngram_whitelist) == (35, 128, ())
    mine = resolve(FAMILY.defaults, FAMILY.modes["ocr"].overrides, DecodeOverrides(no_repeat_ngram=0))
    assert mine.no_repeat_ngram == 0 and mine.ngram_window == 90


def test_the_guard_bans_what_upstream_bans() -> None:
    """A row of 29 tokens may come again only when it began more than 90 tokens ago."""
    row = list(range(100, 130))
    near, far = [*row, *range(20), *row[:29]], [*row, *range(62), *row[:29]]
    assert repeated_ngram_ends(near, 30, 90) == [129]
    assert repeated_ngram_ends(far, 30, 90) == []
    assert repeated_ngram_ends(far, 30) == [129]


def test_published_ids() -> None:
    at = tokens.special_ids(128815)
    assert [at[name] for name in ("<image>", "<|ref|>", "<|/ref|>", "<|det|>", "<|/det|>", "<|grounding|>")] == [
        *range(128815, 128821)
    ]
    assert [at[name] for name in ("<td>", "</td>", "<tr>", "</tr>")] == [*range(128821, 128825)]
    assert at["<｜begin▁of▁sentence｜>"] == 0 and at["<｜end▁of▁sentence｜>"] == 1


@pytest.mark.parametrize("name", ("deepseek-ai__DeepSeek-OCR", "deepseek-ai__DeepSeek-OCR-2"))
def test_published_tokenizers_have_these_ids(model_facts: Path, name: str) -> None:
    said = json.loads((model_facts / "configs" / name / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    for token, id_ in tokens.special_ids(128815).items():
        assert said[str(id_)]["content"] == token


def test_tags_stay_in_the_text_and_other_special_tokens_go(tokenizer: Tokenizer) -> None:
    said = "<|ref|>table<|/ref|><|det|>[[1, 2, 3, 4]]<|/det|>\n<table><tr><td>a</td></tr></table>"
    ids = [*tokenizer.encode(said, add_special_tokens=False).ids]
    extra = [0, *ids, SPECIAL["<|grounding|>"], SPECIAL["<image>"], SPECIAL["<|User|>"], 2, 1]
    assert tokenizer.decode(extra, skip_special_tokens=True) == said
    stream = TextStream(tokenizer)
    assert "".join(stream.add(id_) for id_ in extra) + stream.finish(extra) == said


def test_reading_the_tokenizer_changes_no_id(tokenizer: Tokenizer) -> None:
    plain = deepseek_words.tokenizer(IMAGE)
    assert plain.get_vocab() == tokenizer.get_vocab()
    for text in ("a<td>b</td> <|ref|>c", "<｜end▁of▁sentence｜>x", "\n\nthe OCR", "ü 漢 <|User|>"):
        assert plain.encode(text, add_special_tokens=False).ids == tokenizer.encode(text, add_special_tokens=False).ids
