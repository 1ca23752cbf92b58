"""What is right: the texts of a quiet reading, and the statuses that an answer may have."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import httpx
from scripts.soaking.documents import Document, Shelf
from scripts.soaking.program import MODELS, STEADY, Model
from scripts.soaking.ways import DIFFERS, PLAIN, SWITCHED, Answer, Ask

Key = tuple[str, str, str, str]
"""Service, model, document, pages."""
_BUSY = ("queue_full",)


class Golden:
    """What each document is read as when nothing else is going on."""

    def __init__(self, documents: list[Document]) -> None:
        self.texts: dict[Key, str] = {}
        self.asks: dict[str, list[Ask]] = {"plain": [], **{name: [] for name in SWITCHED}}
        """What can be asked for, by service: whatever left text, or is rightly blank."""
        self._documents = documents

    def read(self, http: httpx.Client, shelf: Shelf) -> None:
        """Read everything once, alone. Raises RuntimeError where a model or a service reads nothing at all."""
        for ask in self._wanted():
            answer = PLAIN["file"](http, shelf, ask)
            self._keep("plain", ask, answer)
        for model in STEADY:
            http.post("/models/switch", json={"model": model.name}).raise_for_status()
            for name, way in SWITCHED.items():
                for ask in self._few(model):
                    self._keep(name, ask, way(http, shelf, ask))
        for name, asks in self.asks.items():
            if {ask.model for ask in asks} != {*(MODELS if name == "plain" else STEADY)}:
                raise RuntimeError(f"{name}: not every model reads something")

    def _wanted(self) -> Iterator[Ask]:
        for document in self._documents:
            ranges = {1: ("",), 30: ("7,3", "28-")}.get(document.pages, ("", "2"))
            for model in MODELS:
                yield from (Ask(document=document, model=model, pages=pages) for pages in ranges)
        long = max(self._documents, key=lambda document: document.pages)
        yield Ask(document=long, model=MODELS[0])

    def _few(self, model: Model) -> Iterator[Ask]:
        for document in (self._documents[0], self._documents[1], self._documents[5]):
            yield Ask(document=document, model=model, pages="1")

    def _keep(self, service: str, ask: Ask, answer: Answer) -> None:
        """Random numbers may well leave no text, which is an error by design: such an ask is not made again."""
        if answer.status == 200:
            self.texts[self._key(service, ask, ask.model.name)] = answer.text.strip()
            self.asks[service].append(ask)
        elif answer.code != "decode_error":
            raise RuntimeError(f"{service} {ask.model.name} {ask.document.name}: {answer.status} {answer.text}")

    def judge(self, service: str, ask: Ask, answer: Answer) -> str:
        """What is wrong with an answer, empty where nothing is. `busy` answers are right at any time."""
        if answer.problem:
            return answer.problem
        if is_busy(answer):
            return ""
        if answer.status != 200 or answer.code:
            return f"{answer.status} {answer.code}: {answer.text}"
        if answer.version == DIFFERS:
            return ""
        if service == "plain":
            models: Collection[str] = (ask.model.name,)
        else:
            models = [one.name for one in STEADY if answer.version in ("", one.version)]
        known = [self.texts.get(self._key(service, ask, model)) for model in models]
        if answer.text.strip() in known:
            return ""
        return f"wrong text: {answer.text.strip()[:120]!r}, not {known[0] and known[0][:120]!r}"

    @staticmethod
    def _key(service: str, ask: Ask, model: str) -> Key:
        return service, model, ask.document.name, ask.pages


def is_busy(answer: Answer) -> bool:
    """Whether it says, rightly, to come back later."""
    return answer.status == 429 and answer.code in _BUSY and answer.waits


def judge_bad(document: Document, answer: Answer, statuses: Collection[int]) -> str:
    """What is wrong with the answer to a document that cannot be read."""
    if is_busy(answer) or (answer.status in statuses and answer.code in document.bad):
        return ""
    if answer.code == "job_failed" and answer.status == 200:
        return ""
    return f"{document.bad} wanted, {answer.status} {answer.code}: {answer.text}"
