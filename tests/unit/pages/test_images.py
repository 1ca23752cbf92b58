from __future__ import annotations

import builtins
import struct
import threading
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image, PngImagePlugin, features

from ocr_mlx.errors import BadImage, PageOutOfRange, SourceTooLarge, UnsupportedMedia
from ocr_mlx.pages import images
from ocr_mlx.pages.images import ImageReader
from ocr_mlx.pages.limits import PageLimits
from ocr_mlx.pages.load import Document

Encode = Callable[..., bytes]
Opened = Callable[..., Document]
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


def frames() -> list[Image.Image]:
    return [Image.new("RGB", (32, 16), colour) for colour in COLOURS]


def centre(image: Image.Image) -> tuple[int, ...]:
    found = image.getpixel((image.width // 2, image.height // 2))
    assert isinstance(found, tuple)
    return tuple(round(value / 255) * 255 for value in found)


KINDS = ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "JPEG2000", "PPM"]
KINDS += ["AVIF"] if features.check("avif") else []


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(encode: Encode, opened: Opened, kind: str) -> None:
    document = opened(encode(frames()[0], kind))
    assert document.page_count == 1
    assert document.indices == (0,)
    page = document.page(0, dpi=96)
    assert (page.index, page.width, page.height, page.origin, page.text_layer) == (0, 32, 16, "image", None)
    assert page.image.mode == "RGB"
    assert page.image.size == (32, 16)
    assert centre(page.image) == COLOURS[0]


def test_cmyk_jpeg_as_adobe_writes_it_inverted(encode: Encode, opened: Opened) -> None:
    data = encode(Image.new("CMYK", (32, 16), (0, 255, 255, 0)), "JPEG")
    assert b"Adobe" in data
    assert centre(opened(data).page(0, dpi=96).image) == COLOURS[0]


def test_heic(opened: Opened, encode: Encode) -> None:
    heif = pytest.importorskip("pillow_heif")
    import io

    stream = io.BytesIO()
    heif.from_pillow(frames()[2]).save(stream)
    assert "HEIF" not in Image.OPEN
    page = opened(stream.getvalue()).page(0, dpi=96)
    assert centre(page.image) == COLOURS[2]
    assert "HEIF" not in Image.OPEN  # nobody else's Pillow is changed


def test_heic_without_its_decoder_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_heif(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "pillow_heif":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_heif)
    with pytest.raises(UnsupportedMedia, match=r"ocr_mlx\[heif\]"):
        ImageReader(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIF", PageLimits())


def test_avif_without_its_decoder_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda name: name != "avif")
    with pytest.raises(UnsupportedMedia, match="AVIF"):
        ImageReader(b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", "AVIF", PageLimits())


def test_every_frame_of_a_tiff_is_a_page(encode: Encode, opened: Opened) -> None:
    first, *others = frames()
    document = opened(encode(first, "TIFF", save_all=True, append_images=others))
    assert document.page_count == 3
    assert [centre(document.page(index, dpi=96).image) for index in (2, 0, 1)] == [COLOURS[2], COLOURS[0], COLOURS[1]]


def test_tiff_pages_from_several_threads(encode: Encode, opened: Opened) -> None:
    first, *others = frames()
    document = opened(encode(first, "TIFF", save_all=True, append_images=others, compression="tiff_lzw"))
    found: dict[int, tuple[int, ...]] = {}

    def read(index: int) -> None:
        for _ in range(10):
            found[index] = centre(document.page(index, dpi=96).image)

    threads = [threading.Thread(target=read, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict(enumerate(COLOURS))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_an_animation_is_its_first_frame(encode: Encode, opened: Opened, kind: str) -> None:
    first, *others = frames()
    document = opened(encode(first, kind, save_all=True, append_images=others))
    assert document.page_count == 1
    assert centre(document.page(0, dpi=96).image) == COLOURS[0]


def test_one_broken_frame_of_a_tiff_is_one_error(encode: Encode, opened: Opened) -> None:
    first, *others = frames()
    data = bytearray(encode(first, "TIFF", save_all=True, append_images=others, compression="tiff_adobe_deflate"))
    streams = [at for at in range(len(data) - 1) if data[at : at + 2] == b"\x78\x9c"]
    assert len(streams) == 3
    data[streams[1] : streams[1] + 6] = b"\xff" * 6
    document = opened(bytes(data))
    assert centre(document.page(0, dpi=96).image) == COLOURS[0]
    with pytest.raises(BadImage):
        document.page(1, dpi=96)
    assert centre(document.page(2, dpi=96).image) == COLOURS[2]


def test_a_chain_of_frames_that_breaks_is_one_failed_page_behind_the_good_ones(encode: Encode, opened: Opened) -> None:
    image = frames()[0]
    data = encode(image, "TIFF")
    place = struct.unpack("<I", data[4:8])[0]
    count = struct.unpack("<H", data[place : place + 2])[0]
    next_frame = place + 2 + 12 * count
    data = data[:next_frame] + struct.pack("<I", len(data) + 1000) + data[next_frame + 4 :]
    document = opened(data)
    assert document.page_count == 2
    assert centre(document.page(0, dpi=96).image) == COLOURS[0]
    with pytest.raises(BadImage):
        document.page(1, dpi=96)


def test_a_tiff_of_endless_frames_is_refused(encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *others = frames()
    data = encode(first, "TIFF", save_all=True, append_images=others)
    monkeypatch.setattr(images, "_MOST_FRAMES", 2)
    with pytest.raises(SourceTooLarge, match="more than 2 pages"):
        ImageReader(data, "TIFF", PageLimits())


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_off_image_is_bad_whatever_is_left_of_it(encode: Encode, opened: Opened, kind: str) -> None:
    noise = Image.effect_noise((64, 64), 80).convert("RGB")
    data = encode(noise, kind)
    for share in (0.3, 0.6, 0.9):
        with pytest.raises(BadImage) as caught:
            opened(data[: int(len(data) * share)]).page(0, dpi=96)
        assert "<" not in str(caught.value)
        assert caught.value.hint


def png(width: int, height: int, *, data: bytes = b"") -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    pieces = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + pieces


@pytest.mark.parametrize("size", [(9000, 9000), (9400, 9600), (13400, 13400), (2_000_000_000, 2_000_000_000)])
def test_a_bomb_is_refused_by_its_header(opened: Opened, size: tuple[int, int]) -> None:
    # Below Pillow's own warning (89 million pixels), above it, above its error, and beyond any integer of its own.
    with pytest.raises(SourceTooLarge, match="pixels"):
        opened(png(*size))


def test_the_pixel_limit_is_exact(opened: Opened, encode: Encode) -> None:
    data = encode(Image.new("L", (10, 10)))
    assert opened(data, max_pixels=100).page(0, dpi=96).width == 10
    with pytest.raises(SourceTooLarge, match="10 x 10"):
        opened(data, max_pixels=99)


def test_the_pixel_limit_holds_for_later_frames(opened: Opened, encode: Encode) -> None:
    large = Image.new("L", (20, 20))
    document = opened(encode(Image.new("L", (10, 10)), "TIFF", save_all=True, append_images=[large]), max_pixels=100)
    assert document.page(0, dpi=96).width == 10
    with pytest.raises(SourceTooLarge):
        document.page(1, dpi=96)


def test_pillows_own_limit_is_left_alone(opened: Opened, encode: Encode) -> None:
    before = Image.MAX_IMAGE_PIXELS
    opened(encode(Image.new("L", (10, 10)))).page(0, dpi=96)
    assert before == Image.MAX_IMAGE_PIXELS


def test_a_large_heif_is_refused_by_what_it_declares(opened: Opened) -> None:
    ispe = b"\0\0\0\x14ispe\0\0\0\0" + struct.pack(">II", 17000, 17000)
    for brand in (b"avif", b"heic"):
        with pytest.raises(SourceTooLarge):
            opened(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1" + brand + ispe)


def test_metadata_that_unpacks_to_too_much_is_named_as_the_reason(opened: Opened, encode: Encode) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "x" * 10_000_000, zip=True)
    with pytest.raises(SourceTooLarge, match="metadata"):
        opened(encode(Image.new("L", (4, 4)), pnginfo=text))


def test_resolution_is_told_where_it_is_plausible(opened: Opened, encode: Encode) -> None:
    image = Image.new("L", (4, 4))
    assert opened(encode(image, dpi=(200, 200))).page(0, dpi=96).dpi == pytest.approx(200, abs=0.1)
    assert opened(encode(image)).page(0, dpi=96).dpi is None
    assert opened(encode(image, dpi=(1, 1))).page(0, dpi=96).dpi is None


def test_there_is_no_second_page(opened: Opened, encode: Encode) -> None:
    document = opened(encode(Image.new("L", (4, 4))))
    for index in (1, -1):
        with pytest.raises(PageOutOfRange):
            document.page(index, dpi=96)
