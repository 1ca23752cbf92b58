"""Image files, read by Pillow. Only the format that the bytes announce is ever tried. Runs in a page process only."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from typing import Final, TypeVar

from PIL import Image, features

from ocr_mlx.errors import BadImage, OcrMlxError, SourceTooLarge, UnsupportedMedia
from ocr_mlx.pages import media
from ocr_mlx.pages.limits import PageLimits
from ocr_mlx.utils.image import to_plain

_T = TypeVar("_T")
_MOST_FRAMES: Final = 10_000
_PLAUSIBLE_DPI: Final = (36.0, 4800.0)
_HEIF_SIZES: Final = re.compile(rb"ispe\0{4}(.{4})(.{4})", re.DOTALL)
_HEIF_HEADER: Final = 1 << 16


class ImageReader:
    """One image file. All frames of a TIFF are its pages, of anything else only the first frame.

    Holds the encoded bytes and decodes a page when it is asked for.
    """

    def __init__(self, data: bytes, kind: media.Kind, limits: PageLimits) -> None:
        """BadImage, SourceTooLarge, or UnsupportedMedia where a decoder is not installed."""
        self._data = data
        self._kind = kind
        self._name = media.name(kind)
        self._limits = limits
        with self._open(0) as image:
            self.page_count = self._count_frames(image) if kind == "TIFF" else 1

    def decode(self, index: int) -> tuple[Image.Image, float | None]:
        """Frame `index`, upright, as grey or RGB (`L`, `RGB`), and its pixels per inch where the file says them."""
        with self._open(index) as image:
            self._guard(image.load)
            return self._guard(lambda: to_plain(image)), _resolution(image)

    def close(self) -> None:
        """Forget the bytes."""
        self._data = b""

    def _open(self, index: int) -> Image.Image:
        """Parse headers up to frame `index`; nothing is decoded yet."""
        if self._kind in ("HEIF", "AVIF") and _declared_pixels(self._data) > self._limits.max_pixels:
            raise self._too_large("its pixels are")
        image = self._guard(lambda: _parse_header(self._data, self._kind))
        if index:
            self._guard(lambda: image.seek(index))
        if image.width < 1 or image.height < 1:
            raise BadImage(f"The {self._name} image has no pixels.", hint="Save it again.")
        if image.width * image.height > self._limits.max_pixels:
            raise self._too_large(f"{image.width} x {image.height} pixels are")
        return image

    def _count_frames(self, image: Image.Image) -> int:
        """Count to the end. A frame that cannot be reached counts, as the last, so that it becomes one failed page."""
        for index in range(1, _MOST_FRAMES + 1):
            try:
                image.seek(index)
            except EOFError:
                return index
            except Exception:
                return index + 1
        raise SourceTooLarge(f"The TIFF has more than {_MOST_FRAMES} pages.", hint="Split it.")

    def _guard(self, step: Callable[[], _T]) -> _T:
        """Run one step of Pillow's. Its plugins raise whatever a damaged file provokes, so everything is caught."""
        try:
            return step()
        except OcrMlxError:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise self._too_large("its pixels are") from error
        except MemoryError as error:
            raise SourceTooLarge(
                f"The {self._name} image needs more memory than is allowed.",
                hint="Scale it down or cut it up, or raise OCR_MLX_RENDER_MEMORY_MB.",
            ) from error
        except Exception as error:
            raise self._translate(str(error)) from error

    def _translate(self, reason: str) -> OcrMlxError:
        # Pillow's own words may hold the addresses of objects and are not passed on.
        if "MAX_TEXT_" in reason:
            return SourceTooLarge(
                f"The {self._name} image carries metadata that unpacks to too much.", hint="Save it without metadata."
            )
        what = "is cut short" if "truncated" in reason.lower() else "is damaged"
        return BadImage(f"The {self._name} image {what}.", hint=media.repair(self._kind))

    def _too_large(self, size: str) -> SourceTooLarge:
        return SourceTooLarge(
            f"The {self._name} image is too large: {size} more than the {self._limits.max_pixels:,} that are allowed.",
            hint="Scale it down or cut it up.",
        )


def _declared_pixels(data: bytes) -> int:
    """The most pixels of any item in a HEIF container (`ispe` boxes): its libraries refuse large ones as damaged."""
    sizes = _HEIF_SIZES.findall(data, 0, _HEIF_HEADER)
    return max((int.from_bytes(w, "big") * int.from_bytes(h, "big") for w, h in sizes), default=0)


def _parse_header(data: bytes, kind: media.Kind) -> Image.Image:
    stream = io.BytesIO(data)
    if kind == "HEIF":
        return _open_heif(stream)
    if kind == "AVIF" and not features.check("avif"):
        raise UnsupportedMedia("AVIF cannot be read by this Pillow.", hint='Run: pip install --upgrade "pillow>=11.3"')
    return Image.open(stream, formats=(kind,))


def _open_heif(stream: io.BytesIO) -> Image.Image:
    # The class is used as it is: registering it with Pillow would change every other user of Pillow in the process.
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise UnsupportedMedia(
            "HEIC images need a decoder that is not installed.", hint='Run: pip install "ocr_mlx[heif]"'
        ) from error
    open_image: Callable[[io.BytesIO], Image.Image] = HeifImageFile
    return open_image(stream)


def _resolution(image: Image.Image) -> float | None:
    """Pixels per inch as the file says, where that is plausible for a page."""
    try:
        dpi = float(image.info["dpi"][0])
    except (KeyError, IndexError, TypeError, ValueError, ArithmeticError):
        return None
    low, high = _PLAUSIBLE_DPI
    return dpi if math.isfinite(dpi) and low <= dpi <= high else None
