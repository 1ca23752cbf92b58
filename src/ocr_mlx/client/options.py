"""The arguments that calls take by name. What is left out, the server decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict


class Common(TypedDict, total=False):
    """What all readings take.

    model       an alias (`builtin`, `deepseek`, ...), a hub id, or a folder of the server
    mode        one of the model's presets
    prompt      what to ask, for models that take a prompt
    pages       such as `1-3,7`; all when left out
    password    of a PDF
    max_tokens  most tokens per page
    """

    model: str | None
    mode: str | None
    prompt: str | None
    pages: str | None
    password: str | None
    max_tokens: int | None


class Decoding(Common, total=False):
    """What `read` and the chat surface take besides.

    temperature  0 takes the most probable token each time
    stop         strings that end a page's text, or one
    seed         makes sampling repeatable
    dpi          resolution for PDF pages
    keep_alive   seconds that the model stays in memory afterwards
    timeout      seconds that the server may read, from the moment the model is there
    fresh        read every page again, also one that was read before
    """

    temperature: float | None
    top_p: float | None
    top_k: int | None
    repetition_penalty: float | None
    stop: str | Sequence[str] | None
    seed: int | None
    dpi: float | None
    keep_alive: float | None
    timeout: float | None
    fresh: bool | None


class ReadOptions(Decoding, total=False):
    """What `read` and `follow` take. `padding` is white pixels on all sides; negative ones crop."""

    no_repeat_ngram: int | None
    padding: int | None


class ChatOptions(Decoding, total=False):
    """What `ask`, `stream` and `extract` take. `system` is an instruction beside the prompt."""

    system: str | None


class PageOptions(Common, total=False):
    """What `pages` takes. `dpi` is the resolution for PDF pages, 72 to 600."""

    dpi: int | None


class SubmitOptions(PageOptions, total=False):
    """What `submit` takes. `webhook_url` is told when the job ends."""

    webhook_url: str | None


def given(options: Mapping[str, Any], known: type[Any]) -> dict[str, Any]:
    """The options that say something. Raises TypeError for a name that is not known, as a function would."""
    unknown = sorted(set(options) - set(known.__annotations__))
    if unknown:
        raise TypeError(f"There is no option {', '.join(unknown)}. There are: {', '.join(known.__annotations__)}.")
    said = {name: value for name, value in options.items() if value is not None}
    return said | {"stop": [said["stop"]]} if isinstance(said.get("stop"), str) else said
