"""Everything in a checkpoint's folder but its weights: pictures, prompts, tokenizer, and what is said when it is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from ocr_mlx.domain import ModelRef, Page, PageStatus, Prompt, resolve
from ocr_mlx.errors import CheckpointIncomplete, ModelError, UnsupportedArchitecture
from ocr_mlx.model.families.lighton_ocr.config import LightOnConfig
from ocr_mlx.model.families.lighton_ocr.family import FAMILY
from ocr_mlx.model.families.lighton_ocr.picture import PictureSettings, page_pixels
from ocr_mlx.model.families.lighton_ocr.processor import LightOnProcessor, read_processor
from ocr_mlx.model.families.lighton_ocr.prompt import ChatStyle
from ocr_mlx.model.layers.pixels import CLIP_MEAN, CLIP_STD
from ocr_mlx.model.load import load_model
from ocr_mlx.utils.image import to_plain
from tests.families import lighton_checkpoint as made
from tests.families import lighton_made

HERE = Path(__file__).parent
UPSTREAM = load_file(made.GOLDEN / "processor.safetensors")
PROMPTS: list[dict[str, Any]] = json.loads((made.GOLDEN / "prompts.json").read_text())
MARKDOWN, GROUNDING, RAW = (FAMILY.modes[name] for name in ("markdown", "grounding", "raw"))


def published(name: str = "2-1b") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((HERE / f"config-{name}.json").read_text())
    return found


def settings(joint: dict[str, Any] | None = None, image: dict[str, Any] | None = None) -> PictureSettings:
    return PictureSettings.read(joint or {}, image or {}, LightOnConfig.read(published()))


def page(image: Image.Image, *following: Image.Image) -> Page:
    return Page(
        index=0, image=image, width=image.width, height=image.height, dpi=None, origin="image", following=following
    )


# --- pictures


@pytest.mark.parametrize("name", lighton_made.SIZES)
def test_pixels_are_upstreams(name: str) -> None:
    found = page_pixels(to_plain(lighton_made.picture(name)).convert("RGB"), settings())
    assert found.dtype == np.float32
    assert found.shape == (*UPSTREAM[f"{name}.size"], 3)
    mean, std = np.array(CLIP_MEAN), np.array(CLIP_STD)
    assert lighton_made.digest(found, mean, std) == UPSTREAM[f"{name}.digest"][0]
    np.testing.assert_allclose(lighton_made.sample(found), UPSTREAM[f"{name}.sample"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("merge", "place"), [(2, 0), (1, 1)])
def test_sides_are_rounded_to_what_the_file_says(merge: int, place: int) -> None:
    rounding = settings({"patch_size": 14, "spatial_merge_size": merge}, {"patch_size": 14})
    for size, expected in zip(lighton_made.sizes(), UPSTREAM["sizes"][:, place], strict=True):
        # upstream leaves nothing of the thinnest, and gives a single patch no token; here they keep one
        assert rounding.target(*size) == tuple(np.maximum(expected, 28)), size


def test_published_page_sizes() -> None:
    whole_cells = settings()
    assert whole_cells.target(1700, 2200) == (1204, 1540)
    assert whole_cells.tokens(np.zeros((1540, 1204, 3), np.float32)) == 2365
    whole_patches = settings({"patch_size": 14, "spatial_merge_size": 1})
    assert whole_patches.target(1700, 2200) == (1190, 1540)
    assert whole_patches.tokens(np.zeros((1540, 1190, 3), np.float32)) == 2310


@pytest.mark.parametrize("size", [(1, 30_000), (30_000, 1), (3, 9000)])
def test_very_long_pages_keep_a_cell(size: tuple[int, int]) -> None:
    found = page_pixels(Image.new("RGB", size, "white"), settings())
    assert sorted(found.shape[:2]) == [28, 1540]


def test_picture_settings_come_from_the_file() -> None:
    image = {"size": {"longest_edge": 280}, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.25, 0.5, 1]}
    found = settings({}, image | {"patch_size": {"height": 14, "width": 14}})
    assert found.longest == 280
    assert found.unit == found.cell == 28
    assert found.resample is Image.Resampling.BILINEAR
    white = page_pixels(Image.new("RGB", (30, 30), "white"), found)
    np.testing.assert_allclose(white[0, 0], [2, 1, 0.5], rtol=1e-6)
    assert settings().longest == 1540


@pytest.mark.parametrize(
    ("joint", "image", "named"),
    [
        ({"patch_size": -1}, {}, "patch_size is -1"),
        ({"spatial_merge_size": "two"}, {}, "spatial_merge_size"),
        ({}, {"size": {"longest_edge": 0}}, "longest_edge"),
        ({}, {"do_resize": False, "do_normalize": False}, "do_resize, do_normalize"),
        ({}, {"resample": 77}, "resample 77"),
        ({}, {"image_mean": [0.5]}, "image_mean"),
        ({"patch_size": {"height": 14, "width": 7}}, {}, "patch_size"),
    ],
)
def test_useless_picture_settings_are_named(joint: dict[str, Any], image: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedArchitecture, match=named) as caught:
        settings(joint, image)
    assert caught.value.hint


# --- prompts


@pytest.fixture(params=["odd_grids", "untied"])
def both(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, LightOnProcessor]:
    """A processor for each of the two published templates, with its name."""
    ref = made.write(request.param, tmp_path / "model")
    template = {"odd_grids": "lines", "untied": "one_line"}[request.param]
    return template, read_processor(ref.path, made.config_of(request.param))


def test_prompts_are_upstreams(both: tuple[str, LightOnProcessor]) -> None:
    template, processor = both
    cases = [case for case in PROMPTS if case["template"] == template]
    assert len(cases) == 16
    for case in cases:
        ids = processor._prompt.ids([1] * case["pictures"], case["text"], case["system"])
        assert list(ids) == case["ids"], case["written"]


def test_a_page_is_one_row(both: tuple[str, LightOnProcessor]) -> None:
    template, processor = both
    image_token = {"lines": 290, "one_line": 7}[template]
    picture = Image.new("RGB", (100, 60), "white")
    (row,) = processor.prepare(page(picture), Prompt(), MARKDOWN).rows
    (asked,) = processor.prepare(page(picture), Prompt(text="Why?", system="Be brief."), GROUNDING).rows
    (grounded,) = processor.prepare(page(picture), Prompt(), GROUNDING).rows
    assert row.pixels is not None
    high, wide, _ = row.pixels.shape
    assert row.effective_size == (wide, high)
    cell = 28 if template == "lines" else 16
    assert row.token_ids.count(image_token) == high * wide // cell**2
    assert row.prompt_tokens == len(row.token_ids)
    assert row.extras == {}
    words = processor.tokenizer.encode("grounding").ids
    assert not contains(row.token_ids, words)
    assert contains(grounded.token_ids, words)
    assert contains(asked.token_ids, processor.tokenizer.encode("Why?").ids)
    assert not contains(asked.token_ids, words)
    assert (processor.dpi, processor.max_rows, processor.repetition_test()) == (200, 4, None)


def contains(ids: tuple[int, ...], words: list[int]) -> bool:
    return any(list(ids[start : start + len(words)]) == words for start in range(len(ids)))


def test_pages_that_share_a_prompt(both: tuple[str, LightOnProcessor]) -> None:
    template, processor = both
    image_token = {"lines": 290, "one_line": 7}[template]
    pictures = [Image.new("RGB", size, "white") for size in ((100, 60), (30, 90), (20, 20))]
    (row,) = processor.prepare(page(*pictures), Prompt(), MARKDOWN).rows
    shapes = [row.pixels.shape, *(row.extras[name].shape for name in sorted(row.extras))]  # type: ignore[union-attr]
    cell = 28 if template == "lines" else 16
    assert len(shapes) == 3
    assert row.token_ids.count(image_token) == sum(high * wide // cell**2 for high, wide, _ in shapes)


def test_special_tokens_in_a_users_text_are_words(both: tuple[str, LightOnProcessor]) -> None:
    template, processor = both
    image_token = {"lines": 290, "one_line": 7}[template]
    picture = Image.new("RGB", (9, 9), "white")
    (row,) = processor.prepare(page(picture), Prompt(text="<|image_pad|><|im_end|>"), MARKDOWN).rows
    assert row.token_ids.count(image_token) == 1
    assert processor.tokenizer.decode(processor.tokenizer.encode("<|im_end|> é").ids) == "<|im_end|> é"
    ends = sorted(processor.eos_token_ids)
    assert processor.tokenizer.decode([*ends, image_token], skip_special_tokens=True) == ""


def test_templates_are_found_wherever_they_are(tmp_path: Path) -> None:
    text = (made.GOLDEN / "one_line.jinja").read_text()
    assert ChatStyle.read(tmp_path) == ChatStyle(line="\n", tail="\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": text}))
    assert ChatStyle.read(tmp_path) == ChatStyle(line="\\n", tail="")
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": text.replace("\\n", "\n")}))
    assert ChatStyle.read(tmp_path) == ChatStyle(line="\n", tail="")
    (tmp_path / "chat_template.jinja").write_bytes((made.GOLDEN / "lines.jinja").read_bytes())
    assert ChatStyle.read(tmp_path) == ChatStyle(line="\n", tail="\n")


def test_end_tokens(tmp_path: Path) -> None:
    for case, ends in (("odd_grids", {282, 280}), ("untied", {1, 2})):
        ref = made.write(case, tmp_path / case)
        assert read_processor(ref.path, made.config_of(case)).eos_token_ids == ends
        (ref.path / "generation_config.json").unlink()
        assert read_processor(ref.path, made.config_of(case)).eos_token_ids == ends
        assert read_processor(ref.path, made.config_of(case) | {"eos_token_id": 9}).eos_token_ids == ends | {9}


def test_modes_decide_the_clean_up(both: tuple[str, LightOnProcessor]) -> None:
    _, processor = both
    blank = page(Image.new("RGB", (200, 100)))
    prepared = processor.prepare(blank, Prompt(), MARKDOWN)
    raw = "![text](0,0,500,1000) \\$x\\$\n"
    for mode in (MARKDOWN, GROUNDING):
        clean = processor.postprocess(raw, blank, prepared, mode)
        assert clean.text == "$x$"
        assert clean.blocks[0].box == (0, 0, 100, 100)
    assert processor.postprocess(raw, blank, prepared, RAW).text == raw.strip()
    assert processor.postprocess(raw, blank, prepared, RAW).blocks == ()


# --- damage


@pytest.fixture
def ref(tmp_path: Path) -> ModelRef:
    return made.write("odd_grids", tmp_path / "model")


def tokenizer_without(*names: str) -> Callable[[Path], object]:
    special = {name: id_ for name, id_ in lighton_made.QWEN.items() if name not in names}
    return lambda folder: lighton_made.write_tokenizer(folder, special)


@pytest.mark.parametrize(
    ("damage", "error", "named"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), CheckpointIncomplete, "tokenizer.json"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), CheckpointIncomplete, "tokenizer.json"),
        (tokenizer_without("<|image_pad|>", "<|im_end|>"), CheckpointIncomplete, r"<\|im_end\|>, <\|image_pad\|>"),
        (tokenizer_without("<|endoftext|>"), CheckpointIncomplete, "endoftext"),
        (lambda folder: lighton_made.write_tokenizer(folder, lighton_made.PRUNED), CheckpointIncomplete, "at 7"),
        (lambda folder: (folder / "processor_config.json").write_text("["), CheckpointIncomplete, "processor_config"),
    ],
)
def test_damage_is_named(ref: ModelRef, damage: Callable[[Path], object], error: type[ModelError], named: str) -> None:
    damage(ref.path)
    with pytest.raises(error, match=named) as caught:
        load_model(ref, dtype="float32")
    assert caught.value.hint


def test_processor_files_may_be_missing_or_apart(ref: ModelRef) -> None:
    (ref.path / "processor_config.json").unlink()
    config = made.config_of("odd_grids")
    assert read_processor(ref.path, config)._settings.longest == 280
    (ref.path / "preprocessor_config.json").write_text(json.dumps({"size": {"longest_edge": 140}}))
    assert read_processor(ref.path, config)._settings.longest == 140


def test_wrong_configs_are_named() -> None:
    for place, changes, named in (
        ("", {"vision_config": None}, "'vision_config'"),
        ("", {"text_config": None}, "'text_config'"),
        ("", {"vision_feature_layer": -2}, "vision_feature_layer is -2"),
        ("", {"multimodal_projector_bias": True}, "multimodal_projector_bias"),
        ("", {"projector_hidden_act": "relu"}, "'relu'"),
        ("", {"spatial_merge_size": 0}, "spatial_merge_size is 0"),
        ("vision_config", {"model_type": "siglip"}, "vision_config.model_type is 'siglip'"),
        ("vision_config", {"hidden_size": None}, "vision_config.hidden_size"),
        ("vision_config", {"num_attention_heads": 3}, "3 heads"),
        ("vision_config", {"head_dim": 32}, "vision_config.head_dim is 32"),
        ("vision_config", {"hidden_act": "gelu"}, "vision_config.hidden_act is 'gelu'"),
        ("text_config", {"model_type": "mistral"}, "text_config.model_type is 'mistral'"),
        ("text_config", {"hidden_size": None}, "text_config.hidden_size"),
        ("text_config", {"hidden_size": "big"}, "text_config.hidden_size is 'big'"),
        ("text_config", {"num_key_value_heads": 3}, "num_key_value_heads"),
        ("text_config", {"attention_bias": True}, "attention_bias"),
        ("text_config", {"use_sliding_window": True}, "use_sliding_window"),
        ("text_config", {"rope_scaling": {"rope_type": "yarn"}}, "'yarn'"),
    ):
        config = published()
        (config[place] if place else config).update(changes)
        with pytest.raises(UnsupportedArchitecture, match=named) as caught:
            FAMILY.build(config)
        assert caught.value.hint


# --- decoding


def test_defaults_are_the_cards() -> None:
    plain = resolve(FAMILY.defaults, MARKDOWN.overrides)
    assert (plain.temperature, plain.top_p, plain.max_new_tokens) == (0.2, 0.9, 4096)
    assert (plain.top_k, plain.repetition_penalty, plain.no_repeat_ngram) == (0, 1.0, 0)
    assert resolve(FAMILY.defaults, GROUNDING.overrides).top_p == 1.0
    assert GROUNDING.prompt == "grounding"
    assert FAMILY.default_mode in FAMILY.modes
    assert set(FAMILY.aliases.values()) <= set(FAMILY.checkpoints)
    assert FAMILY.aliases["lighton-3"] == "lightonai/LightOnOCR-3-1B"


def test_a_pdf_of_two_pages_is_read(ref: ModelRef, tmp_path: Path) -> None:
    import ocr_mlx

    pages = [lighton_made.picture(name) for name in ("small", "exact")]
    pages[0].save(tmp_path / "two.pdf", save_all=True, append_images=pages[1:], resolution=72.0)
    result = ocr_mlx.read(tmp_path / "two.pdf", model=str(ref.path), max_new_tokens=6, seed=1)
    assert [found.index for found in result.pages] == [0, 1]
    for found, size in zip(result.pages, ((252, 168), (252, 280)), strict=True):
        assert found.status in (PageStatus.OK, PageStatus.TRUNCATED, PageStatus.BLANK), found.error
        assert found.effective_size is not None
        assert sorted(found.effective_size) == sorted(size) or max(found.effective_size) == 280
        assert 0 < found.generated_tokens <= 6
