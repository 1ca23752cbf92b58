"""A page process: opens images and PDFs, answers frames on stdout to frames on stdin, ends when stdin ends.

Started by `process.py` as `python -m ocr_mlx.pages.child MEMORY PARENT`. What a decoder does with a hostile file happens
here and to nobody else.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable
from queue import SimpleQueue
from typing import Any, BinaryIO, NamedTuple

from PIL import Image

from ocr_mlx.errors import OcrMlxError
from ocr_mlx.pages import sandbox
from ocr_mlx.pages.frames import Frame, read_frame, write_frame
from ocr_mlx.pages.images import ImageReader
from ocr_mlx.pages.limits import PageLimits
from ocr_mlx.pages.pdf import PdfFile

_STRIP_BYTES = 1 << 20


class _Answer(NamedTuple):
    header: dict[str, Any]
    pieces: Iterable[bytes | memoryview] = ()
    size: int = 0


def main() -> None:
    """Serve until stdin ends."""
    memory, parent = int(sys.argv[1]), int(sys.argv[2])
    requests = sys.stdin.buffer
    answers = _claim_stdout()
    Image.init()
    sandbox.enter(memory, parent)
    queue: SimpleQueue[Frame] = SimpleQueue()
    threading.Thread(target=_listen, args=(requests, queue), daemon=True).start()
    documents: dict[int, ImageReader | PdfFile] = {}
    write_frame(answers, {"ready": True})
    while True:
        header, body = queue.get()
        sandbox.allow_seconds(header["seconds"])
        answer = _answer(documents, header, body)
        del body
        write_frame(answers, answer.header, answer.pieces, answer.size)
        del answer


def _claim_stdout() -> BinaryIO:
    """Keep the pipe for frames alone: whatever a library prints goes nowhere."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    return answers


def _listen(requests: BinaryIO, queue: SimpleQueue[Frame]) -> None:
    """Read ahead, so that the parent's end is noticed at once, even in the middle of a page that never ends."""
    try:
        while (frame := read_frame(requests)) is not None:
            queue.put(frame)
            del frame
    finally:
        os._exit(0)


def _answer(documents: dict[int, ImageReader | PdfFile], header: dict[str, Any], body: bytes) -> _Answer:
    number = header["document"]
    try:
        if header["op"] == "open":
            documents[number] = opened = _open(header, body)
            return _Answer({"pages": opened.page_count})
        if header["op"] == "page":
            return _page(documents[number], header)
    except OcrMlxError as error:
        return _Answer({"code": error.code, "message": error.message, "hint": error.hint})
    documents.pop(number).close()
    return _Answer({})


def _open(header: dict[str, Any], body: bytes) -> ImageReader | PdfFile:
    if header["kind"] == "PDF":
        return PdfFile(body, header["password"])
    return ImageReader(body, header["kind"], PageLimits(max_pixels=header["max_pixels"]))


def _page(document: ImageReader | PdfFile, header: dict[str, Any]) -> _Answer:
    if isinstance(document, PdfFile):
        drawn = document.draw(header["index"], float(header["dpi"]), header["max_pixels"], header["max_page_points"])
        answer = {"mode": "RGB", "width": drawn.width, "height": drawn.height, "dpi": drawn.dpi, "words": drawn.words}
        return _Answer(answer, drawn.rows, 3 * drawn.width * drawn.height)
    image, dpi = document.decode(header["index"])
    answer = {"mode": image.mode, "width": image.width, "height": image.height, "dpi": dpi, "words": None}
    return _Answer(answer, _strips(image), image.width * image.height * len(image.mode))


def _strips(image: Image.Image) -> Iterable[bytes]:
    """The pixels a few rows at a time: the parent takes them while the next are made ready."""
    rows = max(1, _STRIP_BYTES // (image.width * len(image.mode)))
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height))).tobytes()


if __name__ == "__main__":
    main()
