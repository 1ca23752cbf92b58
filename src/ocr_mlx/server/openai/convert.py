"""From the wire to what the engine is asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ocr_mlx.domain import ANY_JSON_OBJECT, UNSET, DecodeOverrides, OcrRequest, Prompt
from ocr_mlx.errors import InvalidOption
from ocr_mlx.server.choice import ModelChoice
from ocr_mlx.server.openai.content import Asked, Document, asked
from ocr_mlx.server.openai.problems import Refused
from ocr_mlx.server.openai.schemas import Asking, ChatRequest, JsonSchema, Message, ResponsesRequest

SERVICE: Final = "nuno"
_SEEDS: Final = 2**63
_UNSUPPORTED: Final = "unsupported_parameter"
_REFUSALS: Final[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    "n": (lambda value: value > 1, "One page has one text: `n` can only be 1."),
    "tools": (bool, "The models here call no tools."),
    "functions": (bool, "The models here call no functions."),
    "logprobs": (bool, "Tokens' probabilities are not told; `ocr.confidence` is the mean."),
    "top_logprobs": (bool, "Tokens' probabilities are not told; `ocr.confidence` is the mean."),
    "modalities": (lambda value: set(value) - {"text"} != set(), "Only text comes out."),
    "audio": (bool, "Only text comes out."),
    "frequency_penalty": (bool, "There is no `frequency_penalty` here; `repetition_penalty` is similar."),
    "presence_penalty": (bool, "There is no `presence_penalty` here; `repetition_penalty` is similar."),
    "logit_bias": (bool, "Tokens cannot be favoured here."),
    "web_search_options": (lambda _value: True, "Nothing is searched for here."),
    "previous_response_id": (bool, "Responses are not kept: send the documents again."),
    "conversation": (bool, "Conversations are not kept: send the documents again."),
    "background": (bool, "Responses do not run in the background; `POST /ocr` with a file makes a job."),
    "prompt": (bool, "Prompt templates are not kept here: send the words themselves."),
}
"""What would change the answer and cannot be had: field -> (whether a value asks for it, what to say)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """One request, understood. `is_json`: the answer is the model's own words, which a grammar has made JSON."""

    model: str
    asked: Asked = field(repr=False)
    overrides: DecodeOverrides
    is_json: bool
    mode: str
    page_range: str
    password: str | None = field(repr=False)
    dpi: float | None
    keep_alive: float | None
    timeout: float | None
    fresh: bool

    @property
    def documents(self) -> tuple[Document, ...]:
        """What to read, in order."""
        return self.asked.documents

    @property
    def verbatim(self) -> bool:
        """Whether nobody changes the model's words, so that they can be told as they come."""
        return self.is_json or self.mode == "raw"

    def where(self, number: int) -> str:
        """Which document is meant, for messages, where there are several."""
        return f"Document {number + 1} of {len(self.documents)}: " if len(self.documents) > 1 else ""

    def request(self, number: int, models: ModelChoice) -> OcrRequest:
        """The engine's request for one document. Decodes data URIs, so call it off the event loop.

        Raises SourceError and UnknownModel.
        """
        return OcrRequest(
            source=self.documents[number].source(),
            model=models.pick(self.model, SERVICE),
            prompt=Prompt(text=self.asked.text, system=self.asked.system, mode=self.mode),
            overrides=self.overrides,
            page_range=self.page_range,
            dpi=self.dpi,
            password=self.password,
            keep_alive=self.keep_alive,
            timeout=self.timeout,
            fresh=self.fresh,
        )


def chat(body: ChatRequest) -> Ask:
    """Raises Refused for what cannot be had, SourceError and InvalidOption for what makes no sense."""
    form = body.response_format
    schema = _schema(form.type, form.json_schema, "response_format.json_schema.schema") if form else None
    limit = body.max_completion_tokens or body.max_tokens
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    return _ask(body, asked(body.messages), schema=schema, limit=limit, stop=stop)


def response(body: ResponsesRequest) -> Ask:
    """Raises Refused for what cannot be had, SourceError and InvalidOption for what makes no sense."""
    form = body.text.format if body.text else None
    schema = _schema(form.type, form, "text.format.schema") if form else None
    said = [Message(role="user", content=body.input)] if isinstance(body.input, str) else body.input
    return _ask(body, asked(said, body.instructions or ""), schema=schema, limit=body.max_output_tokens, stop=())


def _ask(body: Asking, said: Asked, *, schema: str | None, limit: int | None, stop: tuple[str, ...]) -> Ask:
    _refuse(body)
    limit = limit or body.max_new_tokens
    overrides = DecodeOverrides(
        max_new_tokens=UNSET if limit is None else limit,
        temperature=0.0 if body.do_sample is False else UNSET if body.temperature is None else body.temperature,
        top_p=UNSET if body.top_p is None else body.top_p,
        top_k=UNSET if body.top_k is None else body.top_k,
        repetition_penalty=UNSET if body.repetition_penalty is None else body.repetition_penalty,
        no_repeat_ngram=UNSET if body.no_repeat_ngram_size is None else body.no_repeat_ngram_size,
        stop=stop or UNSET,
        seed=UNSET if body.seed is None else body.seed % _SEEDS,
        json_schema=schema or UNSET,
    )
    return Ask(
        model=body.model,
        asked=said,
        overrides=overrides,
        is_json=schema is not None,
        mode=body.mode or "",
        page_range=body.pages or "",
        password=body.password,
        dpi=body.dpi,
        keep_alive=body.keep_alive,
        timeout=body.timeout,
        fresh=bool(body.fresh),
    )


def _refuse(body: Asking) -> None:
    for name, (asks, why) in _REFUSALS.items():
        value = getattr(body, name, None)
        if value is not None and asks(value):
            raise Refused(400, why, code=_UNSUPPORTED, param=name)


def _schema(kind: str, given: JsonSchema | None, param: str) -> str | None:
    """The JSON schema as text, None for plain text."""
    if kind == "text":
        return None
    if kind == "json_object":
        return ANY_JSON_OBJECT
    if given is None or given.schema_ is None:
        raise Refused(400, f"`{param}` is missing.", code=InvalidOption.code, param=param)
    return json.dumps(given.schema_)
