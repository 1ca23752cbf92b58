"""Image files, decoded in this process as the page process does it."""

from __future__ import annotations

import warnings

from PIL import Image
from scripts.fuzzing.parts import typed

from ocr_mlx.pages.images import ImageReader
from ocr_mlx.pages.limits import PageLimits
from ocr_mlx.pages.media import detect

_LIMITS = PageLimits(max_pixels=1_000_000)
_FRAMES = 3
Image.init()
warnings.simplefilter("ignore")


def one(data: bytes) -> None:
    """Decode the first frames of whatever the bytes announce."""
    kind = detect(data)
    if kind is None or kind == "PDF":
        return
    with typed():
        reader = ImageReader(data, kind, _LIMITS)
        assert reader.page_count >= 1
        for index in range(min(reader.page_count, _FRAMES)):
            with typed():
                image, dpi = reader.decode(index)
                assert image.mode in ("L", "RGB") and 0 < image.width * image.height <= _LIMITS.max_pixels
                assert dpi is None or dpi > 0
        reader.close()
