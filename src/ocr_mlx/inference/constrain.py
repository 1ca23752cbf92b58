"""Answers that must fit a JSON schema: which tokens may come next, as the `llguidance` library finds them.

The library is imported when a schema is first asked for, and never otherwise. What it makes of a model's tokenizer, which
takes up to a second, stays with the model.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from ocr_mlx.domain import DecodeParams
from ocr_mlx.errors import EngineError, InvalidOption
from ocr_mlx.model.base import Family, LoadedModel
from ocr_mlx.model.registry import families, family_of, is_folder_name

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MOST_CHARACTERS: Final = 256_000
"""A longer schema is refused."""
_OPTIONS: Final[dict[str, Any]] = {
    "item_separator": ",",
    "key_separator": ":",
    "lenient": False,
    "whitespace_flexible": True,
    "whitespace_pattern": r" |\n[ \t]{0,40}",  # without an end to them, a weak model fills its answer with blanks
}
"""How schemas are read, whatever a schema says itself: true JSON, and no keyword is passed over."""
_SCHEMAS_KEPT: Final = 8
_KEY: Final = "json_schema"
_REASON: Final = 200


class Constraint:
    """How far one row's answer has come in its schema."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    @property
    def complete(self) -> bool:
        """Whether the answer fits the schema and nothing can be added to it."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def allowed(self, size: int) -> NDArray[np.bool_]:
        """bool [size]: the tokens that may come next; the end tokens exactly where the answer fits as it is.

        Ids that the tokenizer does not have are never among them.
        """
        packed = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        known = np.unpackbits(packed, bitorder="little").astype(np.bool_)[:size]
        return np.pad(known, (0, size - len(known)))

    def take(self, token: int) -> bool:
        """Go on by this token; False where it may not come next, and for ever after."""
        return token >= 0 and self._matcher.consume_token(token)


class Constrainer:
    """A model's tokenizer as the library wants it, and the schemas that were last asked for. Safe in several threads."""

    def __init__(self, model: LoadedModel) -> None:
        tokenizer = model.processor.tokenizer
        ends = [token for token in sorted(model.processor.eos_token_ids) if tokenizer.id_to_token(token) is not None]
        known = _library().LLTokenizer(tokenizer.to_str(), eos_token=ends)
        self._matcher: Callable[[str], LLMatcher] = lru_cache(maxsize=_SCHEMAS_KEPT)(partial(_compile, known))

    def start(self, schema: str) -> Constraint:
        """The beginning of a new answer. Raises InvalidOption for a schema that nothing can be held to."""
        return Constraint(self._matcher(schema).deep_copy())


def check_schema(schema: object) -> None:
    """Raise InvalidOption, with the reason, for what is no JSON schema that an answer can be held to. Needs no model."""
    if not isinstance(schema, str):
        raise InvalidOption("json_schema must be the text of a JSON schema.")
    if len(schema) > MOST_CHARACTERS:
        raise InvalidOption(
            f"json_schema has {len(schema)} characters.", hint=f"At most {MOST_CHARACTERS} can be used; shorten it."
        )
    wrong, reasons = _library().LLMatcher.validate_grammar_with_warnings(_grammar(schema))
    if wrong:
        raise _unusable(reasons[0])


def check_name(name: str) -> None:
    """Raise InvalidOption where a model's name alone tells that no schema can be asked of it. Reads nothing.

    A folder is left for when it is opened: whether a caller may look into it is not known here.
    """
    family = family_of(name) if name and not is_folder_name(name) else None
    if family is not None:
        _check_family(family)


def check_model(model: LoadedModel, params: DecodeParams) -> None:
    """Raise InvalidOption where a schema is asked for that this model's answers cannot be held to."""
    if params.json_schema is not None:
        _check_family(model.family)
        constraint_for(model, params)


def constraint_for(model: LoadedModel, params: DecodeParams) -> Constraint | None:
    """A fresh constraint for one row, None where no schema is asked for. Raises InvalidOption for a useless schema."""
    if params.json_schema is None:
        return None
    constrainer: Constrainer = model.kept.get(_KEY) or model.kept.setdefault(_KEY, Constrainer(model))
    return constrainer.start(params.json_schema)


def _check_family(family: Family) -> None:
    if not family.general:
        able = sorted(alias for family in families() if family.general for alias in family.aliases)
        raise InvalidOption(
            "This model only reads pages; its answers cannot be held to JSON or to a JSON schema.",
            hint=f"Ask for free text, or use a model that answers questions: {', '.join(able)}.",
        )


def _library() -> Any:
    """The library; EngineError where it is not installed."""
    try:
        import llguidance
    except ImportError as error:
        raise EngineError(
            "Answers cannot be held to JSON here: the package llguidance is missing or does not work.",
            hint="Install it (pip install llguidance) and start again, or ask for free text.",
        ) from error
    return llguidance


def _compile(tokenizer: LLTokenizer, schema: str) -> LLMatcher:
    library = _library()
    # the library's own words about an answer would carry the document's text to the log
    limits = library.LLParserLimits(verbose_errors=False)
    matcher: LLMatcher = library.LLMatcher(tokenizer, _grammar(schema), log_level=0, limits=limits)
    trial = matcher.deep_copy()
    trial.compute_bitmask()
    if trial.is_error():
        raise _unusable(trial.get_error())
    return matcher


def _grammar(schema: str) -> str:
    try:
        grammar: str = _library().LLMatcher.grammar_from_json_schema(schema, overrides=_OPTIONS)
    except ValueError as error:
        raise _unusable(f"it is no JSON object ({error})") from error
    return grammar


def _unusable(reason: str) -> InvalidOption:
    lines = [line for line in reason.splitlines() if not line.startswith("<")]
    # its second sentence is advice for who calls the library
    first = " ".join(" ".join(lines).split()).partition(". ")[0]
    return InvalidOption(
        f"The JSON schema cannot be used: {first[:_REASON].rstrip('.')}.",
        hint="Correct or simplify it.",
    )
