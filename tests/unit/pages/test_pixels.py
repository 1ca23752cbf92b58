"""`utils/image.py`: what a pixel must become is stated here in numbers, not taken from the code."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from ocr_mlx.utils.image import pad, to_plain

Colour = tuple[int, int, int]
WHITE, BLACK, RED = (255, 255, 255), (0, 0, 0), (255, 0, 0)
Encode = Callable[..., bytes]


def reopen(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def to_rgb(image: Image.Image) -> Image.Image:
    """What becomes of it, as a page has it."""
    plain = to_plain(image)
    assert plain.mode in ("L", "RGB")
    return plain.convert("RGB")


def near(found: object, wanted: Colour, tolerance: int = 1) -> bool:
    assert isinstance(found, tuple)
    return all(abs(int(a) - b) <= tolerance for a, b in zip(found, wanted, strict=True))


FLAT: list[tuple[str, object, Colour]] = [
    ("1", 0, BLACK),
    ("1", 1, WHITE),
    ("L", 128, (128, 128, 128)),
    ("RGB", RED, RED),
    ("RGBA", (255, 0, 0, 255), RED),
    ("RGBA", (0, 0, 0, 0), WHITE),
    ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
    ("LA", (0, 0), WHITE),
    ("LA", (0, 255), BLACK),
    ("CMYK", (0, 0, 0, 0), WHITE),
    ("CMYK", (0, 255, 255, 0), RED),
    ("CMYK", (0, 0, 0, 255), BLACK),
    ("YCbCr", (255, 128, 128), WHITE),
    ("HSV", (0, 255, 255), RED),
]


@pytest.mark.parametrize(("mode", "colour", "wanted"), FLAT)
def test_modes(mode: str, colour: Colour, wanted: Colour) -> None:
    rgb = to_rgb(Image.new(mode, (3, 2), colour))
    assert rgb.mode == "RGB"
    assert rgb.size == (3, 2)
    assert near(rgb.getpixel((1, 1)), wanted)


def test_premultiplied_alpha_is_flattened_on_white() -> None:
    half = Image.new("RGBA", (1, 1), (0, 0, 0, 128)).convert("RGBa")
    assert near(to_rgb(half).getpixel((0, 0)), (127, 127, 127))


def test_palette_with_one_transparent_entry(encode: Encode) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    rgb = to_rgb(reopen(encode(image, transparency=1)))
    assert [rgb.getpixel((x, 0)) for x in range(2)] == [RED, WHITE]


def test_palette_with_alpha_of_every_entry(encode: Encode) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 0])
    image.putpixel((1, 0), 1)
    rgb = to_rgb(reopen(encode(image, transparency=bytes([255, 51]))))
    assert rgb.getpixel((0, 0)) == RED
    assert near(rgb.getpixel((1, 0)), (204, 204, 204))


def test_a_colour_that_stands_for_transparent(encode: Encode) -> None:
    image = Image.new("RGB", (2, 1), RED)
    image.putpixel((1, 0), (0, 0, 1))
    rgb = to_rgb(reopen(encode(image, transparency=(0, 0, 1))))
    assert [rgb.getpixel((x, 0)) for x in range(2)] == [RED, WHITE]


def test_white_ink_on_transparent_paper_stays_visible() -> None:
    image = Image.new("RGBA", (4, 4), (255, 255, 255, 0))
    image.putpixel((1, 1), (255, 255, 255, 255))
    rgb = to_rgb(image)
    assert rgb.getpixel((1, 1)) == WHITE
    assert rgb.getpixel((0, 0)) == BLACK


@pytest.mark.parametrize("alpha", [0, 255])
def test_a_blank_page_stays_white_whatever_its_alpha(alpha: int) -> None:
    assert to_rgb(Image.new("RGBA", (4, 4), (255, 255, 255, alpha))).getpixel((1, 1)) == WHITE


def deep(values: list[int], dtype: str) -> Image.Image:
    return Image.fromarray(np.array([values], dtype))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_and_not_clipped(encode: Encode, kind: str) -> None:
    rgb = to_rgb(reopen(encode(deep([0, 255, 32768, 65535], "uint16"), kind)))
    assert [rgb.getpixel((x, 0))[0] for x in range(4)] == [0, 1, 128, 255]  # type: ignore[index]


def test_12_bits_in_16_reach_white() -> None:
    rgb = to_rgb(deep([0, 2048, 4095], "uint16"))
    assert [rgb.getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]  # type: ignore[index]


def test_big_endian_16_bit(encode: Encode) -> None:
    # A TIFF written by hand: MM, one strip of two samples.
    entries = [
        (256, 3, 2),
        (257, 3, 1),
        (258, 3, 16),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 134),
        (277, 3, 1),
        (278, 3, 1),
    ]
    entries += [(279, 4, 4), (339, 3, 1)]
    data = b"MM\0*\0\0\0\x08" + len(entries).to_bytes(2, "big")
    for tag, kind, value in entries:
        held = value.to_bytes(4, "big") if kind == 4 else value.to_bytes(2, "big") + b"\0\0"
        data += tag.to_bytes(2, "big") + kind.to_bytes(2, "big") + (1).to_bytes(4, "big") + held
    data += b"\0\0\0\0"
    assert len(data) == 134
    image = reopen(data + b"\x00\x00\xff\xff")
    assert image.mode == "I;16B"
    rgb = to_rgb(image)
    assert [rgb.getpixel((x, 0)) for x in range(2)] == [BLACK, WHITE]


def test_16_bit_tiff_with_white_as_zero_is_turned_round(encode: Encode) -> None:
    rgb = to_rgb(reopen(encode(deep([0, 65535], "uint16"), "TIFF", tiffinfo={262: 0})))
    assert [rgb.getpixel((x, 0)) for x in range(2)] == [WHITE, BLACK]


def test_a_transparent_16_bit_level_becomes_white(encode: Encode) -> None:
    data = encode(deep([0, 1000, 65535], "uint16"))
    chunk = b"tRNS" + (1000).to_bytes(2, "big")
    import zlib

    block = (2).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    place = data.index(b"IDAT") - 4
    rgb = to_rgb(reopen(data[:place] + block + data[place:]))
    assert [rgb.getpixel((x, 0))[0] for x in range(3)] == [0, 255, 255]  # type: ignore[index]


FLOATS: list[tuple[list[float], list[int]]] = [
    ([0.0, 0.5, 1.0], [0, 128, 255]),
    ([0.0, 127.5, 255.0], [0, 128, 255]),
    ([0.0, 65535.0, 32767.5], [0, 255, 128]),
    ([-5.0, 1e6, 5e5], [0, 255, 128]),
    ([0.0, float("nan"), 1.0], [0, 255, 255]),
    ([0.0, float("inf"), float("-inf")], [0, 255, 0]),
]


@pytest.mark.parametrize(("values", "wanted"), FLOATS)
def test_float_tiff(encode: Encode, values: list[float], wanted: list[int]) -> None:
    rgb = to_rgb(reopen(encode(Image.fromarray(np.array([values], "float32")), "TIFF")))
    assert [rgb.getpixel((x, 0))[0] for x in range(3)] == wanted  # type: ignore[index]


@pytest.mark.parametrize("top", [255, 65535, 1_000_000])
def test_32_bit_integers(encode: Encode, top: int) -> None:
    rgb = to_rgb(reopen(encode(deep([0, top], "int32"), "TIFF")))
    assert [rgb.getpixel((x, 0)) for x in range(2)] == [BLACK, WHITE]


def test_a_deep_image_larger_than_one_strip_has_no_seams() -> None:
    column = np.arange(4096, dtype="uint16")[:, None] * 16
    rgb = np.asarray(to_rgb(Image.fromarray(np.repeat(column, 2048, axis=1))))
    wanted = np.rint(np.arange(4096) * 16 / 65535 * 255)
    assert np.array_equal(rgb[:, 0, 0], wanted)
    assert np.array_equal(rgb[:, -1, 2], wanted)


# Where the pixel that is top left once the picture is upright lies in the file, for a picture of 3 x 2 upright.
ORIENTATIONS = {1: "top left", 2: "top right", 3: "bottom right", 4: "bottom left"}
ORIENTATIONS |= {5: "top left", 6: "bottom left", 7: "bottom right", 8: "top right"}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_exif_orientation(encode: Encode, kind: str, orientation: int) -> None:
    size = (48, 32) if orientation < 5 else (32, 48)
    stored = Image.new("RGB", size, WHITE)
    place = ORIENTATIONS[orientation]
    x = size[0] - 16 if "right" in place else 0
    y = size[1] - 16 if "bottom" in place else 0
    stored.paste(BLACK, (x, y, x + 16, y + 16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    rgb = to_rgb(reopen(encode(stored, kind, exif=exif)))
    assert rgb.size == (48, 32)
    assert near(rgb.getpixel((4, 4)), BLACK, 30)
    assert all(near(rgb.getpixel(corner), WHITE, 30) for corner in [(44, 4), (4, 28), (44, 28)])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_broken_exif_turns_nothing(encode: Encode) -> None:
    rgb = to_rgb(reopen(encode(Image.new("RGB", (3, 2), RED), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")))
    assert rgb.size == (3, 2)


def test_text_chunks_do_not_matter(encode: Encode) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "x" * 1000, zip=True)
    assert to_rgb(reopen(encode(Image.new("RGB", (1, 1), RED), pnginfo=text))).getpixel((0, 0)) == RED


def test_padding_is_white_and_around() -> None:
    padded = pad(Image.new("RGB", (4, 3), RED), 2)
    assert padded.size == (8, 7)
    assert [padded.getpixel(at) for at in [(1, 3), (2, 2), (5, 4), (6, 4)]] == [WHITE, RED, RED, WHITE]


def test_negative_padding_crops() -> None:
    image = Image.new("RGB", (5, 4), RED)
    image.putpixel((1, 1), BLACK)
    cropped = pad(image, -1)
    assert cropped.size == (3, 2)
    assert cropped.getpixel((0, 0)) == BLACK


def test_no_padding_is_the_same_image() -> None:
    image = Image.new("RGB", (1, 1))
    assert pad(image, 0) is image


def test_nothing_left_is_an_error() -> None:
    with pytest.raises(ValueError, match="leaves nothing"):
        pad(Image.new("RGB", (40, 30)), -15)
