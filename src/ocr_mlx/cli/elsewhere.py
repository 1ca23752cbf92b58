"""What can be told of engines on other machines: which models they serve, and how those are asked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ocr_mlx.cli.listing import modes, wrapped
from ocr_mlx.cli.models import family_record
from ocr_mlx.engine.remote import PREFIX, RemoteModel, parse, reference
from ocr_mlx.errors import RemoteFailed
from ocr_mlx.settings import Settings

if TYPE_CHECKING:
    from ocr_mlx.model.base import Family

WAIT: Final = 3.0
"""Seconds that an engine has to answer."""
_MOST: Final = 1 << 20
_UNKNOWN: Final = "none that is known here: it is asked to write down the page, or what --prompt says"


@dataclass(frozen=True, kw_only=True, slots=True)
class Elsewhere:
    """An engine that was asked for its models, and the one that was named, empty where none was.

    `models` is None where the engine does not tell, for the reason `problem`.
    """

    engine: RemoteModel
    model: str
    family: Family | None
    models: tuple[str, ...] | None
    problem: str = ""

    def record(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "engine": self.engine.base,
            "models": None if self.models is None else [self.engine.named(one) for one in self.models],
            "problem": self.problem or None,
            "model": self.model or None,
            "family": family_record(self.family) if self.family is not None else None,
        }


def elsewhere(name: str, settings: Settings) -> Elsewhere:
    """Ask the engine of `openai+http://host:port/v1#model`, or of its address alone, for its models.

    Raises InvalidOption for an address that is none, and RemoteFailed where no model is named and the engine tells none.
    """
    address, _, model = name[len(PREFIX) :].partition("#")
    engine = parse(reference(address, model.strip() or "any"))
    family = _family(model.strip())
    try:
        models = served(engine, settings.remote_options().key_for(engine))
    except RemoteFailed as error:
        if not model.strip():
            raise
        return Elsewhere(engine=engine, model=model.strip(), family=family, models=None, problem=str(error))
    return Elsewhere(engine=engine, model=model.strip(), family=family, models=models)


def served(engine: RemoteModel, key: str) -> tuple[str, ...]:
    """The names of the models that an engine lists. Raises RemoteFailed."""
    import httpx

    from ocr_mlx.engine.remote_connect import ssl_context, unreached

    headers = {"Authorization": f"Bearer {key}"} if key else {}
    data = bytearray()
    try:
        with (
            httpx.Client(verify=ssl_context(), trust_env=False, timeout=WAIT) as client,
            client.stream("GET", engine.models, headers=headers) as answer,
        ):
            for piece in answer.iter_raw():
                data += piece
                if len(data) > _MOST:
                    break
    except httpx.HTTPError as error:
        raise unreached(error) from error
    if answer.status_code != 200:
        advice = "Give its key as OCR_MLX_REMOTE_KEY, and its address as OCR_MLX_REMOTE_ENDPOINT."
        hint = advice if answer.status_code in (401, 403) else "Check that its address ends in /v1 as the engine says."
        raise RemoteFailed(f"The remote engine answers with status {answer.status_code}.", hint=hint)
    return _names(bytes(data))


def lines(found: Elsewhere) -> list[str]:
    """What `ocr_mlx models` prints of it."""
    engine = found.engine
    if not found.model:
        names = [f"  {engine.named(one)}" for one in found.models or ()] or ["  no model"]
        return [f"{engine.base} serves:", *names, "", "`ocr_mlx read FILE --model NAME` reads with one of them."]
    facts = {
        "engine": f"{engine.base}, {_standing(found)}",
        "family": found.family.name if found.family is not None else _UNKNOWN,
        "--model": engine.named(found.model),
    }
    told = [line for name, fact in facts.items() for line in wrapped(fact, " " * 13, first=f"  {name:<11}")]
    return [found.model, *told, *(["", *modes(found.family)] if found.family is not None else [])]


def _standing(found: Elsewhere) -> str:
    if found.models is None:
        return f"which does not tell its models: {found.problem}"
    if found.model in found.models:
        return "which serves it"
    others = ", ".join(found.models) or "no model"
    return f"which does not list it, but {others}"


def _family(model: str) -> Family | None:
    from ocr_mlx.model.registry import family_of, is_folder_name

    return None if not model or is_folder_name(model) else family_of(model)


def _names(data: bytes) -> tuple[str, ...]:
    try:
        found = [str(one["id"]) for one in json.loads(data)["data"]]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise RemoteFailed(
            "The remote engine's answer is no list of models.",
            hint="Check that its address ends in /v1 as the engine says.",
        ) from error
    return tuple(name for name in found if name.isprintable())
