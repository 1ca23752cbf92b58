from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from starlette.responses import Response

from ocr_mlx import errors
from ocr_mlx.errors import OcrMlxError, QueueFull, ShuttingDown
from ocr_mlx.server.errors import RETRY_AFTER, STATUS, answer, status_of, status_of_code, when
from ocr_mlx.server.openai.problems import of_error


def tree(kind: type[OcrMlxError]) -> Iterator[type[OcrMlxError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from tree(child)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (errors.SourceNotFound, 404),
        (errors.SourceForbidden, 403),
        (errors.SourceTooLarge, 413),
        (errors.UnsupportedMedia, 415),
        (errors.FetchFailed, 502),
        (errors.BadImage, 422),
        (errors.PdfLocked, 422),
        (errors.PageOutOfRange, 422),
        (errors.UnknownModel, 404),
        (errors.DownloadFailed, 502),
        (errors.ModelNotHere, 404),
        (errors.WeightMismatch, 422),
        (errors.ModelError, 422),
        (errors.InvalidOption, 422),
        (errors.QueueFull, 429),
        (errors.ShuttingDown, 503),
        (errors.Cancelled, 499),
        (errors.TimedOut, 504),
    ],
)
def test_status(kind: type[OcrMlxError], status: int) -> None:
    assert status_of(kind) == status == status_of_code(kind.code)


def test_every_error_is_an_error_and_codes_are_unique() -> None:
    product = [kind for kind in tree(OcrMlxError) if kind.__module__ == "ocr_mlx.errors"]
    assert all(400 <= status_of(kind) < 600 for kind in product)
    assert len({kind.code for kind in product}) == len(product)
    assert set(STATUS) <= set(product)


def test_a_new_error_takes_the_status_of_its_parent() -> None:
    class Fresh(errors.SourceTooLarge):
        code = "fresh"

    assert status_of(Fresh) == 413


def test_an_unknown_code_is_the_servers_fault() -> None:
    assert status_of_code("no_such_code") == 500


def shape(response: Response) -> tuple[str, bytes]:
    return response.headers["content-type"], bytes(response.body)


def test_the_shape_follows_the_route() -> None:
    assert shape(answer({"method": "POST", "path": "/ocr"}, 400, "No.")) == ("text/plain; charset=utf-8", b"No.")
    kind, body = shape(answer({"method": "GET", "path": "/ocr"}, 405, "No."))
    assert (kind, json.loads(body)) == ("application/json", {"detail": "No."})


def test_later_says_when() -> None:
    assert answer({}, 429, "").headers["retry-after"] and "retry-after" not in answer({}, 404, "").headers


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.0, "1"), (0.4, "1"), (7.2, "8"), (4000.0, "60"), (None, RETRY_AFTER[429])]
)
def test_a_full_queue_says_when_a_place_is_free(seconds: float | None, told: str) -> None:
    full = QueueFull("Full.", seconds=seconds)
    assert answer({}, 429, "Full.", headers=when(full)).headers["retry-after"] == told
    assert of_error(full).response().headers["retry-after"] == told
    assert when(ShuttingDown("Soon.")) == {}


def test_the_code_is_a_header() -> None:
    assert answer({}, 404, "", code="source_not_found").headers["x-ocr-mlx-error"] == "source_not_found"
