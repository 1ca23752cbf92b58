"""Pages become the views, tiles and places that upstream makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ocr_mlx.domain import Page, Prompt
from ocr_mlx.errors import CheckpointIncomplete, InvalidOption
from ocr_mlx.model.base import ModelInputs, PreparedPage
from ocr_mlx.model.families.deepseek_ocr.family import FAMILY
from ocr_mlx.model.families.deepseek_ocr.tiles import GREY, choose_grid, features, look, size_of, values
from tests.families import deepseek_pages, deepseek_words

GOLDEN = Path(__file__).parent / "golden"
VIEWS: dict[str, Any] = json.loads((GOLDEN / "pages-pictures.json").read_text())
VISION = {1: "deeplip_b_l", 2: "deepencoderv2"}


def config(version: int, **changes: Any) -> dict[str, Any]:
    """A published config.json, less what equals the defaults, with few words."""
    return {
        "model_type": "deepseek_vl_v2",
        "image_token_id": deepseek_pages.IMAGE_TOKEN,
        "language_config": {"vocab_size": 420, "eos_token_id": 1},
        "vision_config": {"model_name": VISION[version]},
    } | changes


@pytest.fixture(scope="module", params=(1, 2), ids=("v1", "v2"))
def version(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.fixture(scope="module")
def prepare(version: int, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., PreparedPage]:
    folder = tmp_path_factory.mktemp(f"v{version}")
    (folder / "config.json").write_text(json.dumps(config(version)))
    deepseek_words.write_tokenizer(folder)
    processor = FAMILY.processor(folder, config(version))

    def one(image: Image.Image, mode: str, text: str = "") -> PreparedPage:
        return processor.prepare(page_of(image), Prompt(text=text, mode=mode), FAMILY.modes[mode])

    return one


def page_of(image: Image.Image) -> Page:
    """The picture as a page."""
    return Page(index=0, image=image, width=image.width, height=image.height, dpi=None, origin="image")


def cases() -> list[tuple[int, str, str]]:
    """Version, size and picture of every golden."""
    return [(int(v), size, name) for v, sizes in VIEWS.items() for size, names in sizes.items() for name in names]


@pytest.mark.parametrize(("number", "size", "name"), cases())
def test_views_are_those_of_upstream(number: int, size: str, name: str) -> None:
    wanted = VIEWS[str(number)][size][name]
    settings = size_of(number, size)
    view = look(deepseek_pages.image(name), settings)
    assert list(view.grid) == wanted["grid"]
    assert deepseek_pages.print_of(view.whole) == wanted["whole"]
    assert deepseek_pages.print_of(view.tiles) == wanted["tiles"]
    assert features(number, settings, view.grid, 64) == wanted["places"]


def test_grids_are_those_of_upstream() -> None:
    for width, height, columns, rows, columns_2, rows_2 in json.loads((GOLDEN / "pages-grids.json").read_text()):
        assert choose_grid(width, height, 640, 9) == (columns, rows), (width, height)
        assert choose_grid(width, height, 768, 6) == (columns_2, rows_2), (width, height)


@pytest.mark.parametrize("most", (6, 9))
def test_grids_of_one_number_are_never_equally_near(most: int) -> None:
    """Upstream walks through a set: their order within one number of tiles must not matter."""
    grids = [(i, j) for i in range(1, most + 1) for j in range(1, most + 1) if 2 <= i * j <= most]
    shapes = sorted({i / j for i, j in grids})
    numbers = {shape: {i * j for i, j in grids if i / j == shape} for shape in shapes}
    assert all(len(numbers[shape]) == sum(i / j == shape for i, j in grids) for shape in shapes)
    assert all(numbers[a].isdisjoint(numbers[b]) for a, b in pairwise(shapes))


@pytest.mark.parametrize(
    ("number", "size", "grid", "count"),
    [
        (1, "tiny", (1, 1), 73),
        (1, "small", (1, 1), 111),
        (1, "base", (1, 1), 273),
        (1, "large", (1, 1), 421),
        (1, "gundam", (1, 1), 273),
        (1, "gundam", (2, 3), 273 + 30 * 21),
        (1, "gundam", (3, 2), 273 + 20 * 31),
        (1, "gundam", (1, 9), 273 + 90 * 11),
        (2, "small", (1, 1), 145),
        (2, "base", (1, 1), 257),
        (2, "gundam", (1, 1), 257),
        (2, "gundam", (2, 3), 257 + 6 * 144),
        (2, "gundam", (2, 1), 257 + 2 * 144),
    ],
)
def test_places_are_the_published_numbers(number: int, size: str, grid: tuple[int, int], count: int) -> None:
    assert features(number, size_of(number, size), grid, 64) == count


def test_a_page_becomes_a_row(prepare: Callable[..., PreparedPage], version: int) -> None:
    row = one_row(prepare(deepseek_pages.image("page"), "document"))
    side = {1: 640, 2: 768}[version]
    assert row.pixels is not None and row.pixels.shape == (1024, 1024, 3) and row.pixels.dtype == np.float32
    assert row.extras["tiles"].shape == (6, side, side, 3) and row.extras["tiles"].dtype == np.float32
    assert row.extras["grid"].tolist() == [2, 3]
    assert row.effective_size == (2 * side, 3 * side)
    places = {1: 273 + 30 * 21, 2: 257 + 6 * 144}[version]
    assert row.token_ids.count(deepseek_pages.IMAGE_TOKEN) == places
    assert row.token_ids[: places + 1] == (0, *[deepseek_pages.IMAGE_TOKEN] * places)
    assert row.prompt_tokens == len(row.token_ids)


def test_tiles_are_the_page_row_by_row() -> None:
    image = deepseek_pages.image("page")
    view = look(image, size_of(1, "gundam"))
    stretched = values(image.resize((1280, 1920)))
    assert view.tiles is not None
    np.testing.assert_array_equal(view.tiles[1], stretched[:640, 640:])
    np.testing.assert_array_equal(view.tiles[4], stretched[1280:, :640])


def test_a_small_page_has_no_tiles(prepare: Callable[..., PreparedPage], version: int) -> None:
    row = one_row(prepare(deepseek_pages.image("small"), "document"))
    assert not row.extras
    assert row.effective_size == (1024, 683)
    assert row.token_ids.count(deepseek_pages.IMAGE_TOKEN) == {1: 273, 2: 257}[version]


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (3, 40000), (1, 1), (2, 1), (20000, 20)])
def test_no_shape_is_too_thin(prepare: Callable[..., PreparedPage], size: tuple[int, int]) -> None:
    """Where upstream's padding would leave nothing of a page, a line of one pixel stays."""
    row = one_row(prepare(Image.new("RGB", size, (0, 0, 0)), "document"))
    assert row.pixels is not None
    assert (row.pixels == -1).any(axis=(1, 2)).sum() >= 1
    assert (row.pixels == values(Image.new("RGB", (1, 1), GREY))[0, 0]).any() or size == (1, 1)


@pytest.mark.parametrize("kind", ("L", "1", "RGBA", "CMYK", "P"))
def test_any_kind_of_picture_is_read(prepare: Callable[..., PreparedPage], kind: str) -> None:
    image = deepseek_pages.image("small").convert(kind)
    row = one_row(prepare(image, "document"))
    expected = one_row(prepare(image.convert("RGB"), "document"))
    assert row.pixels is not None and expected.pixels is not None
    np.testing.assert_array_equal(row.pixels, expected.pixels)


def test_every_mode_prepares(prepare: Callable[..., PreparedPage], version: int) -> None:
    image = deepseek_pages.image("over").resize((900, 300))
    only_first = ("tiny", "large")
    for mode in FAMILY.modes:
        if version == 2 and mode.split("-")[-1] in only_first:
            with pytest.raises(InvalidOption, match="gundam, small, base"):
                prepare(image, mode, "a word")
            continue
        row = one_row(prepare(image, mode, "a word" if mode.startswith("locate") else ""))
        assert row.pixels is not None
        assert row.token_ids.count(deepseek_pages.IMAGE_TOKEN) > 60, mode


def test_pages_are_rendered_as_upstream_does(tmp_path: Path, version: int) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config(version)))
    deepseek_words.write_tokenizer(tmp_path)
    processor = FAMILY.processor(tmp_path, config(version))
    assert processor.dpi == 144
    assert processor.eos_token_ids == {1}
    assert processor.suppress_token_ids == ()
    assert processor.repetition_test() is None


@pytest.mark.parametrize("lost", ("<|ref|>", "<|/det|>", "<|grounding|>", "<td>", "</tr>", "<image>"))
def test_a_tokenizer_that_lost_special_tokens_is_refused(tmp_path: Path, lost: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config(1)))
    deepseek_words.write_tokenizer(tmp_path, [name for name in deepseek_words.LAST if name != lost])
    with pytest.raises(CheckpointIncomplete, match=r"lacks the special tokens .*"):
        FAMILY.processor(tmp_path, config(1))


def test_a_tokenizer_with_special_tokens_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config(1)))
    deepseek_words.write_tokenizer(tmp_path)
    with pytest.raises(CheckpointIncomplete, match="at 400, the model expects it at 128815"):
        FAMILY.processor(tmp_path, config(1, image_token_id=None))


def test_no_tokenizer_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointIncomplete, match=r"tokenizer\.json is missing"):
        FAMILY.processor(tmp_path, config(1))


def test_end_tokens_of_the_folder_count(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config(1)))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2]}))
    deepseek_words.write_tokenizer(tmp_path)
    assert FAMILY.processor(tmp_path, config(1)).eos_token_ids == {1, 2}


def one_row(prepared: PreparedPage) -> ModelInputs:
    """The page's only row."""
    (row,) = prepared.rows
    assert prepared.glue == ("",)
    return row
