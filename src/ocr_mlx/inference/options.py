"""Whether decode options make sense, told before any work is done."""

from __future__ import annotations

import math
from dataclasses import fields

from ocr_mlx.domain import UNSET, DecodeOverrides
from ocr_mlx.errors import InvalidOption
from ocr_mlx.inference.constrain import check_name, check_schema

_MOST = 2**63 - 1
_WHOLE = {
    "max_new_tokens": (1, _MOST),
    "top_k": (0, _MOST),
    "repetition_window": (1, _MOST),
    "no_repeat_ngram": (0, _MOST),
    "ngram_window": (0, _MOST),
    "seed": (0, _MOST),
}
_MAY_BE_NONE = ("seed", "json_schema")
_REAL = {"temperature": (0.0, None), "top_p": (0.0, 1.0), "repetition_penalty": (1e-3, None)}


def check(overrides: DecodeOverrides, model: str = "") -> None:
    """Raise InvalidOption, which names the option and what it may be, for the first value that cannot be.

    `model` is the name that is asked for: where it tells the family, so is refused what only other families do.
    """
    for name in (field.name for field in fields(DecodeOverrides)):
        value = getattr(overrides, name)
        if value is UNSET or (name in _MAY_BE_NONE and value is None):
            continue
        if name == "json_schema":
            check_schema(value)
            check_name(model)
        elif name == "stop":
            _check_stop(value)
        elif name == "ngram_whitelist":
            _check_ids(value)
        else:
            _check_number(name, value)


def _check_number(name: str, value: object) -> None:
    least, most = _WHOLE.get(name) or _REAL[name]
    kinds = int if name in _WHOLE else (int, float)
    right = isinstance(value, kinds) and not isinstance(value, bool) and _is_finite(value)
    if not right or value < least or (most is not None and value > most):  # type: ignore[operator]
        what = "a whole number" if name in _WHOLE else "a number"
        limits = f"from {least} to {most}" if most is not None else f"of {least} or more"
        raise InvalidOption(f"{name} cannot be {_shown(value)}.", hint=f"It is {what} {limits}.")


def _is_finite(value: float) -> bool:
    """Whether a number is finite and within what a float holds, which whole numbers need not be."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _shown(value: object) -> str:
    return "a number of that size" if isinstance(value, int) and value.bit_length() > 64 else repr(value)


def _check_stop(value: object) -> None:
    if not isinstance(value, tuple | list) or not all(isinstance(text, str) and text for text in value):
        raise InvalidOption("stop must be a list of strings, none of them empty.")


def _check_ids(value: object) -> None:
    if not isinstance(value, tuple | list) or not all(isinstance(token, int) and token >= 0 for token in value):
        raise InvalidOption("ngram_whitelist must be a list of token ids.")
