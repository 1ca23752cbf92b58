"""The PDF process: opens and renders with pdfium, answers frames on stdout to frames on stdin, ends when stdin ends.

Started by `pdf.py` as `python -m ocr_mlx.pages.pdf_child MEMORY`. What pdfium does with a hostile file happens here and
to nobody else.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
from collections.abc import Iterable
from queue import SimpleQueue
from typing import Any, BinaryIO

import pypdfium2 as pdfium
import pypdfium2.raw as raw

from ocr_mlx.errors import BadPdf, OcrMlxError, PdfLocked, SourceTooLarge
from ocr_mlx.pages.frames import Frame, read_frame, write_frame
from ocr_mlx.pages.limits import MIN_DPI
from ocr_mlx.pages.pdf_text import WordRow, read_words

_POINTS_PER_INCH = 72
_REPAIR = "Open it in another program and save it again, or send the pages as images."

Answer = tuple[dict[str, Any], Iterable[memoryview]]


def main() -> None:
    """Serve until stdin ends."""
    requests = sys.stdin.buffer
    answers = _claim_stdout()
    _limit(int(sys.argv[1]))
    queue: SimpleQueue[Frame] = SimpleQueue()
    threading.Thread(target=_listen, args=(requests, queue), daemon=True).start()
    documents: dict[int, pdfium.PdfDocument] = {}
    write_frame(answers, {"ready": True})
    while True:
        header, body = queue.get()
        reply, pieces = _answer(documents, header, body)
        del body
        write_frame(answers, reply, *pieces)


def _claim_stdout() -> BinaryIO:
    """Keep the pipe for frames alone: whatever a library prints goes nowhere."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    return answers


def _limit(memory: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(ImportError, ValueError, OSError):  # not every system knows these limits
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


def _listen(requests: BinaryIO, queue: SimpleQueue[Frame]) -> None:
    """Read ahead, so that the parent's end is noticed at once, even in the middle of a page that never ends."""
    try:
        while (frame := read_frame(requests)) is not None:
            queue.put(frame)
            del frame
    finally:
        os._exit(0)


def _answer(documents: dict[int, pdfium.PdfDocument], header: dict[str, Any], body: bytes) -> Answer:
    try:
        if header["op"] == "open":
            return _open(documents, header, body)
        if header["op"] == "page":
            return _render(documents[header["document"]], header)
        documents.pop(header["document"]).close()
        return {}, ()
    except OcrMlxError as error:
        return {"code": error.code, "message": error.message, "hint": error.hint}, ()
    except (pdfium.PdfiumError, MemoryError, OSError, ValueError):
        return {"code": BadPdf.code, "message": "This page of the PDF is damaged.", "hint": _REPAIR}, ()


def _open(documents: dict[int, pdfium.PdfDocument], header: dict[str, Any], body: bytes) -> Answer:
    password = header["password"]
    _forget_last_error()
    try:
        document = pdfium.PdfDocument(body, password=password)
    except pdfium.PdfiumError as error:
        raise _translate(raw.FPDF_GetLastError(), bool(password)) from error
    with contextlib.suppress(pdfium.PdfiumError):  # a broken form still leaves the page beneath it
        document.init_forms()
    if len(document) < 1:
        document.close()
        raise BadPdf("The PDF has no pages.", hint=_REPAIR)
    documents[header["document"]] = document
    return {"pages": len(document)}, ()


def _forget_last_error() -> None:
    """For a PDF without pages pdfium gives no reason; then the one it gave for an earlier document must not stand."""
    raw.FPDF_LoadMemDocument(b"-", 1, None)


def _translate(code: int, has_password: bool) -> OcrMlxError:
    if code == raw.FPDF_ERR_PASSWORD and has_password:
        return PdfLocked("The password does not open this PDF.", hint="Check it; capitals and small letters differ.")
    if code == raw.FPDF_ERR_PASSWORD:
        return PdfLocked("The PDF is locked with a password.", hint="Give its password with the request.")
    if code == raw.FPDF_ERR_SECURITY:
        return PdfLocked("The PDF is encrypted in a way that is not supported.", hint="Save it without encryption.")
    return BadPdf("The PDF is damaged or has no pages.", hint=_REPAIR)


def _render(document: pdfium.PdfDocument, header: dict[str, Any]) -> Answer:
    page = document[header["index"]]
    try:
        dpi = _fitting_dpi(page.get_size(), header)
        bitmap = page.render(scale=dpi / _POINTS_PER_INCH, rev_byteorder=True, limit_image_cache=True)
        words = _words(page, bitmap.width, bitmap.height)
    finally:
        page.close()
    reply = {"width": bitmap.width, "height": bitmap.height, "dpi": dpi, "words": words}
    return reply, _rows(bitmap)


def _words(page: pdfium.PdfPage, width: int, height: int) -> list[WordRow] | None:
    try:
        return read_words(page, width, height)
    except pdfium.PdfiumError:  # the picture is what counts
        return None


def _fitting_dpi(size: tuple[float, float], header: dict[str, Any]) -> float:
    """The resolution asked for, or the highest at which the page keeps the pixel limit."""
    width, height = size
    most_points, most_pixels, dpi = header["max_page_points"], header["max_pixels"], float(header["dpi"])
    if not max(width, height) <= most_points:
        raise SourceTooLarge(
            f"The PDF page measures {width:.0f} x {height:.0f} points; at most {most_points:g} are allowed.",
            hint="Print it to a smaller page size.",
        )
    scale = dpi / _POINTS_PER_INCH
    if math.ceil(width * scale) * math.ceil(height * scale) <= most_pixels:
        return dpi
    # Each side may round up by one pixel: (w s + 1)(h s + 1) = most, solved for s.
    half = (width + height) / 2
    largest = (math.sqrt(half * half + width * height * (most_pixels - 1)) - half) / (width * height)
    if largest * _POINTS_PER_INCH < MIN_DPI:
        raise SourceTooLarge(
            f"The PDF page is too large to draw: {width:.0f} x {height:.0f} points in {most_pixels:,} pixels.",
            hint="Print it to a smaller page size.",
        )
    return largest * _POINTS_PER_INCH


def _rows(bitmap: pdfium.PdfBitmap) -> Iterable[memoryview]:
    """RGB without the padding that pdfium puts behind each row."""
    pixels = memoryview(bitmap.buffer).cast("B")
    row = bitmap.width * 3
    if bitmap.stride == row:
        return [pixels[: row * bitmap.height]]
    return [pixels[at : at + row] for at in range(0, bitmap.stride * bitmap.height, bitmap.stride)]


if __name__ == "__main__":
    main()
