"""Blank pages of a folder of real documents come back empty and as `blank`; no page with words on it is called so.

The folder is no part of the repository: OCR_MLX_CORPUS names it, `../shared/corpus` beside the repository is the
default, and without it these tests are skipped.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocr_mlx.domain import FilePath, OcrRequest, PageStatus
from ocr_mlx.engine.build import build_service
from ocr_mlx.engine.service import OcrService
from ocr_mlx.errors import OcrMlxError
from ocr_mlx.inference.blank import is_blank
from ocr_mlx.pages.fetch import FetchLimits, fetch
from ocr_mlx.pages.load import PageLimits, open_document
from ocr_mlx.pages.pool import PageProcesses
from ocr_mlx.settings import Settings

ROOT = Path(__file__).parents[2]
CORPUS = Path(os.environ.get("OCR_MLX_CORPUS") or ROOT.parent / "shared" / "corpus")
PASSWORD = re.compile(r"password: '([^']+)'")
BLANK = {
    "derived_hostile/a_blank_a4.png": (0,),
    "derived_hostile/a_oneby.png": (0,),
    "derived_hostile/a_two.png": (0,),
    "derived_hostile/a_tall_strip.png": (0,),
    "derived_hostile/a_wide_strip.png": (0,),
    "derived_pdf/mediabox_offset.pdf": (0,),
    "derived_pdf/one_bad_page.pdf": (0,),
    "image_formats/pillow__mode_16bit.png": (0,),
    "image_formats/pillow__multipage.tiff": (0, 1, 2),
    "image_formats/pngsuite__s01n3p01.png": (0,),
    "image_hostile/pillow__chunk_no_fdat.png": (0,),
    "image_hostile/pillow__invalid-exif.jpg": (0,),
    "image_hostile/pillow__multipage_out_of_order.tiff": (0, 1, 2),
    "image_hostile/pillow__no_palette.gif": (0,),
    "pdf_broken/opf__T02-02_003_page-tree-different-kids.pdf": (1,),
    "pdf_broken/opf__T02-03_010_page-object-missing-contents.pdf": (0,),
    "pdf_broken/opf__T02-05-01_008_Font-set-operator-missing.pdf": (0,),
    "pdf_broken/opf__T02-05-01_012_text-show-operator-missing.pdf": (0,),
    "pdf_form/ocrmypdf__livecycle.pdf": (0,),
    "pdf_multilingual/pdfminer__jo.pdf": (0,),
}
"""Pages, from 0, that have one colour (nothing is drawn, or it lies outside, or cannot be drawn), or one soft light."""
SMALL = 24
"""Pixels of a side below which nothing can be read anyway."""
MOST_PAGES = 8

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CORPUS / "MANIFEST.tsv").exists(), reason=f"no corpus at {CORPUS} (set OCR_MLX_CORPUS)"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]


def rows() -> list[dict[str, str]]:
    if not (CORPUS / "MANIFEST.tsv").exists():
        return []
    with (CORPUS / "MANIFEST.tsv").open(encoding="utf-8", newline="") as lines:
        return [row for row in csv.DictReader(lines, delimiter="\t") if row["kind"] != "derived_bombs"]


@pytest.fixture(scope="module")
def service() -> Iterator[OcrService]:
    made = build_service(Settings.from_env({}).engine_options().for_the_user())
    yield made
    made.close()


@pytest.fixture(scope="module")
def renderer() -> Iterator[PageProcesses]:
    with PageProcesses() as shared:
        yield shared


@pytest.mark.parametrize("path", BLANK)
def test_a_blank_page_comes_back_empty(path: str, service: OcrService) -> None:
    request = OcrRequest(
        source=FilePath(path=CORPUS / path),
        model="builtin",
        page_range=",".join(str(index + 1) for index in BLANK[path]),
        keep_alive=-1,
    )
    for page in service.run(request).pages:
        assert (page.status, page.text, page.raw_text, page.generated_tokens) == (PageStatus.BLANK, "", "", 0)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row["path"][:60])
def test_no_other_page_is_called_blank(row: dict[str, str], renderer: PageProcesses) -> None:
    password = PASSWORD.search(row["notes"])
    try:
        data = fetch(FilePath(path=CORPUS / row["path"]), FetchLimits())
        document = open_document(
            data, limits=PageLimits(), renderer=renderer, password=password[1] if password else None
        )
    except OcrMlxError:
        pytest.skip("no document")
    with document:
        for index in document.indices[:MOST_PAGES]:
            for dpi in (72, 200):
                try:
                    page = document.page(index, dpi=dpi)
                except OcrMlxError:
                    continue
                if index not in BLANK.get(row["path"], ()) and min(page.image.size) >= SMALL:
                    assert not is_blank(page.image), (index, dpi)
