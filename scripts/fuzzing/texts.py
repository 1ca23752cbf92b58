r"""What models say, to what users get: every family's clean-up, and prompts that name a place.

A stretch `\x00\xffN...\x00` of the input stands for its words a few thousand times: time that grows with the square shows.
"""

from __future__ import annotations

import re
import time

from PIL import Image
from scripts.fuzzing.parts import chosen, typed

from ocr_mlx.domain import Page, Prompt
from ocr_mlx.model.families.deepseek_ocr.grounding import split
from ocr_mlx.model.families.got_ocr2.postprocess import formatted, plain
from ocr_mlx.model.families.got_ocr2.prompt import region
from ocr_mlx.model.families.lighton_ocr.postprocess import page_text
from ocr_mlx.model.families.nougat.postprocess import clean_page
from ocr_mlx.model.families.nougat.strips import tidy
from ocr_mlx.model.families.qwen2_vl.markup import formatted as marked_up
from ocr_mlx.model.registry import families

_REPEATED = re.compile("\0\ufffd(.)([^\0]*)\0?", re.DOTALL)
_MOST = 40_000
"""Characters; a page of 4096 tokens has fewer."""
_SECONDS = 5.0
_PAGE = Page(index=0, image=Image.new("RGB", (60, 80), "white"), width=60, height=80, dpi=None, origin="pdf")


def _cleaned(name: str, text: str) -> None:
    family = next(family for family in families() if family.name == name)
    for mode in family.modes.values():
        with typed():
            for block in family.clean(text, _PAGE, Prompt(text="words"), mode).blocks:
                assert all(0.0 <= side <= 1.0 for side in block.normalized)


_CLEANERS = {
    "nougat": clean_page,
    "strips": tidy,
    "lighton": lambda text: page_text(text, 100, 100),
    "got": formatted,
    "got plain": plain,
    "qari": lambda text: marked_up(text, "markdown"),
    "qari text": lambda text: marked_up(text, "text"),
    "deepseek": split,
    "region": lambda text: region(text, "box", (60, 80)),
    "families": lambda text: [_cleaned(family.name, text) for family in families()],
}


def one(data: bytes) -> None:
    """One clean-up of one text, within seconds."""
    name, rest = chosen(data, tuple(_CLEANERS))
    text = _grown(rest.decode("utf-8", "replace"))
    started = time.process_time()
    with typed():
        _CLEANERS[name](text)
    assert time.process_time() - started < _SECONDS, f"{name} takes too long"


def _grown(text: str) -> str:
    return _REPEATED.sub(lambda found: found[2] * (ord(found[1]) * 200 // max(1, len(found[2]))), text)[:_MOST]
