"""Every file of a folder of real and hostile documents gives pages or a typed error, soon and in bounded memory.

The folder is no part of the repository: OCR_MLX_CORPUS names it, `../shared/corpus` beside the repository is the
default, and without it these tests are skipped. What each file must give stands in `resources/corpus_outcomes.tsv`: the
outcome, and where it differs from what the folder's own check reader said (`MANIFEST.tsv`), why.
"""

from __future__ import annotations

import csv
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ocr_mlx.domain import FilePath
from ocr_mlx.errors import OcrMlxError
from ocr_mlx.pages.fetch import FetchLimits, fetch
from ocr_mlx.pages.load import Document, PageLimits, open_document
from ocr_mlx.pages.pool import PageProcesses

ROOT = Path(__file__).parents[2]
CORPUS = Path(os.environ.get("OCR_MLX_CORPUS") or ROOT.parent / "shared" / "corpus")
OUTCOMES = ROOT / "tests" / "resources" / "corpus_outcomes.tsv"
GIGABYTE = 1024**3
MOST_SECONDS = 20
PASSWORD = re.compile(r"password: '([^']+)'")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CORPUS / "MANIFEST.tsv").exists(), reason=f"no corpus at {CORPUS} (set OCR_MLX_CORPUS)"),
]


class Peak:
    """The most memory that this process and its children held, watched from a thread."""

    def __init__(self) -> None:
        self.own = self.child = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._over.wait(0.02):
            self.own = max(self.own, me.memory_info().rss)
            for child in me.children():
                try:
                    self.child = max(self.child, child.memory_info().rss)
                except psutil.Error:
                    continue

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines, delimiter="\t"))


def describe(path: Path, password: str | None, renderer: PageProcesses) -> str:
    """`image 3 640x480`, `pdf 12 612x792 2:bad_pdf` (kind, pages, first page's size at 72 dpi, bad pages), or a code."""
    try:
        data = fetch(FilePath(path=path), FetchLimits())
        with open_document(data, limits=PageLimits(), renderer=renderer, password=password) as document:
            return describe_pages(document)
    except OcrMlxError as error:
        assert error.hint, "an error without advice"
        return error.code


def describe_pages(document: Document) -> str:
    kind, size, bad = "", "-", []
    sample = dict.fromkeys([*document.indices[:3], document.indices[-1]])
    for index in sample:
        try:
            page = document.page(index, dpi=72)
        except OcrMlxError as error:
            assert error.hint, "an error without advice"
            bad.append(f"{index + 1}:{error.code}")
            continue
        assert page.image.mode == "RGB"
        assert page.image.size == (page.width, page.height)
        kind = page.origin
        size = f"{page.width}x{page.height}" if index == 0 else size
    return " ".join([kind or "none", str(document.page_count), size, *bad])


@pytest.fixture(scope="module")
def renderer() -> Iterator[PageProcesses]:
    with PageProcesses() as shared:
        yield shared


def rows() -> list[dict[str, str]]:
    return read_table(CORPUS / "MANIFEST.tsv") if (CORPUS / "MANIFEST.tsv").exists() else []


@pytest.mark.parametrize("row", rows(), ids=lambda row: row["path"][:60])
def test_outcome(row: dict[str, str], renderer: PageProcesses) -> None:
    expected = {line["path"]: line["outcome"] for line in read_table(OUTCOMES)}
    password = PASSWORD.search(row["notes"])
    began = time.monotonic()
    with Peak() as peak:
        outcome = describe(CORPUS / row["path"], password[1] if password else None, renderer)
    assert time.monotonic() - began < MOST_SECONDS
    assert outcome == expected[row["path"]]
    assert peak.own < GIGABYTE
    assert peak.child < GIGABYTE


def test_the_table_and_the_corpus_hold_the_same_files() -> None:
    assert [line["path"] for line in read_table(OUTCOMES)] == [row["path"] for row in rows()]


LOCKED = [row["path"] for row in rows() if PASSWORD.search(row["notes"])]


@pytest.mark.parametrize("password", [None, "not the password"])
@pytest.mark.parametrize("path", LOCKED)
def test_locked_documents_stay_locked(path: str, password: str | None, renderer: PageProcesses) -> None:
    assert describe(CORPUS / path, password, renderer) == "pdf_locked"
