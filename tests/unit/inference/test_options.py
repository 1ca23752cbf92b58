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
        ("temperature", 10**400),
        ("temperature", -(10**400)),
        ("top_p", 10**400),
        ("repetition_penalty", 10**400),
        ("max_new_tokens", 10**400),
        ("top_k", 10**400),
        ("repetition_window", 2**63),
        ("stop", "page"),
        ("stop", ("",)),
    ],
)
def test_what_does_not_is_named(name: str, value: object) -> None:
    with pytest.raises(InvalidOption, match=name) as caught:
        check(DecodeOverrides(**{name: value}))  # type: ignore[arg-type]
    assert len(str(caught.value)) < 200


def test_a_number_too_long_to_be_written_is_refused_too() -> None:
    for value in (10**5000, -(10**5000)):
        with pytest.raises(InvalidOption, match="temperature"):
            check(DecodeOverrides(temperature=value))
