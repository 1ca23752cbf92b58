"""Documents through the whole program, with tiny models that look at pages as large as the published ones do."""

from __future__ import annotations

import io
from pathlib import Path

import mlx.core as mx
import pytest

import ocr_mlx
from ocr_mlx.domain import OcrResult, PageStatus
from ocr_mlx.errors import InvalidOption
from tests.families import deepseek_checkpoint as checkpoint
from tests.families import deepseek_made as made
from tests.families import deepseek_pages, deepseek_words

IMAGE = deepseek_pages.IMAGE_TOKEN
ALIKE = {"patch_size": 16, "image_size": 1024, "window_size": 14, "num_hidden_layers": 1, "global_attn_indexes": []}
TOKENS = 6


@pytest.fixture(scope="module", params=(1, 2), ids=("v1", "v2"))
def version(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.fixture(scope="module")
def folder(version: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose patches are as large as the published ones."""
    config = made.config_of({1: "graph-tiles", 2: "graph-queries-tiles"}[version], 420, IMAGE)
    config["vision_config"]["sam_config"] |= ALIKE
    config["text_config"] |= {"max_position_embeddings": 2048}
    tensors = {name: mx.array(array) for name, array in made.weights(made.shapes(config), 5).items()}
    path = tmp_path_factory.mktemp(f"whole-{version}")
    checkpoint.write_folder(path, made.published(config), tensors)
    return path


def read(folder: Path, data: bytes, mode: str, prompt: str = "") -> OcrResult:
    return ocr_mlx.read(data, model=str(folder), mode=mode, prompt=prompt, max_new_tokens=TOKENS, keep_alive=60)


def test_a_pdf_of_three_pages_is_read(folder: Path, version: int) -> None:
    first, *others = (deepseek_pages.image(name) for name in ("page", "landscape", "small"))
    pdf = io.BytesIO()
    first.save(pdf, "PDF", save_all=True, append_images=others, resolution=72)
    result = read(folder, pdf.getvalue(), "free-small")
    side = {1: 640, 2: 768}[version]
    assert [page.effective_size for page in result.pages] == [(side, side)] * 3
    assert [page.status for page in result.pages] == [PageStatus.TRUNCATED] * 3
    assert all(page.generated_tokens == TOKENS for page in result.pages)


def test_a_picture_with_tiles_is_read(folder: Path, version: int) -> None:
    data = io.BytesIO()
    deepseek_pages.image("page").resize((1000, 480)).save(data, "PNG")
    (page,) = read(folder, data.getvalue(), "document").pages
    places = {1: 273 + 10 * 21, 2: 257 + 2 * 144}[version]
    words = len(read_prompt())
    assert page.error is None
    assert page.prompt_tokens == 1 + places + words
    assert page.generated_tokens == TOKENS


def test_a_wrong_question_is_refused(folder: Path) -> None:
    data = io.BytesIO()
    deepseek_pages.image("small").save(data, "PNG")
    with pytest.raises(InvalidOption, match="needs to be told what to look for"):
        read(folder, data.getvalue(), "locate")


def read_prompt() -> list[int]:
    """The ids behind the picture in the document prompt."""
    text = deepseek_pages.PROMPTS["document"].split("<image>")[1]
    return list(deepseek_words.tokenizer(IMAGE).encode(text, add_special_tokens=False).ids)
