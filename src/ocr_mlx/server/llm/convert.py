"""Between the wire and the engine's records."""

from __future__ import annotations

import re

from ocr_mlx.domain import DecodeOverrides, OcrRequest, Prompt
from ocr_mlx.engine.remote import reference
from ocr_mlx.errors import InvalidOption
from ocr_mlx.server.llm.schemas import LLMOCRRequest
from ocr_mlx.server.texts import source_of
from ocr_mlx.settings import Settings

_SPECIAL = re.compile(r"<end_of_utterance>|<start_of_utterance>|</s>|<s>|<pad>|<unk>|<eot>")
"""What some engines leave of their models' special tokens."""


def to_request(body: LLMOCRRequest, settings: Settings) -> OcrRequest:
    """The engine's request. Decodes a data URI, so call it off the event loop. Raises SourceError and InvalidOption."""
    return OcrRequest(
        source=source_of(body.filename),
        model=reference(_endpoint(body, settings), body.model),
        prompt=Prompt(text=body.prompt),
        overrides=DecodeOverrides(max_new_tokens=body.max_tokens, temperature=body.temperature),
        page_range=body.pages,
        password=body.password,
        credential=_key(body.api_key),
    )


def _endpoint(body: LLMOCRRequest, settings: Settings) -> str:
    """The engine that is named; else the one that the server reads with; else OpenAI, for who has a key."""
    if "endpoint_url" in body.model_fields_set:
        return body.endpoint_url
    if settings.model_source == "vllm":
        return settings.remote_endpoint
    if not body.api_key.strip():
        raise InvalidOption("No engine is named.", hint="Give its `endpoint_url`, or OpenAI's `api_key`.")
    return body.endpoint_url


def _key(text: str) -> str:
    key = text.strip()
    if not re.fullmatch(r"[\x21-\x7e]*", key):
        raise InvalidOption("`api_key` holds characters that no key has.", hint="Copy it again.")
    return key


def clean(text: str) -> str:
    """The text without special tokens."""
    return _SPECIAL.sub("", text).strip()
