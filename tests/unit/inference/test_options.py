from __future__ import annotations

from typing import Any

import pytest

from ocr_mlx.domain import DecodeOverrides
from ocr_mlx.errors import InvalidOption
from ocr_mlx.inference.options import check


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_new_tokens": 1, "temperature": 0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.2, "seed": 2**63 - 1},
        {"seed": None, "stop": ("END",), "repetition_window": 1, "no_repeat_ngram": 0},
        {"ngram_window": 0, "ngram_whitelist": (5, 0)},
    ],
)
def test_what_makes_sense_passes(options: dict[str, Any]) -> None:
    check(DecodeOverrides(**options))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0),
        ("max_new_tokens", 2.5),
        ("max_new_tokens", True),
        ("temperature", -0.1),
        ("temperature", "hot"),
        ("temperature", float("nan")),
        ("top_p", 1.1),
        ("top_k", -1),
        ("repetition_penalty", 0),
        ("repetition_window", 0),
        ("no_repeat_ngram", -1),
        ("ngram_window", -1),
        ("ngram_whitelist", 3),
        ("ngram_whitelist", (-1,)),
        ("seed", -1),
        ("seed", 2**65),
        ("stop", "page"),
        ("stop", ("",)),
    ],
)
def test_what_does_not_is_named(name: str, value: object) -> None:
    with pytest.raises(InvalidOption, match=name):
        check(DecodeOverrides(**{name: value}))  # type: ignore[arg-type]
