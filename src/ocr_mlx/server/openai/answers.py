"""From the engine's results to the wire: text, finish, usage, and what became of each page."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from ocr_mlx.domain import OcrResult, PageResult, PageStatus
from ocr_mlx.errors import InvalidOption
from ocr_mlx.outputs.outcome import failure
from ocr_mlx.server.openai.convert import Ask
from ocr_mlx.server.openai.problems import Refused, of_page
from ocr_mlx.server.openai.schemas import (
    AnswerMessage,
    ChatCompletion,
    ChatUsage,
    Choice,
    PageProblem,
    PageReport,
    Report,
)

_SEPARATOR: Final = "\n\n"
_CUT_SHORT: Final = (PageStatus.TRUNCATED, PageStatus.LOOP_STOPPED, PageStatus.CANCELLED)
_LIMITED: Final = (PageStatus.TRUNCATED, PageStatus.BLANK)
_WORST_LAST: Final = (
    PageStatus.BLANK,
    PageStatus.OK,
    PageStatus.LOOP_RECOVERED,
    PageStatus.TRUNCATED,
    PageStatus.LOOP_STOPPED,
    PageStatus.CANCELLED,
    PageStatus.FAILED,
)
_PATH_STARTS: Final = (".", "/", "~")


def new_id(kind: Literal["chatcmpl", "resp", "msg"]) -> str:
    """A name that nothing else has."""
    return f"{kind}{'-' if kind == 'chatcmpl' else '_'}{secrets.token_hex(16)}"


def now() -> int:
    """Seconds since 1970."""
    return int(time.time())


def check(result: OcrResult, ask: Ask, number: int) -> OcrResult:
    """The result of a document that was read. Raises Refused where it failed as a whole.

    A limit of the request's own that leaves no text is the request's fault.
    """
    if (bad := failure(result)) is None:
        return result
    if ask.overrides.max_new_tokens and all(page.status in _LIMITED for page in result.pages):
        message = (
            f"{ask.where(number)}After {ask.overrides.max_new_tokens} tokens there was no text yet. Allow for more."
        )
        raise Refused(400, message, code=InvalidOption.code, param="max_tokens")
    raise of_page(bad, where=ask.where(number))


def text_of(page: PageResult, ask: Ask) -> str:
    """A page's text; of a JSON answer the model's own words, since cleaning is for documents."""
    return (page.raw_text if ask.is_json else page.text).strip().encode("utf-8", "replace").decode()


def joined(text: str, before: bool) -> str:
    """A page's text as it stands in the whole: behind a blank line where there is text before it."""
    return _SEPARATOR + text if text and before else text


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The results of a request's documents. `differing` are texts of (document, page) that a stream got wrong."""

    ask: Ask = field(repr=False)
    results: Sequence[OcrResult] = field(repr=False)
    differing: Mapping[tuple[int, int], str] = field(default_factory=dict, repr=False)

    @property
    def model(self) -> str:
        """What really read."""
        return shown_model(self.results[0].model, self.ask.model)

    @property
    def pages(self) -> list[PageResult]:
        """All pages."""
        return [page for result in self.results for page in result.pages]

    @property
    def text(self) -> str:
        """All pages' texts, joined by a blank line; pages without text leave no gap."""
        return _SEPARATOR.join(text for page in self.pages if (text := text_of(page, self.ask)))

    @property
    def finish(self) -> Literal["stop", "length"]:
        """`length` where a page's text does not end where the model would have ended it."""
        return "length" if any(page.status in _CUT_SHORT for page in self.pages) else "stop"

    @property
    def prompt_tokens(self) -> int:
        """Of all pages."""
        return sum(result.usage.prompt_tokens for result in self.results)

    @property
    def completion_tokens(self) -> int:
        """Of all pages."""
        return sum(result.usage.completion_tokens for result in self.results)

    def report(self) -> Report:
        """What became of each page."""
        numbered = [(number, page) for number, result in enumerate(self.results) for page in result.pages]
        worst = max((page.status for page in self.pages), key=_WORST_LAST.index, default=PageStatus.BLANK)
        reports = [
            self._page(number, page, index) for number, page in numbered for index in (page.index, *page.following)
        ]
        return Report(status=worst, confidence=_confidence(self.pages), pages=reports)

    def usage(self) -> ChatUsage:
        """In chat's words."""
        total = self.prompt_tokens + self.completion_tokens
        return ChatUsage(prompt_tokens=self.prompt_tokens, completion_tokens=self.completion_tokens, total_tokens=total)

    def _page(self, number: int, page: PageResult, index: int) -> PageReport:
        problem = PageProblem(code=page.error.code, message=page.error.message) if page.error else None
        return PageReport(
            document=number,
            index=index,
            status=page.status,
            confidence=_rounded(page.confidence),
            error=problem,
            text=self.differing.get((number, index)),
        )


def completion(answer: Answer) -> ChatCompletion:
    """Chat's answer."""
    message = AnswerMessage(content=answer.text)
    return ChatCompletion(
        id=new_id("chatcmpl"),
        created=now(),
        model=answer.model,
        choices=[Choice(message=message, finish_reason=answer.finish)],
        usage=answer.usage(),
        ocr=answer.report(),
    )


def plain(report: Report) -> dict[str, Any]:
    """A report as JSON, without what is rarely there."""
    told = report.model_dump(mode="json")
    rare = ("error", "text")
    pages = [
        {key: value for key, value in page.items() if key not in rare or value is not None} for page in told["pages"]
    ]
    return told | {"pages": pages}


def shown_model(used: str, requested: str) -> str:
    """The model's name for the outside: no folder of this machine and no engine's address that was not asked for."""
    if used.startswith("openai+"):
        return used.partition("#")[2] or requested
    return requested if used.startswith(_PATH_STARTS) or used.count("/") > 1 else used


def _confidence(pages: Sequence[PageResult]) -> float | None:
    """The mean probability of all tokens."""
    told = [(page.confidence, page.generated_tokens) for page in pages if page.confidence is not None]
    tokens = sum(count for _, count in told)
    return _rounded(sum(value * count for value, count in told) / tokens) if tokens else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
