"""Everything in a checkpoint's folder but its weights, and what is said when something there is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from safetensors.numpy import load_file

from ocr_mlx.domain import ModelRef, Page, Prompt
from ocr_mlx.errors import CheckpointIncomplete, ModelError, UnsupportedArchitecture
from ocr_mlx.model.families.nougat.config import NougatConfig
from ocr_mlx.model.families.nougat.family import FAMILY
from ocr_mlx.model.families.nougat.picture import PictureSettings, page_pixels
from ocr_mlx.model.families.nougat.processor import read_processor
from ocr_mlx.model.families.nougat.strips import PLANES, StripSettings
from ocr_mlx.model.load import load_model
from tests.families import nougat_checkpoint as made
from tests.families import nougat_made

UPSTREAM = load_file(made.GOLDEN / "processor.safetensors")
MARKDOWN, RAW = FAMILY.modes["markdown"], FAMILY.modes["raw"]


def published() -> tuple[dict[str, Any], dict[str, Any]]:
    """config.json and preprocessor_config.json as far as they shape a page of nougat-small."""
    config = made.config_of("odd_grids")
    config["encoder"] |= {"image_size": [896, 672]}
    return config, {
        "image_processor_type": "NougatImageProcessor",
        "size": {"height": 896, "width": 672},
        "resample": 2,
    }


def page(image: Image.Image) -> Page:
    return Page(index=0, image=image, width=image.width, height=image.height, dpi=None, origin="image")


# --- pictures


@pytest.mark.parametrize("name", nougat_made.SIZES)
def test_pixels_are_upstreams(name: str) -> None:
    config, values = published()
    settings = PictureSettings.read(values, NougatConfig.read(config).encoder)
    found = page_pixels(Image.fromarray(nougat_made.picture(name)), settings)
    assert found.shape == (896, 672, 3)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(nougat_made.sample(found), UPSTREAM[f"{name}.sample"])
    for axis, part in ((1, "rows"), (0, "columns")):
        sums = found.astype(np.float64).sum((axis, 2))
        np.testing.assert_allclose(sums, UPSTREAM[f"{name}.{part}"], rtol=0, atol=1e-3)


@pytest.mark.parametrize("size", [(1, 9000), (9000, 1), (3, 30_000)])
def test_very_long_pages_need_little_memory(size: tuple[int, int]) -> None:
    config, values = published()
    settings = PictureSettings.read(values, NougatConfig.read(config).encoder)
    image = Image.new("RGB", size, "white")
    image.putpixel((0, 0), (0, 0, 0))
    image.putpixel((size[0] - 1, size[1] - 1), (0, 0, 0))
    assert page_pixels(image, settings).shape == (896, 672, 3)


def test_long_axis_is_aligned_when_asked() -> None:
    config, values = published()
    encoder = NougatConfig.read(config).encoder
    image = Image.fromarray(nougat_made.picture("landscape"))
    turned = PictureSettings.read(values | {"do_align_long_axis": True}, encoder)
    plain = PictureSettings.read(values, encoder)
    expected = Image.fromarray(np.rot90(nougat_made.picture("landscape"), 3).copy())
    np.testing.assert_array_equal(page_pixels(image, turned), page_pixels(expected, plain))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_any_image_mode_is_read(mode: str) -> None:
    config, values = published()
    settings = PictureSettings.read(values, NougatConfig.read(config).encoder)
    assert page_pixels(Image.new("RGB", (40, 50), "white").convert(mode), settings).shape == (896, 672, 3)


# --- processor


@pytest.fixture
def ref(tmp_path: Path) -> ModelRef:
    return made.write("odd_grids", tmp_path / "model")


def test_a_page_is_one_row(ref: ModelRef) -> None:
    processor = read_processor(ref.path, made.config_of("odd_grids"))
    prepared = processor.prepare(page(Image.fromarray(nougat_made.picture("small"))), Prompt(), MARKDOWN)
    (row,) = prepared.rows
    assert row.token_ids == (0,)
    assert row.prompt_tokens == 1
    assert row.pixels is not None
    assert row.pixels.shape == (252, 196, 3)
    assert row.effective_size == (196, 252)
    assert (processor.dpi, processor.max_rows) == (96.0, 8)
    assert processor.eos_token_ids == {2}
    assert processor.suppress_token_ids == (3,)


def test_modes_decide_the_clean_up(ref: ModelRef) -> None:
    processor = read_processor(ref.path, made.config_of("odd_grids"))
    blank = page(Image.new("RGB", (9, 9)))
    prepared = processor.prepare(blank, Prompt(), MARKDOWN)
    raw = "\n\n# Title\n\nText\n\n\n\n(1) \\[a\\]\n"
    assert processor.postprocess(raw, blank, prepared, MARKDOWN).text == "# Title\n\nText\n\n\\[a \\tag{1}\\]"
    assert processor.postprocess(raw, blank, prepared, RAW).text == raw.strip()


def test_each_row_has_its_own_repetition_test(ref: ModelRef) -> None:
    processor = read_processor(ref.path, made.config_of("odd_grids"))
    one, other = processor.repetition_test(), processor.repetition_test()
    assert one is not None
    assert one is not other


def test_truncation_and_padding_are_off(ref: ModelRef) -> None:
    tokenizer = read_processor(ref.path, made.config_of("odd_grids")).tokenizer
    assert tokenizer.truncation is None
    assert tokenizer.padding is None
    assert tokenizer.encode(" w9").ids == [9]
    assert tokenizer.decode([0, 9, 10, 2, 1]) == " w9 w10"


def test_end_tokens_come_from_the_generation_config(ref: ModelRef) -> None:
    (ref.path / "generation_config.json").write_text('{"eos_token_id": [2, 7]}')
    assert read_processor(ref.path, made.config_of("odd_grids")).eos_token_ids == {2, 7}
    (ref.path / "generation_config.json").unlink()
    config = made.config_of("odd_grids")
    config["decoder"]["eos_token_id"] = 9
    assert read_processor(ref.path, config).eos_token_ids == {9}
    config["decoder"]["eos_token_id"] = None
    assert read_processor(ref.path, config).eos_token_ids == {2}


def test_joint_processor_files_are_read(ref: ModelRef) -> None:
    own = ref.path / "preprocessor_config.json"
    (ref.path / "processor_config.json").write_text(json.dumps({"image_processor": json.loads(own.read_text())}))
    own.unlink()
    assert read_processor(ref.path, made.config_of("odd_grids")).max_rows == 8


def drop(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def change_preprocessor(**changes: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / "preprocessor_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


@pytest.mark.parametrize(
    ("damage", "error", "named"),
    [
        (drop("tokenizer.json"), CheckpointIncomplete, "tokenizer.json"),
        (drop("preprocessor_config.json"), CheckpointIncomplete, "preprocessor_config.json"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), CheckpointIncomplete, "tokenizer.json"),
        (lambda folder: made.write_tokenizer(folder, 149), CheckpointIncomplete, "149"),
        (
            lambda folder: made.write_tokenizer(folder, 150, ("<s>", "<unk>")),
            CheckpointIncomplete,
            "<pad>, </s>",
        ),
        (change_preprocessor(image_processor_type="ViTImageProcessor"), UnsupportedArchitecture, "ViTImageProcessor"),
        (change_preprocessor(size={"height": 9, "width": 9}), UnsupportedArchitecture, "expects"),
        (change_preprocessor(do_pad=False, do_resize=False), UnsupportedArchitecture, "do_resize, do_pad"),
        (change_preprocessor(image_mean=[0.5], image_std=[0.5]), UnsupportedArchitecture, "channels"),
    ],
)
def test_damage_is_named(ref: ModelRef, damage: Callable[[Path], object], error: type[ModelError], named: str) -> None:
    damage(ref.path)
    with pytest.raises(error, match=named) as caught:
        load_model(ref, dtype="float32")
    assert caught.value.hint


def test_published_tokenizer_is_read(model_facts: Path, tmp_path: Path) -> None:
    source = model_facts / "tokenizers" / "nougat_tokenizer.json"
    if not source.is_file():
        pytest.skip(f"no {source}")
    folder = model_facts / "configs" / "facebook__nougat-small"
    for path in folder.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "tokenizer.json").write_bytes(source.read_bytes())
    processor = read_processor(tmp_path, json.loads((tmp_path / "config.json").read_text()))
    assert processor.eos_token_ids == {2}
    assert processor.suppress_token_ids == (3,)
    text = "# Title\n\nThe value \\(x_{1}\\) is 12.5 % of naïve ﬁgures."
    ids = processor.tokenizer.encode(text, add_special_tokens=False).ids
    assert processor.tokenizer.decode([0, *ids, 2]) == text.replace("ﬁ", "fi")


# --- strips


def strip_checkpoint(folder: Path, **changes: Any) -> dict[str, Any]:
    """A folder without weights whose pages are cut into strips, and its config."""
    config = made.config_of("places")
    sizes = StripSettings()
    config["encoder"] |= {"image_size": [sizes.height, sizes.width], "patch_size": 4, "num_channels": PLANES}
    own = {"height": sizes.height, "width": sizes.width} | changes.pop("strips", {})
    settings = {"image_processor_type": "LineStripImageProcessor", "strip_settings": own}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings | changes))
    made.write_tokenizer(folder, config["decoder"]["vocab_size"])
    return config


def lines_of_text() -> Page:
    """Two lines of bars on white, far enough apart to be two lines."""
    image = Image.new("RGB", (300, 120), "white")
    draw = ImageDraw.Draw(image)
    for top in (20, 70):
        for left in range(20, 260, 14):
            draw.rectangle((left, top, left + 7, top + 18), fill="black")
    return page(image)


def test_a_page_is_cut_into_strips(tmp_path: Path) -> None:
    processor = read_processor(tmp_path, strip_checkpoint(tmp_path))
    prepared = processor.prepare(lines_of_text(), Prompt(), RAW)
    assert len(prepared.rows) == len(prepared.glue) >= 2
    assert processor.max_rows == 64
    assert processor.repetition_test() is None
    sizes = StripSettings()
    for row in prepared.rows:
        assert row.pixels is not None
        assert row.pixels.shape == (sizes.height, sizes.width, PLANES)
        assert row.effective_size is None
        assert 0 < row.pixels[..., 0].mean() < 0.9
    assert prepared.glue[0] == ""
    assert any("\n" in glue for glue in prepared.glue)


def test_nothing_printed_gives_no_rows(tmp_path: Path) -> None:
    processor = read_processor(tmp_path, strip_checkpoint(tmp_path))
    prepared = processor.prepare(page(Image.new("RGB", (200, 200), "white")), Prompt(), RAW)
    assert (prepared.rows, prepared.glue) == ((), ())
    assert prepared.join(()) == ""


def test_strips_without_text_leave_no_gaps(tmp_path: Path) -> None:
    processor = read_processor(tmp_path, strip_checkpoint(tmp_path))
    blank = page(Image.new("RGB", (9, 9)))
    raw = " one  two \n \nthree\n\n\n\nfour # Title\n"
    text = processor.postprocess(raw, blank, processor.prepare(blank, Prompt(), MARKDOWN), MARKDOWN).text
    assert text == "one two\n\nthree\n\nfour # Title"


def test_strip_settings_come_from_the_file(tmp_path: Path) -> None:
    config = strip_checkpoint(tmp_path, dpi=200, strips={"margin": 2, "unknown": 1})
    assert read_processor(tmp_path, config).dpi == 200
    config = strip_checkpoint(tmp_path, strips={"width": 99})
    with pytest.raises(CheckpointIncomplete, match="99"):
        read_processor(tmp_path, config)


# --- config


def test_published_configs_are_read(model_facts: Path) -> None:
    for name, layers, positions in (("small", 4, 3584), ("base", 10, 4096)):
        file = model_facts / "configs" / f"facebook__nougat-{name}" / "config.json"
        config = NougatConfig.read(json.loads(file.read_text()))
        assert config.decoder.decoder_layers == layers
        assert config.decoder.max_position_embeddings == positions
        assert config.encoder.depths == (2, 2, 14, 2)
        assert (config.projected, config.start_token_id) == (False, 0)


@pytest.mark.parametrize(
    ("section", "changes", "named"),
    [
        ("encoder", None, "'encoder'"),
        ("decoder", None, "'decoder'"),
        ("encoder", {"model_type": "vit"}, "encoder.model_type is 'vit'"),
        ("decoder", {"model_type": "trocr"}, "decoder.model_type is 'trocr'"),
        ("encoder", {"depths": None, "embed_dim": None}, "encoder.embed_dim, encoder.depths"),
        ("encoder", {"depths": [2]}, "encoder.num_heads"),
        ("encoder", {"num_heads": [3, 2, 4, 8]}, "num_heads.0."),
        ("encoder", {"image_size": [56, 56]}, "window_size"),
        ("encoder", {"patch_size": "big"}, "patch_size"),
        ("encoder", {"hidden_act": "mish"}, "'mish'"),
        ("decoder", {"vocab_size": None}, "decoder.vocab_size"),
        ("decoder", {"d_model": -4}, "decoder.d_model"),
        ("decoder", {"decoder_attention_heads": 5}, "decoder_attention_heads"),
        ("decoder", {"activation_function": 3}, "activation_function"),
        ("decoder", {"cross_attention_hidden_size": 99}, "cross_attention_hidden_size"),
    ],
)
def test_wrong_configs_are_named(section: str, changes: dict[str, Any] | None, named: str) -> None:
    config = made.config_of("odd_grids")
    if changes is None:
        del config[section]
    else:
        config[section] |= changes
    with pytest.raises(UnsupportedArchitecture, match=named):
        FAMILY.build(config)


def test_start_token_falls_back() -> None:
    config = made.config_of("odd_grids")
    assert NougatConfig.read(config).start_token_id == 0
    config["decoder"]["bos_token_id"] = 5
    assert NougatConfig.read(config).start_token_id == 5
    assert NougatConfig.read(config | {"decoder_start_token_id": 7}).start_token_id == 7


# --- declaration


def test_recipe_spares_positions_and_in_mixed_the_encoder() -> None:
    query = "encoder.encoder.layers.0.blocks.0.attention.self.query"
    fc1, head = "decoder.model.decoder.layers.0.fc1", "decoder.lm_head"
    positions = "decoder.model.decoder.embed_positions"
    assert [FAMILY.recipe(path, False) for path in (query, fc1, head, positions)] == [True, True, True, False]
    assert [FAMILY.recipe(path, True) for path in (query, fc1, head, positions)] == [False, True, {"bits": 8}, False]


def test_aliases_lead_to_checkpoints() -> None:
    assert set(FAMILY.aliases.values()) <= set(FAMILY.checkpoints)
    assert FAMILY.default_mode in FAMILY.modes
