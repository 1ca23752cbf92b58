"""What goes wrong, in OpenAI's words: a request that cannot be read is 400, a model that is not there `model_not_found`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from fastapi.responses import JSONResponse

from ocr_mlx import errors
from ocr_mlx.domain import PageError
from ocr_mlx.errors import OcrMlxError
from ocr_mlx.server.errors import CODE_HEADER, RETRY_AFTER, kind_of_code, openai_error, status_of, when

log = logging.getLogger(__name__)
_ASKED_WRONG = (errors.SourceError, errors.PageError, errors.InvalidOption, errors.PromptTooLong)
_NO_MODEL = (errors.UnknownModel.code, errors.ModelNotHere.code)
MODEL_NOT_FOUND = "model_not_found"
"""OpenAI's word for it."""


class Refused(Exception):
    """An error answer on its way out. `param` is the field that is to blame, where one is."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self._headers = headers or {}
        self.message = message.encode("utf-8", "replace").decode()
        self.code = MODEL_NOT_FOUND if code in _NO_MODEL else code
        self.param = "model" if code in _NO_MODEL else param

    def body(self) -> dict[str, object]:
        """OpenAI's error object."""
        return openai_error(self.status, self.message, code=self.code, param=self.param)

    def response(self) -> JSONResponse:
        """The answer."""
        log.warning("failed: %s", self.code)
        headers = {CODE_HEADER: self.code}
        if self.status in RETRY_AFTER:
            headers["Retry-After"] = RETRY_AFTER[self.status]
        headers |= self._headers
        return JSONResponse(self.body(), self.status, headers=headers)


def of_error(error: OcrMlxError, *, where: str = "") -> Refused:
    """What an error becomes; `where` says which document is meant."""
    return Refused(_status(type(error)), where + str(error), code=error.code, headers=when(error))


def of_page(problem: PageError, *, where: str = "") -> Refused:
    """What a document's failure becomes."""
    return Refused(_status(kind_of_code(problem.code)), where + problem.message, code=problem.code)


def _status(kind: type[OcrMlxError]) -> int:
    asked_wrong = issubclass(kind, _ASKED_WRONG) and not issubclass(kind, errors.SourceTooLarge)
    return 400 if asked_wrong else status_of(kind)


@contextmanager
def in_openai_words(where: str = "") -> Iterator[None]:
    """Turns the program's errors into Refused."""
    try:
        yield
    except OcrMlxError as error:
        raise of_error(error, where=where) from error
