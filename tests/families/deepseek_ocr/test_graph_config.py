"""What is read from config.json, in each of its layouts, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ocr_mlx.errors import UnsupportedArchitecture
from ocr_mlx.model.families.deepseek_ocr.config import DeepseekConfig
from ocr_mlx.model.families.deepseek_ocr.recipe import recipe
from tests.families import deepseek_made as made

HERE = Path(__file__).parent


def published(version: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((HERE / f"config-{version}.json").read_text())
    return found


def test_the_published_configs() -> None:
    one, two = (DeepseekConfig.read(published(version)) for version in (1, 2))
    assert (one.version, two.version) == (1, 2)
    assert one.clip is not None and one.query is None and one.feature_width == 2048
    assert two.query is not None and two.clip is None and two.feature_width == 896
    assert one.sam.down_widths == (512, 1024) and two.sam.down_widths == (512, 896)
    assert (two.query.rope_theta, two.query.qkv_bias, two.query.num_key_value_heads) == (1e6, True, 2)
    assert one.text == two.text and one.moe == two.moe
    assert (one.text.rope_theta, one.text.head_dim, one.text.num_key_value_heads) == (10000.0, 128, 10)
    assert (one.moe.routed, one.moe.shared, one.moe.chosen, one.moe.width) == (64, 2, 6, 896)
    assert one.moe.sparse == (False, *[True] * 11)
    assert (one.vocab_size, one.max_position_embeddings, one.image_token) == (129280, 8192, 128815)


@pytest.mark.parametrize("case", made.CASES)
def test_published_and_transformers_layouts_say_the_same(case: str) -> None:
    config = made.config_of(case)
    native, published = DeepseekConfig.read(config), DeepseekConfig.read(made.published(config))
    assert published.window in (native.window, None)
    assert replace(native, window=None) == replace(published, window=None)


def test_what_transformers_leaves_out_is_the_published_size() -> None:
    """It writes only what differs from its own defaults."""
    unlimited = DeepseekConfig.read({"model_type": "unlimited_ocr", "text_config": {}, "vision_config": {}})
    one = DeepseekConfig.read(published(1))
    assert unlimited.sam == one.sam and unlimited.clip == one.clip and unlimited.moe == one.moe
    assert unlimited.max_position_embeddings == 32768
    native = {"sam_config": {}, "encoder_config": {}}
    two = DeepseekConfig.read({"model_type": "deepseek_ocr2", "text_config": {}, "vision_config": native})
    assert two == DeepseekConfig.read(published(2))


def test_unlimited_ocr_is_version_one() -> None:
    config = published(1) | {"model_type": "unlimited-ocr", "architectures": ["UnlimitedOCRForCausalLM"]}
    config["language_config"] |= {"max_position_embeddings": 32768, "sliding_window_size": 128, "v_head_dim": 128}
    found = DeepseekConfig.read(config)
    assert (found.version, found.max_position_embeddings, found.window) == (1, 32768, 128)
    assert DeepseekConfig.read(config | {"sliding_window": 64}).window == 128
    del config["language_config"]["sliding_window_size"]
    assert DeepseekConfig.read(config | {"sliding_window": 64}).window == 64
    assert DeepseekConfig.read(config).window == 128
    with pytest.raises(UnsupportedArchitecture, match="sliding_window is 0"):
        DeepseekConfig.read(config | {"sliding_window": 0})


def test_only_unlimited_ocr_has_a_window() -> None:
    config = published(1)
    config["language_config"] |= {"sliding_window": 128}
    assert DeepseekConfig.read(config).window is None


@pytest.mark.parametrize(
    ("names", "version"),
    [
        (("deepseek_vl_v2", "DeepseekOCRForCausalLM"), 1),
        (("deepseek_vl_v2", "DeepseekOCR2ForCausalLM"), 2),
        (("deepseekocr", ""), 1),
        (("deepseekocr_2", ""), 2),
        (("deepseek_ocr2", "DeepseekOcr2ForConditionalGeneration"), 2),
    ],
)
def test_the_version_is_told_by_names_where_the_towers_are_not(names: tuple[str, str], version: int) -> None:
    config: dict[str, Any] = {"model_type": names[0], "architectures": [names[1]]}
    assert DeepseekConfig.read(config).version == version


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ({"use_mla": True}, "use_mla is True"),
        ({"topk_method": "noaux_tc"}, "topk_method is 'noaux_tc'"),
        ({"scoring_func": "sigmoid"}, "scoring_func"),
        ({"norm_topk_prob": True}, "norm_topk_prob"),
        ({"n_group": 8}, "n_group is 8"),
        ({"num_attention_heads": 7}, "does not divide hidden_size"),
        ({"num_experts_per_tok": 65}, "num_experts_per_tok is more than"),
        ({"mlp_layer_types": ["dense", "sparse"]}, "mlp_layer_types"),
    ],
)
def test_other_text_models_are_refused(text: dict[str, Any], said: str) -> None:
    config = published(1)
    config["language_config"] |= text
    with pytest.raises(UnsupportedArchitecture, match=said):
        DeepseekConfig.read(config)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vision_config": {"model_name": "siglip_large_patch16_384"}}, "siglip"),
        ({"vision_config": "none"}, "not an object"),
        ({"projector_config": {"projector_type": "mlp_gelu"}}, "mlp_gelu"),
        ({"vision_config": {"width": {"sam_vit_b": {"heads": 7}}}}, "heads of SAM"),
        ({"vision_config": {"width": {"clip-l-14-224": {"width": 768}}}}, "not as wide as CLIP"),
        ({"vision_config": {"width": {"clip-l-14-224": {"heads": 7}}}}, "heads of CLIP"),
    ],
)
def test_other_towers_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UnsupportedArchitecture, match=said):
        DeepseekConfig.read(published(1) | change)


@pytest.mark.parametrize(
    ("path", "plain", "mixed"),
    [
        ("model.sam_model.blocks.0.attn.qkv", False, False),
        ("model.vision_model.embeddings.position_embedding", False, False),
        ("model.qwen2_model.query_768", False, False),
        ("model.projector.layers", True, False),
        ("model.embed_tokens", True, {"bits": 8}),
        ("lm_head", True, {"bits": 8}),
        ("model.layers.3.self_attn.q_proj", True, {"bits": 8}),
        ("model.layers.3.mlp.shared_experts.up_proj", True, {"bits": 8}),
        ("model.layers.3.mlp.switch_mlp.up_proj", True, True),
    ],
)
def test_recipe(path: str, plain: Any, mixed: Any) -> None:
    assert (recipe(path, False), recipe(path, True)) == (plain, mixed)
