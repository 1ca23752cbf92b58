"""Everything in a checkpoint's folder but its weights: pictures, prompts, special tokens, and what is said of damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from ocr_mlx.domain import ModelRef, Page, Prompt
from ocr_mlx.errors import CheckpointIncomplete, ModelError, UnsupportedArchitecture
from ocr_mlx.model.base import LoadedModel
from ocr_mlx.model.families.qwen2_vl.config import Qwen2VLConfig
from ocr_mlx.model.families.qwen2_vl.family import FAMILY, PROMPT
from ocr_mlx.model.families.qwen2_vl.picture import PAGE_PIXELS, PictureSettings, picture_pixels, smart_size
from ocr_mlx.model.families.qwen2_vl.processor import PageProcessor, read_processor
from ocr_mlx.model.load import load_model
from ocr_mlx.quantize.convert import convert
from tests.families import contract
from tests.families import qwen2_vl_checkpoint as checkpoint
from tests.families import qwen2_vl_made as made

UPSTREAM = load_file(checkpoint.GOLDEN / "processor.safetensors")
PUBLISHED: dict[str, Any] = json.loads((Path(__file__).parent / "config.json").read_text())
VISION = Qwen2VLConfig.read(PUBLISHED).vision
LIMITS = {"min_pixels": 3136, "max_pixels": 1_003_520}
FULL = {"min_pixels": 3136, "max_pixels": 12_845_056}


def pixels(image: Image.Image, limits: dict[str, Any] = LIMITS, most: int | None = None) -> np.ndarray[Any, Any]:
    return picture_pixels(image, PictureSettings.read(limits, VISION), most)


# --- pictures


@pytest.mark.parametrize("name", made.SIZES)
def test_pixels_are_upstreams(name: str) -> None:
    image = Image.fromarray(made.picture(made.SIZES[name], name))
    found = pixels(image.convert("L") if name == "grey" else image)
    high, wide = UPSTREAM[f"{name}.size"].tolist()
    assert found.shape == (high, wide, 3)
    assert found.dtype == np.float32
    assert made.checksum(found) == UPSTREAM[f"{name}.checksum"].item()
    frames = np.stack([found] * 2).reshape(2, high // 28, 2, 14, wide // 28, 2, 14, 3)
    patches = frames.transpose(1, 4, 2, 5, 7, 0, 3, 6).reshape(-1, 1176)
    np.testing.assert_array_equal(made.sample(patches), UPSTREAM[f"{name}.sample"])


@pytest.mark.parametrize("size", [(1, 201), (1, 9000), (30_000, 3), (9999, 40)])
def test_very_long_pictures_stand_on_white(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, "black")
    found = made.levels(pixels(image))
    assert found.shape[0] * found.shape[1] <= LIMITS["max_pixels"]
    long = max(found.shape)
    assert found.min() < 128, "the picture is still there"
    assert found[0, 0].min() > 250 or found[-1, -1].min() > 250 or long // min(found.shape[:2]) <= 200
    least = -(-max(size) // 200)
    paper = Image.new("RGB", (max(size[0], least), max(size[1], least)), "white")
    paper.paste(image, ((paper.width - size[0]) // 2, (paper.height - size[1]) // 2))
    np.testing.assert_array_equal(pixels(image), pixels(paper))


def test_sizes_of_the_rule() -> None:
    assert smart_size(42, 98, 28, 784, 10**6) == (56, 112)  # 1.5 and 3.5 are rounded to even
    assert smart_size(70, 126, 28, 784, 10**6) == (56, 112)
    assert smart_size(3300, 2550, 28, 3136, 12_845_056) == (3304, 2548)
    assert smart_size(10, 10, 28, 3136, 10**6) == (56, 56)


def test_pages_are_scaled_down_unless_asked_for_in_full() -> None:
    scan = Image.new("L", (2480, 3508), 255)
    assert pixels(scan, FULL).shape == (3500, 2492, 3)
    capped = pixels(scan, FULL, PAGE_PIXELS)
    assert capped.shape == (1680, 1176, 3)
    assert capped.shape[0] * capped.shape[1] <= PAGE_PIXELS
    assert pixels(scan, LIMITS, PAGE_PIXELS).shape == pixels(scan, LIMITS).shape, "the file's own limit is smaller"
    small = Image.new("L", (300, 200), 255)
    assert pixels(small, FULL, 10).shape == pixels(small, FULL | {"max_pixels": 3136}).shape


@pytest.mark.parametrize(
    "limits",
    [
        {"size": {"shortest_edge": 3136, "longest_edge": 1_003_520}},
        {"size": {"min_pixels": 3136, "max_pixels": 1_003_520}},
        {"min_pixels": 3136, "max_pixels": 1_003_520, "size": {"shortest_edge": 1, "longest_edge": 2}},
        {},
    ],
)
def test_limits_have_several_names(limits: dict[str, Any]) -> None:
    assert PictureSettings.read(limits, VISION) == PictureSettings.read(LIMITS, VISION)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_any_image_mode_is_read(mode: str) -> None:
    assert pixels(Image.new("RGB", (60, 90), "white").convert(mode)).shape == (84, 56, 3)


# --- prompts


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> PageProcessor:
    """A processor with the published ids and limits."""
    folder = tmp_path_factory.mktemp("published")
    checkpoint.write_companions(folder, FULL, first_mark=151_643)
    return read_processor(folder, PUBLISHED)


def ids_of(processor: PageProcessor, page: Page, mode: str = "text", **prompt: str) -> tuple[int, ...]:
    (row,) = processor.prepare(page, Prompt(**prompt), FAMILY.modes[mode]).rows
    assert row.prompt_tokens == len(row.token_ids)
    return row.token_ids


def test_the_template_has_the_published_ids(published: PageProcessor) -> None:
    ids = ids_of(published, checkpoint.page((84, 56)))
    text = published.tokenizer.decode(ids, skip_special_tokens=False)
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
        f"{'<|image_pad|>' * 6}<|vision_end|>{PROMPT}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert ids.count(151655) == 6
    assert [ids.count(mark) for mark in (151644, 151645, 151652, 151653)] == [3, 2, 1, 1]
    assert published.eos_token_ids == {151645, 151643}
    assert (published.dpi, published.max_rows, published.suppress_token_ids) == (200.0, 8, ())
    assert published.repetition_test() is None


def test_prompts_replace_the_modes_own(published: PageProcessor) -> None:
    page = checkpoint.page((84, 56))
    text = published.tokenizer.decode(ids_of(published, page, text="اقرأ", system="Be brief."), False)
    assert "user\n<|vision_start|>" in text
    assert "<|vision_end|>اقرأ<|im_end|>" in text
    assert "system\nBe brief.<|im_end|>" in text
    assert PROMPT not in text


def test_words_never_become_special_tokens(published: PageProcessor) -> None:
    page = checkpoint.page((84, 56))
    plain = ids_of(published, page, text="a")
    tricky = ids_of(published, page, text="<|im_end|><|image_pad|>", system="<|im_start|>")
    marks = range(151_643, 151_657)
    assert [id_ for id_ in tricky if id_ in marks] == [id_ for id_ in plain if id_ in marks]
    assert "<|im_end|><|image_pad|>" in published.tokenizer.decode(tricky, skip_special_tokens=True)


def test_several_pages_share_a_prompt(published: PageProcessor) -> None:
    assert FAMILY.modes["pages"].pages_together == 4
    pages = checkpoint.page((84, 56), (56, 56), (28, 112))
    (row,) = published.prepare(pages, Prompt(), FAMILY.modes["pages"]).rows
    assert row.pixels is not None
    shapes = [row.pixels.shape, *(picture.shape for picture in row.extras.values())]
    assert shapes == [(56, 84, 3), (56, 56, 3), (112, 28, 3)]
    runs = published.tokenizer.decode(row.token_ids, skip_special_tokens=False).split("<|vision_start|>")[1:]
    assert [run.count("<|image_pad|>") for run in runs] == [6, 4, 4]


def test_modes_decide_the_resolution(published: PageProcessor) -> None:
    page = checkpoint.page((1654, 2339))
    sizes = [published.prepare(page, Prompt(), FAMILY.modes[mode]).rows[0] for mode in ("text", "full")]
    assert [row.effective_size for row in sizes] == [(1176, 1680), (1652, 2352)]
    assert [row.token_ids.count(151655) for row in sizes] == [2520, 4956]


def test_modes_decide_the_format(published: PageProcessor) -> None:
    page = checkpoint.page((84, 56))
    prepared = published.prepare(page, Prompt(), FAMILY.modes["text"])
    found = {
        name: published.postprocess(" <h1>عنوان</h1><p>نص</p>\n", page, prepared, mode).text
        for name, mode in FAMILY.modes.items()
    }
    assert found["text"] == found["full"] == "عنوان\n\nنص"
    assert found["markdown"] == found["full-markdown"] == "# عنوان\n\nنص"
    assert found["raw"] == found["pages"] == "<h1>عنوان</h1><p>نص</p>"


# --- files


@pytest.fixture
def ref(tmp_path: Path) -> ModelRef:
    return checkpoint.write("flat", tmp_path / "model")


def read(ref: ModelRef) -> PageProcessor:
    return read_processor(ref.path, checkpoint.config_of("flat"))


def test_both_end_tokens_end_a_page(ref: ModelRef) -> None:
    end, text = made.mark("<|im_end|>"), made.mark("<|endoftext|>")
    assert read(ref).eos_token_ids == {end, text}
    (ref.path / "generation_config.json").unlink()
    assert read(ref).eos_token_ids == {end, text}
    (ref.path / "generation_config.json").write_text('{"eos_token_id": [7, 8]}')
    assert read(ref).eos_token_ids == {end, text, 7, 8}


def test_joint_processor_files_are_read(ref: ModelRef) -> None:
    own = ref.path / "preprocessor_config.json"
    (ref.path / "processor_config.json").write_text(json.dumps({"image_processor": json.loads(own.read_text())}))
    own.unlink()
    assert read(ref).dpi == 200


def drop(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def preprocessor(**changes: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / "preprocessor_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def tokenizer(first: int = made.FIRST_MARK, marks: tuple[str, ...] = made.MARKS) -> Callable[[Path], object]:
    return lambda folder: made.tokenizer(first, marks).save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize(
    ("damage", "error", "named"),
    [
        (drop("tokenizer.json"), CheckpointIncomplete, "tokenizer.json"),
        (drop("preprocessor_config.json"), CheckpointIncomplete, "preprocessor_config.json"),
        (tokenizer(marks=made.MARKS[:12]), CheckpointIncomplete, r"<\|image_pad\|>"),
        (tokenizer(made.FIRST_MARK + 1), CheckpointIncomplete, r"<\|image_pad\|> at 280"),
        (tokenizer(marks=made.MARKS[3:]), CheckpointIncomplete, r"im_start\|>, <\|im_end\|>, <\|endoftext"),
        (
            tokenizer(marks=(*made.MARKS[3:], *(f"<x{i}>" for i in range(20)), *made.MARKS[:3])),
            CheckpointIncomplete,
            "image_pad",
        ),
        (preprocessor(image_processor_type="ViTImageProcessor"), UnsupportedArchitecture, "ViTImageProcessor"),
        (preprocessor(patch_size=16), UnsupportedArchitecture, "patch_size is 16"),
        (preprocessor(merge_size=1), UnsupportedArchitecture, "merge_size"),
        (preprocessor(resample=2), UnsupportedArchitecture, "resample"),
        (preprocessor(min_pixels=10, max_pixels=5), CheckpointIncomplete, "10 to 5"),
        (preprocessor(image_mean=[0.5]), CheckpointIncomplete, "image_mean"),
    ],
)
def test_damage_is_named(ref: ModelRef, damage: Callable[[Path], object], error: type[ModelError], named: str) -> None:
    damage(ref.path)
    with pytest.raises(error, match=named) as caught:
        load_model(ref, dtype="float32")
    assert caught.value.hint


def test_special_tokens_beyond_the_vocabulary_are_refused(ref: ModelRef) -> None:
    config = checkpoint.config_of("flat") | {"vocab_size": made.mark("<|im_end|>")}
    with pytest.raises(CheckpointIncomplete, match="beyond"):
        read_processor(ref.path, config)


# --- config


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"rope_scaling": {"type": "yarn", "factor": 4}}, "yarn"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [2, 2, 2]}}, "mrope_section"),
        ({"use_sliding_window": True, "max_window_layers": 1}, "use_sliding_window"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"num_attention_heads": 5, "num_key_value_heads": 5}, "num_attention_heads"),
        ({"hidden_size": 128}, "vision_config.hidden_size"),
        ({"vision_config": {"embed_dim": 50, "num_heads": 4, "hidden_size": 64}}, "embed_dim"),
        ({"vision_config": {"in_chans": 1, "hidden_size": 64}}, "in_channels"),
        ({"vision_config": {"hidden_act": "relu", "hidden_size": 64}}, "relu"),
    ],
)
def test_wrong_configs_are_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedArchitecture, match=named) as caught:
        FAMILY.build(checkpoint.config_of("flat") | changes)
    assert caught.value.hint


def test_missing_values_are_named(ref: ModelRef) -> None:
    for lost in ("hidden_size", "vision_config"):
        config = checkpoint.config_of("flat")
        del config[lost]
        (ref.path / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointIncomplete, match=lost):
            load_model(ref)


def test_both_layouts_say_the_same() -> None:
    flat = checkpoint.config_of("flat")
    shared = {"vision_config": flat["vision_config"], "image_token_id": flat["image_token_id"]}
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
    text = {name: value for name, value in flat.items() if name not in ("vision_config", "rope_scaling", "rope_theta")}
    nested = shared | {"text_config": text | {"rope_parameters": rope}}
    marks = {name: flat[name] for name in ("vision_start_token_id", "vision_end_token_id")}
    assert Qwen2VLConfig.read(nested | marks) == Qwen2VLConfig.read(flat)
    older = shared | marks | {"text_config": text | {"rope_scaling": flat["rope_scaling"], "rope_theta": 1e6}}
    assert Qwen2VLConfig.read(older) == Qwen2VLConfig.read(flat)


def test_published_config_is_read() -> None:
    config = Qwen2VLConfig.read(PUBLISHED)
    assert config.mrope_section == (16, 24, 24)
    assert (config.text.head_dim, config.text.num_key_value_heads, config.text.tie_word_embeddings) == (128, 2, True)
    assert (config.image_token_id, config.vision_start_token_id, config.vision_end_token_id) == (151655, 151652, 151653)
    assert config.vision.factor == 28


# --- declaration and conversion


def test_aliases_lead_to_checkpoints() -> None:
    assert set(FAMILY.aliases.values()) <= set(FAMILY.checkpoints)
    assert set(FAMILY.sizes) <= set(FAMILY.checkpoints)
    assert FAMILY.aliases["qari"] == "NAMAA-Space/Qari-OCR-v0.3-VL-2B-Instruct"
    assert FAMILY.defaults.max_new_tokens == 2000
    assert FAMILY.defaults.temperature == 0
    assert all(FAMILY.modes[name].prompt == PROMPT for name in ("text", "markdown", "raw", "full"))


def test_recipe_spares_the_tower_and_in_mixed_the_vocabulary() -> None:
    paths = (
        "visual.blocks.0.mlp.fc1",
        "visual.merger.mlp.0",
        "model.layers.0.mlp.up_proj",
        "model.embed_tokens",
        "lm_head",
    )
    assert [FAMILY.recipe(path, False) for path in paths] == [False, False, True, True, True]
    assert [FAMILY.recipe(path, True) for path in paths] == [False, False, True, {"bits": 8}, {"bits": 8}]


@pytest.mark.parametrize(("bits", "most"), [(8, 0.03), (4, 0.5)])
def test_quantizing_stays_close(bits: int, most: float, tmp_path: Path) -> None:
    ref = checkpoint.write("pictures", tmp_path / "model")
    plain = load_model(ref, dtype="float32")
    folder = convert(ref, tmp_path / "packed", bits=bits, group_size=32)
    packed = load_model(ModelRef(id="packed", path=folder), dtype="float32")
    rows = checkpoint.rows_of("pictures", plain)[:1]
    exact, found = (contract.numbers(model.graph.prefill(rows)[0]) for model in (plain, packed))
    error = np.abs(found - exact).mean() / exact.std()
    assert 0 < error < most


def in_the_communitys_way(folder: Path) -> None:
    """Rename a conversion's tensors and recorded layers as mlx-vlm has them."""
    file = folder / "model.safetensors"
    tensors = {checkpoint.renamed(name, "mlx"): array for name, array in mx.load(str(file)).items()}
    mx.eval(*tensors.values())
    mx.save_safetensors(str(file), tensors, metadata={"format": "mlx"})
    (folder / "model.safetensors.index.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    for record in (config["quantization"], config["quantization_config"]):
        for name in [name for name in record if "." in name or name == "lm_head"]:
            record[checkpoint.renamed(f"{name}.", "mlx").removesuffix(".")] = record.pop(name)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("mixed", [False, True])
def test_the_communitys_conversions_load(mixed: bool, tmp_path: Path) -> None:
    ref = checkpoint.write("pictures", tmp_path / "model")
    folder = convert(ref, tmp_path / "packed", bits=4, group_size=32, mixed=mixed)

    def decoded() -> tuple[Any, Any]:
        model: LoadedModel = load_model(ModelRef(id="packed", path=folder), dtype="float32")
        return contract.greedy(model.graph, checkpoint.rows_of("pictures", model)[:1])

    ours = decoded()
    in_the_communitys_way(folder)
    assert any(name.startswith("language_model.model.") for name in mx.load(str(folder / "model.safetensors")))
    contract.same(decoded(), ours)


def test_a_tied_heads_copy_is_dropped(tmp_path: Path) -> None:
    copy = {"lm_head.weight": checkpoint.tensors_of("flat")["model.embed_tokens.weight"]}
    ref = checkpoint.write("flat", tmp_path / "model", **copy)
    assert load_model(ref, dtype="float32").bytes == sum(
        array.nbytes for name, array in checkpoint.tensors_of("flat").items() if name not in copy
    )


@pytest.mark.parametrize("levels", [("visual", "model"), ("model.visual", "model.language_model")])
@pytest.mark.parametrize("naming", ["published", "newer", "mlx"])
def test_an_adapter_is_merged_under_any_naming(
    levels: tuple[str, str], naming: checkpoint.Naming, tmp_path: Path
) -> None:
    base = checkpoint.write("pictures", tmp_path / "base", naming)
    plain = checkpoint.tensors_of("pictures")
    tensors: dict[str, mx.array] = {}
    for place, level in zip(("visual.blocks.1.mlp.fc1", "model.layers.0.self_attn.q_proj"), levels, strict=True):
        outputs, inputs = plain[f"{place}.weight"].shape
        down, up = (
            mx.array(made.seeded.normal(place + side, shape, 1))
            for side, shape in (("A", (4, inputs)), ("B", (outputs, 4)))
        )
        path = f"base_model.model.{level}.{place.split('.', 1)[1]}"
        tensors |= {f"{path}.lora_A.weight": down, f"{path}.lora_B.weight": up}
        plain[f"{place}.weight"] += 0.5 * (up @ down)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 2, "base_model_name_or_path": str(base.path), "bias": "none"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(adapter / "adapter_model.safetensors"), tensors)
    merged = checkpoint.write("pictures", tmp_path / "merged", **plain)
    expected, found = (
        load_model(ref, dtype="float32") for ref in (merged, ModelRef(id="adapted", path=base.path, adapter=adapter))
    )
    rows = checkpoint.rows_of("pictures", expected)[:1]
    logits = [contract.numbers(model.graph.prefill(rows)[0]) for model in (expected, found)]
    np.testing.assert_allclose(logits[1], logits[0], rtol=0, atol=1e-4)
    assert np.abs(logits[0][0] - checkpoint.golden_of("pictures")[0]["logits"][0]).max() > 0.1


def test_conversions_with_a_packed_tower_load(tmp_path: Path) -> None:
    """Older conversions of the community packed it too."""
    tensors = checkpoint.tensors_of("pictures", "mlx")
    exact = dict(tensors)
    for path in ("vision_tower.blocks.0.mlp.fc1", "vision_tower.merger.mlp.2", "language_model.lm_head"):
        weight, scales, biases = mx.quantize(tensors[f"{path}.weight"], group_size=32, bits=8)
        tensors |= {f"{path}.weight": weight, f"{path}.scales": scales, f"{path}.biases": biases}
        exact[f"{path}.weight"] = mx.dequantize(weight, scales, biases, group_size=32, bits=8)
    found = []
    for name, stored in (("packed", tensors), ("exact", exact)):
        ref = checkpoint.write("pictures", tmp_path / name, "mlx")
        mx.save_safetensors(str(ref.path / "model.safetensors"), stored)
        if name == "packed":
            packing = {"group_size": 32, "bits": 8, "vision_tower.blocks.1.mlp.fc1": False}
            (ref.path / "config.json").write_text(
                json.dumps(checkpoint.config_of("pictures") | {"quantization": packing})
            )
        model = load_model(ref, dtype="float32")
        found.append(contract.numbers(model.graph.prefill(checkpoint.rows_of("pictures", model)[:1])[0]))
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-4)
