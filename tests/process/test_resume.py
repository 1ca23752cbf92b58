"""A document whose reading was cut off goes on where it stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.process
PAGE = Path(__file__).parents[2] / "examples" / "page.png"
PAGES = 6


def document(path: Path) -> Path:
    """A PDF of pages that all differ, if only by a few pixels at the bottom."""
    with Image.open(PAGE) as opened:
        page = opened.convert("L")
    first, *others = (page.crop((0, 0, page.width, page.height // 3 - number)) for number in range(PAGES))
    first.save(path, "PDF", save_all=True, append_images=others, resolution=100)
    return path


def begin(pdf: Path, kept: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ocr_mlx", "read", str(pdf), "--model", "builtin", "--format", "json"],
        env=os.environ | {"OCR_MLX_PAGE_CACHE_DIR": str(kept), "OCR_MLX_MAX_ROWS": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def times(kept: Path) -> dict[str, int]:
    """When each result was written."""
    return {path.name: path.stat().st_mtime_ns for path in kept.glob("*/*.page")}


def test_a_program_that_was_killed_reads_only_the_missing_pages_the_next_time(tmp_path: Path) -> None:
    pdf, kept = document(tmp_path / "document.pdf"), tmp_path / "kept"
    with begin(pdf, kept) as program:
        end = time.monotonic() + 60
        while len(times(kept)) < 2:
            assert program.poll() is None and time.monotonic() < end
            time.sleep(0.01)
        program.kill()
    before = times(kept)
    assert 2 <= len(before) < PAGES
    with begin(pdf, kept) as program:
        out, err = program.communicate(timeout=60)
    assert program.returncode == 0, err
    pages = json.loads(out)["pages"]
    assert [page["status"] for page in pages] == ["ok"] * PAGES
    assert all(page["text"].startswith("A short note on reading\n") for page in pages)
    after = times(kept)
    assert len(after) == PAGES and after.items() >= before.items()
