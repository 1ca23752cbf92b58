from __future__ import annotations

import io
import json
import logging
import re
import threading
from collections.abc import Iterator

import pytest

from ocr_mlx.utils import logs


@pytest.fixture(autouse=True)
def _loggers() -> Iterator[None]:
    """`configure` is for a process of its own; put back what it changed."""
    found = [logging.getLogger(name) for name in ("", *logs.LOGGERS)]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in found]
    yield
    for logger, (handlers, level, propagate) in zip(found, before, strict=True):
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate


def test_lines_go_to_the_stream_and_the_tail_with_the_request_id() -> None:
    stream = io.StringIO()
    tail = logs.configure("info", stream)
    token = logs.REQUEST_ID.set("abc")
    logging.getLogger("ocr_mlx.x").info("hello %d", 1)
    logs.REQUEST_ID.reset(token)
    logging.getLogger("ocr_mlx.x").debug("not this")
    written()
    assert tail.text() == stream.getvalue()
    assert tail.text().endswith("Z INFO ocr_mlx.x [abc] hello 1\n") and tail.text().count("\n") == 1


def written() -> None:
    for handler in logging.getLogger("ocr_mlx").handlers:
        handler.flush()


class Stuck(io.StringIO):
    """A pipe that nobody reads, until `read` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.read = threading.Event()

    def write(self, text: str) -> int:
        self.read.wait(10)
        return super().write(text)


def test_a_stream_that_nobody_reads_holds_up_nobody_and_the_gap_is_told() -> None:
    stream = Stuck()
    handler = logs.Unhurried(stream, lines=3)
    for number in range(6):
        handler.handle(logging.LogRecord("n", logging.INFO, "", 0, f"line {number}", None, None))
    stream.read.set()
    handler.flush()
    handler.handle(logging.LogRecord("n", logging.INFO, "", 0, "later", None, None))
    handler.flush()
    assert stream.getvalue() == "line 0\nline 1\nline 2\n(3 lines left out: nobody read them)\nlater\n"


def test_other_libraries_are_not_logged() -> None:
    tail = logs.configure("debug", io.StringIO())
    logging.getLogger("httpx").warning("GET https://secret")
    assert tail.text() == ""


def test_configuring_twice_does_not_double_lines() -> None:
    logs.configure("info", io.StringIO())
    stream = io.StringIO()
    logs.configure("info", stream)
    logging.getLogger("ocr_mlx").info("once")
    written()
    assert stream.getvalue().count("once") == 1


def test_the_tail_forgets_the_oldest() -> None:
    tail = logs.LogTail(lines=2)
    for number in range(3):
        tail.handle(logging.LogRecord("n", logging.INFO, "", 0, str(number), None, None))
    assert tail.text() == "1\n2\n"


def test_where_tells_the_place_and_not_the_message() -> None:
    try:
        raise ValueError("/home/secret.png")
    except ValueError as error:
        told = logs.where(error)
    assert told.startswith("ValueError at test_logs.py:") and "secret" not in told


def test_json_lines_hold_what_text_lines_hold_and_the_fields() -> None:
    stream = io.StringIO()
    tail = logs.configure("info", stream, style="json")
    token = logs.REQUEST_ID.set("abc")
    logging.getLogger("ocr_mlx.x").warning("hello %d\nthere", 1, extra=logs.fields(event="greeting", pages={"ok": 2}))
    logs.REQUEST_ID.reset(token)
    written()
    assert tail.text() == stream.getvalue() and tail.text().count("\n") == 1
    told = json.loads(stream.getvalue())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", told.pop("time"))
    assert told == {
        "level": "warning",
        "logger": "ocr_mlx.x",
        "request_id": "abc",
        "message": "hello 1\nthere",
        "event": "greeting",
        "pages": {"ok": 2},
    }


@pytest.mark.parametrize("style", ["text", "json"])
def test_an_exception_is_told_by_its_place_and_not_by_its_words(style: str) -> None:
    stream = io.StringIO()
    logs.configure("info", stream, style=style)
    try:
        raise ValueError("a word of the document")
    except ValueError:
        logging.getLogger("uvicorn.error").exception("Exception in the application")
    written()
    assert "document" not in stream.getvalue() and "ValueError at test_logs.py:" in stream.getvalue()


def test_the_gap_is_a_json_line_too() -> None:
    stream = Stuck()
    logs.configure("info", stream, style="json")
    handler = logging.getLogger("ocr_mlx").handlers[0]
    handler._most = 1  # type: ignore[attr-defined]
    for number in range(3):
        logging.getLogger("ocr_mlx").info("line %d", number)
    stream.read.set()
    written()
    logging.getLogger("ocr_mlx").info("later")
    written()
    told = [json.loads(line)["message"] for line in stream.getvalue().splitlines()]
    assert told == ["line 0", "(2 lines left out: nobody read them)", "later"]
