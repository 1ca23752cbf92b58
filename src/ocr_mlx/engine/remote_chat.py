"""Chat completions as OpenAI-style engines speak them: what is asked, and what the answers mean. No network here."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ocr_mlx.domain import ANY_JSON_OBJECT, UNSET, DecodeOverrides, DecodeParams, Finish
from ocr_mlx.errors import InvalidOption, RemoteFailed
from ocr_mlx.inference.guard import CHECK_EVERY, loop_start

FORMS: tuple[Mapping[str, Any], ...] = (
    {"stream": True, "stream_options": {"include_usage": True}},
    {"stream": True},
    {},
)
"""How an answer is asked for, best first: some engines know no `stream_options`, some do not stream."""
_FINISH = {
    **dict.fromkeys(("stop", "eos", "eos_token", "stop_sequence", "end_turn"), Finish.EOS),
    **dict.fromkeys(("length", "max_tokens", "model_length"), Finish.LENGTH),
}
"""OpenAI's two words for the ends that leave text, and what other engines say instead."""
_EXTRAS = {"top_k": "top_k", "repetition_penalty": "repetition_penalty", "no_repeat_ngram": "no_repeat_ngram_size"}
"""Options beyond OpenAI's own, as other engines name them. Sent only where the request itself has them."""
_LOCAL = ("repetition_window", "ngram_window", "ngram_whitelist")
_MOST_TEXT = 1 << 22
_MOST_SHOWN = 200


def body(
    model: str, picture: str, prompt: str, system: str, params: DecodeParams, said: DecodeOverrides
) -> dict[str, Any]:
    """The request's JSON. `picture` is a data URI; `params` are resolved, `said` is what the caller asked for himself."""
    content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": picture}}]
    if prompt:
        content.append({"type": "text", "text": prompt})
    messages = [{"role": "system", "content": system}] if system else []
    return {
        "model": model,
        "messages": [*messages, {"role": "user", "content": content}],
        "max_tokens": params.max_new_tokens,
        "temperature": params.temperature,
        **_options(params, said),
    }


def check_options(said: DecodeOverrides) -> None:
    """Raise InvalidOption for an option that no such engine takes."""
    for name in _LOCAL:
        if getattr(said, name) is not UNSET:
            raise InvalidOption(f"{name} cannot be asked of a remote engine.", hint="Leave it out.")


def _options(params: DecodeParams, said: DecodeOverrides) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if params.temperature > 0 and 0 < params.top_p < 1:
        found["top_p"] = params.top_p
    if params.stop:
        found["stop"] = list(params.stop)
    if params.seed is not None:
        found["seed"] = params.seed
    if params.json_schema is not None:
        found["response_format"] = _format(params.json_schema)
    off = DecodeParams()
    for name, field in _EXTRAS.items():
        value = getattr(said, name)
        if value is not UNSET and value != getattr(off, name):
            found[field] = value
    return found


def _format(schema: str) -> dict[str, Any]:
    if schema == ANY_JSON_OBJECT:
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": json.loads(schema), "strict": True}}


class Answer:
    """What an engine has said about a page so far. `finish` is None until it has said why it ended.

    Token counts are the engine's own, 0 where it tells none.
    """

    def __init__(self) -> None:
        self.finish: Finish | None = None
        self.prompt_tokens = 0
        self.generated_tokens = 0
        self.looped = False
        """Whether it has begun to repeat itself, so that no more is worth waiting for."""
        self._told: float | None = None
        self._pieces: list[str] = []
        self._size = 0
        self._logprobs: list[float] = []
        self._ids: dict[str, int] = {}
        self._run: list[int] = []

    @property
    def begun(self) -> bool:
        """Whether there is text already."""
        return bool(self._pieces)

    @property
    def text(self) -> str:
        """All of it; where it ran into a loop, up to the loop's first round."""
        return "".join(self._pieces)

    @property
    def confidence(self) -> float | None:
        """Mean probability of the tokens, where the engine tells probabilities."""
        if self._told is not None:
            return self._told
        known = self._logprobs
        return sum(math.exp(min(one, 0.0)) for one in known) / len(known) if known else None

    def take(self, said: Mapping[str, Any]) -> str:
        """Take a chunk of a stream, or a whole completion; the text in it. Raises RemoteFailed for an error in it."""
        if said.get("error") or said.get("object") == "error":
            raise RemoteFailed(f"The remote engine failed{quoted(said)}.", hint="Its own log says more.")
        self._count(said.get("usage"))
        choice = _choice(said)
        message = choice.get("delta") or choice.get("message")
        text = _words(message.get("content")) if isinstance(message, Mapping) else ""
        if isinstance(message, Mapping) and message.get("refusal"):
            raise RemoteFailed("The remote engine's model refuses this page.", hint="Ask with another prompt or model.")
        self._note(choice.get("logprobs"))
        if text:
            self._add(text)
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason and self.finish is None:
            self._end(reason)
        self._believe(said.get("ocr"))
        return text

    def take_whole(self, said: Mapping[str, Any]) -> str:
        """Take a completion that came at once; its text. Raises RemoteFailed also where it is none."""
        text = self.take(said)
        if not _choice(said):
            raise not_understood()
        return text

    def check_whole(self) -> None:
        """Raise RemoteFailed when the engine has not said why it ended."""
        if self.finish is None:
            raise RemoteFailed(
                "The remote engine did not say why it ended, so the page may be cut off.",
                hint="Its own log says more.",
            )

    def _add(self, text: str) -> None:
        self._pieces.append(text)
        self._size += len(text)
        self._check_size(self._size)
        self._run.append(self._ids.setdefault(text, len(self._ids)))
        if len(self._run) % CHECK_EVERY == 0 and (keep := loop_start(self._run)) is not None:
            del self._pieces[keep:]
            self.finish, self.looped = Finish.LOOP, True

    @staticmethod
    def _check_size(size: int) -> None:
        if size > _MOST_TEXT:
            raise RemoteFailed("The remote engine's answer does not end.", hint="Ask for fewer tokens.")

    def _end(self, reason: str) -> None:
        if reason not in _FINISH:
            named = reason if re.fullmatch(r"[A-Za-z_ -]{1,40}", reason) else "an unknown reason"
            raise RemoteFailed(f"The remote engine ended the page early: {named}.", hint="Its own log says more.")
        self.finish = _FINISH[reason]

    def _believe(self, report: Any) -> None:
        """What another ocr_mlx knows of the page: its confidence, a loop, and the text where it sent some that did not stay."""
        if not isinstance(report, Mapping):
            return
        if report.get("status") == "loop_stopped":
            self.finish = Finish.LOOP
        confidence, pages = report.get("confidence"), report.get("pages")
        if isinstance(confidence, int | float) and 0 <= confidence <= 1:
            self._told = float(confidence)
        page = pages[0] if isinstance(pages, list) and pages else None
        if isinstance(page, Mapping) and isinstance(text := page.get("text"), str):
            self._pieces = [_words(text)]
            self._check_size(len(text))

    def _count(self, usage: Any) -> None:
        if isinstance(usage, Mapping):
            self.prompt_tokens = _count(usage.get("prompt_tokens"), self.prompt_tokens)
            self.generated_tokens = _count(usage.get("completion_tokens"), self.generated_tokens)

    def _note(self, logprobs: Any) -> None:
        tokens = logprobs.get("content") if isinstance(logprobs, Mapping) else None
        for token in tokens if isinstance(tokens, list) else ():
            value = token.get("logprob") if isinstance(token, Mapping) else None
            if isinstance(value, int | float) and math.isfinite(value):
                self._logprobs.append(float(value))


def _choice(said: Mapping[str, Any]) -> Mapping[str, Any]:
    """The first choice, the only one that is asked for; empty where there is none."""
    choices = said.get("choices")
    return choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], Mapping) else {}


def _count(value: Any, otherwise: int) -> int:
    return value if isinstance(value, int) and 0 <= value < 2**31 else otherwise


def _words(content: Any) -> str:
    """A message's text: a string, or the text parts of a list. Halves of characters become question marks."""
    parts = content if isinstance(content, list) else ()
    found = (str(part.get("text") or "") for part in parts if isinstance(part, Mapping))
    text = content if isinstance(content, str) else "".join(found)
    return text.encode("utf-8", "replace").decode()


class Events:
    """Cuts a stream of bytes into the JSON objects of its `data:` lines, which end at line feeds only."""

    def __init__(self) -> None:
        self._rest = b""
        self.done = False
        """Whether `[DONE]` has come."""

    def feed(self, data: bytes) -> Iterator[Mapping[str, Any]]:
        """The objects that are whole now. Raises RemoteFailed for what is no JSON object."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _MOST_TEXT:
            raise not_understood()
        for line in lines:
            field, _, value = line.strip().partition(b":")
            if field != b"data" or self.done:
                continue
            if value.strip() == b"[DONE]":
                self.done = True
            else:
                yield parsed(value)


def parsed(data: bytes) -> Mapping[str, Any]:
    """The JSON object that is written there. Raises RemoteFailed."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise not_understood() from error
    if not isinstance(value, Mapping):
        raise not_understood()
    return value


def not_understood() -> RemoteFailed:
    """For an answer that is no chat completion."""
    return RemoteFailed(
        "The remote engine's answer is no chat completion.",
        hint="Check that its address ends in /v1 as the engine says.",
    )


def cut_off() -> RemoteFailed:
    """For an answer that ends in the middle."""
    return RemoteFailed(
        "The remote engine's answer was cut off.", hint="Try again; the engine may have been restarted."
    )


def quoted(said: Mapping[str, Any]) -> str:
    """`: ` and what the engine's error object says, cut short; empty where it says nothing, or quotes the request."""
    error = said.get("error", said.get("detail", said.get("message")))
    words = error.get("message") if isinstance(error, Mapping) else error
    if not isinstance(words, str) or "base64" in words:
        return ""
    line = " ".join("".join(char if char.isprintable() else " " for char in words).split())
    shown = line.rstrip(" .") if len(line) <= _MOST_SHOWN else f"{line[:_MOST_SHOWN]} ..."
    return f": {shown}" if shown else ""
