"""Any Pillow image to upright grey or RGB on white, and white borders. Pillow and numpy only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from PIL import ExifTags, Image, ImageOps

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WHITE = (255, 255, 255)
_BLACK = (0, 0, 0)
_TIFF_PHOTOMETRIC = 262
_WHITE_IS_ZERO = 0
_STRIP_VALUES = 1 << 22
_SAMPLE_BITS = (8, 10, 12, 14, 16)
_NEARLY_WHITE = 250


def to_plain(image: Image.Image) -> Image.Image:
    """`L` for grey, else `RGB`, at 8 bits: orientation applied, transparency flattened on white, deeper samples scaled.

    Ink that is white on transparent paper would vanish on white: such an image is flattened on black.
    """
    image = upright(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _from_deep(image)
    if image.has_transparency_data or image.mode in ("La", "RGBa"):
        return _flatten(image)
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; metadata that cannot be read turns nothing."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        return image if orientation == 1 else ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF raises anything, and the picture itself is fine
        return image


def pad(image: Image.Image, border: int) -> Image.Image:
    """`border` white pixels on every side; a negative border crops. ValueError where nothing would be left."""
    width, height = image.width + 2 * border, image.height + 2 * border
    if width < 1 or height < 1:
        raise ValueError(f"a border of {border} leaves nothing of {image.width} x {image.height} pixels")
    if border <= 0:
        return image.crop((-border, -border, image.width + border, image.height + border)) if border else image
    canvas = Image.new("RGB", (width, height), _WHITE)
    canvas.paste(image, (border, border))
    return canvas


def _flatten(image: Image.Image) -> Image.Image:
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    if image.mode != "RGBA":
        image = image.convert("RGBA")
    flat = _on(image, _WHITE)
    if _is_white(flat) and 0 < _highest(image.getchannel("A")) and _lowest(image.getchannel("A")) < 255:
        return _on(image, _BLACK)
    return flat


def _on(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    canvas = Image.new("RGB", image.size, colour)
    canvas.paste(image, mask=image)
    return canvas


def _is_white(image: Image.Image) -> bool:
    return all(_lowest(band) >= _NEARLY_WHITE for band in (image.getchannel(name) for name in "RGB"))


def _lowest(band: Image.Image) -> float:
    return _extremes(band)[0]


def _highest(band: Image.Image) -> float:
    return _extremes(band)[1]


def _extremes(band: Image.Image) -> tuple[float, float]:
    low, high = band.getextrema()
    return float(low), float(high)  # type: ignore[arg-type]


def _from_deep(image: Image.Image) -> Image.Image:
    """Grey with more than 8 bits a sample, or floats, which Pillow would clip, as `L`. A transparent level becomes white."""
    import numpy as np

    white = _white_level(image)
    tags: Any = getattr(image, "tag_v2", {})
    inverted = tags.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO
    transparent = image.info.get("transparency")
    canvas = Image.new("L", image.size)
    for top, values in _strips(image):
        shares = np.nan_to_num(values.astype(np.float32) / white, nan=1, posinf=1, neginf=0).clip(0, 1)
        shares = 1 - shares if inverted else shares
        if isinstance(transparent, int):
            shares[values == transparent] = 1
        canvas.paste(Image.fromarray(np.rint(shares * 255).astype(np.uint8)), (0, top))
    return canvas


def _white_level(image: Image.Image) -> float:
    """The value that white has: files rarely say how many bits they use, so the fewest that hold the largest value."""
    import numpy as np

    high = max(float(np.max(values, initial=0, where=np.isfinite(values))) for _, values in _strips(image))
    levels = ([1.0] if image.mode == "F" else []) + [float((1 << bits) - 1) for bits in _SAMPLE_BITS]
    return next((level for level in levels if high <= level), high)


def _strips(image: Image.Image) -> Iterator[tuple[int, NDArray[Any]]]:
    """(top, samples [rows, width]), strip by strip: a large page then costs little beyond itself."""
    import numpy as np

    rows = max(1, _STRIP_VALUES // image.width)
    for top in range(0, image.height, rows):
        yield top, np.asarray(image.crop((0, top, image.width, min(top + rows, image.height))))
