from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers

from ocr_mlx.errors import CheckpointIncomplete
from ocr_mlx.model.tokenizer import eos_ids, read_tokenizer, spelled, token_id, unbroken


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "<image>": 2}, unk_token="a"))
    tokenizer.add_special_tokens([AddedToken("<end>", special=True)])
    tokenizer.enable_truncation(1)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_a_tokenizer_is_read_without_its_truncation(folder: Path) -> None:
    tokenizer = read_tokenizer(folder, {"<end>": 3}, vocabulary=4)
    assert tokenizer.truncation is None
    assert token_id(tokenizer, "<end>") == 3
    with pytest.raises(KeyError):
        token_id(tokenizer, "<nowhere>")


@pytest.mark.parametrize(
    ("special", "vocabulary", "message"),
    [
        ({"<end>": None, "<box>": None, "<ref>": 5}, None, "lacks the special tokens <box>, <ref>"),
        ({"<image>": 2}, None, "lacks the special tokens <image>"),
        ({"<end>": 4}, None, "has <end> at 3, the model expects it at 4"),
        ({}, 5, "has 4 ids, the model 5"),
    ],
)
def test_a_wrong_tokenizer_is_refused(
    folder: Path, special: dict[str, int | None], vocabulary: int | None, message: str
) -> None:
    with pytest.raises(CheckpointIncomplete, match=message):
        read_tokenizer(folder, special, vocabulary=vocabulary)


def test_a_missing_or_damaged_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointIncomplete, match="is missing"):
        read_tokenizer(tmp_path, {})
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointIncomplete, match="is no tokenizer"):
        read_tokenizer(tmp_path, {})


@pytest.mark.parametrize(
    ("generation", "config", "ids"),
    [
        ({"eos_token_id": [4, 5]}, {"eos_token_id": 1}, {4, 5}),
        ({"eos_token_id": None}, {"eos_token_id": 1}, {1}),
        (None, {"text_config": {"eos_token_id": 2}}, {2}),
        (None, {"text_config": None}, {9}),
        ({}, {"eos_token_id": []}, {9}),
    ],
)
def test_end_tokens_come_from_the_first_file_that_names_them(
    tmp_path: Path, generation: object, config: dict[str, object], ids: set[int]
) -> None:
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert eos_ids(tmp_path, config, (9,)) == ids


def test_rules_that_never_end_are_an_error_and_not_the_end_of_a_thread(folder: Path) -> None:
    """The library gives up by what is no Exception; it says so on standard error too."""
    tokenizer = read_tokenizer(folder, {})
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(x+x+)+y"), behavior="isolated")
    with pytest.raises(CheckpointIncomplete, match="rules that cannot be followed"):
        spelled(tokenizer, "x" * 100)


def test_only_the_librarys_own_giving_up_becomes_an_error() -> None:
    with pytest.raises(KeyboardInterrupt), unbroken():
        raise KeyboardInterrupt
    with pytest.raises(ZeroDivisionError), unbroken():
        raise ZeroDivisionError
