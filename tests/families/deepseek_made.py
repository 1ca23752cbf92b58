"""What the DeepSeek-OCR goldens and their tests make alike: tiny configs, weights under the published names, pictures."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.families import seeded

Config = dict[str, Any]
Floats = NDArray[np.float32]
Shape = tuple[int, ...]
VOCABULARY, IMAGE = 160, 130
"""The tiny models' ids: the image token, nine more special ones behind it, words below."""
FORCED, GREEDY = 12, 16
WINDOW = 5
EVERY = 4
"""Of the assembled features every so many numbers are kept."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A tiny model and its pages: the side of the whole view, tiles as (columns, rows) of squares of `tile` pixels."""

    version: int
    seed: int
    config: Config
    view: int
    rows: int
    tile: int = 0
    grid: tuple[int, int] = (0, 0)

    @property
    def features(self) -> int:
        """Image tokens in a prompt."""
        cells = self.config["vision_config"]["sam_config"]["patch_size"] * 4
        whole, part, (columns, rows) = self.view // cells, self.tile // cells, self.grid
        if self.version == 2:
            return columns * rows * part**2 + whole**2 + 1
        return rows * part * (columns * part + 1) * (columns > 0) + whole * (whole + 1) + 1


def _config(version: int, sam: Config, encoder: Config, text: Config) -> Config:
    """A config.json as transformers writes it. Version 1 is Unlimited-OCR's, whose window holds all tokens unless told."""
    usual = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "intermediate_size": 96,
        "moe_intermediate_size": 32,
        "n_routed_experts": 12,
        "n_shared_experts": 2,
        "num_experts_per_tok": 3,
        "mlp_layer_types": ["dense", "sparse", "sparse"],
        "topk_method": "greedy",
        "n_group": 1,
        "topk_group": 1,
        "max_position_embeddings": 1024,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }
    names = ("unlimited_ocr", "UnlimitedOcr") if version == 1 else ("deepseek_ocr2", "DeepseekOcr2")
    sliding = {"sliding_window": 4096} if version == 1 else {}
    parts = {
        "sam_config": {"model_type": f"{names[0]}_sam_vision_model", "image_size": 16 * sam["patch_size"]} | sam,
        "encoder_config": {"model_type": f"{names[0]}_{'vision_encoder' if version == 1 else 'encoder'}"} | encoder,
    }
    return {
        "model_type": names[0],
        "architectures": [f"{names[1]}ForConditionalGeneration"],
        "image_token_id": IMAGE,
        "tie_word_embeddings": False,
        "vision_config": {"model_type": f"{names[0]}_vision", **parts},
        "text_config": {"model_type": f"{names[0]}_text", **usual, **sliding, **text},
    }


_SAM = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "mlp_dim": 40,
    "patch_size": 8,
    "output_channels": 16,
    "window_size": 5,
    "global_attn_indexes": [1],
    "downsample_channels": [20, 32],
}
_CLIP = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 56,
    "patch_size": 14,
}
_QUERY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 40,
    "max_position_embeddings": 2048,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
}
_WIDE_SAM = _SAM | {
    "hidden_size": 12,
    "num_attention_heads": 1,
    "num_hidden_layers": 2,
    "patch_size": 4,
    "image_size": 256,
    "window_size": 14,
    "global_attn_indexes": [],
}
"""Grids of 48 and 64, as published, at a price that tests can pay: windows only."""

CASES = {
    # Tables made for the whole view, resampled for tiles; windows padded on both grids; tiles joined row by row.
    "graph-tiles": Case(version=1, seed=21, config=_config(1, _SAM, _CLIP, {}), view=128, rows=2, tile=96, grid=(2, 3)),
    # Every table stretched, two dense layers, other counts of experts.
    "graph-large": Case(
        version=1,
        seed=12,
        config=_config(
            1,
            _SAM | {"global_attn_indexes": [0, 2], "window_size": 7},
            _CLIP | {"image_size": 42},
            {
                "num_hidden_layers": 4,
                "mlp_layer_types": ["dense", "dense", "sparse", "sparse"],
                "num_experts_per_tok": 5,
                "n_shared_experts": 1,
            },
        ),
        view=160,
        rows=3,
    ),
    # Every table shrunk.
    "graph-small": Case(version=1, seed=13, config=_config(1, _SAM, _CLIP, {}), view=64, rows=1),
    # Unlimited-OCR: a window that closes long before the last token.
    "graph-window": Case(
        version=1, seed=16, config=_config(1, _SAM, _CLIP, {"sliding_window": WINDOW}), view=64, rows=2
    ),
    # Both tables of queries: tiles of 144 features, a view of 256.
    "graph-queries-tiles": Case(
        version=2, seed=14, config=_config(2, _WIDE_SAM, _QUERY, {}), view=256, rows=1, tile=192, grid=(1, 2)
    ),
    # One table of queries, several rows, all heads of the text sharing keys and values.
    "graph-queries": Case(
        version=2,
        seed=15,
        config=_config(2, _WIDE_SAM, _QUERY, {"num_key_value_heads": 1}),
        view=192,
        rows=3,
    ),
}


def config_of(name: str, vocabulary: int = VOCABULARY, image_token: int = IMAGE) -> Config:
    """The case's config.json, perhaps with another vocabulary."""
    config = copy.deepcopy(CASES[name].config)
    config["text_config"]["vocab_size"] = vocabulary
    return config | {"image_token_id": image_token}


def published(config: Config) -> Config:
    """The same text model as a published config.json tells of it, with the towers left as they are."""
    text = {
        name: value for name, value in config["text_config"].items() if name not in ("model_type", "mlp_layer_types")
    }
    dense = config["text_config"]["mlp_layer_types"].count("dense")
    kind = "DeepseekOCR2" if config["model_type"] == "deepseek_ocr2" else "DeepseekOCR"
    windowed = config["text_config"].get("sliding_window") == WINDOW
    return config | {
        "model_type": "unlimited-ocr" if windowed else "deepseek_vl_v2",
        "architectures": [f"{'UnlimitedOCR' if windowed else kind}ForCausalLM"],
        "language_config": text
        | {"first_k_dense_replace": dense, "use_mla": False, "kv_lora_rank": None, "v_head_dim": 0},
        "text_config": None,
    }


def prompts(case: Case) -> NDArray[np.int64]:
    """Each row's ids: begin, the picture's places, a few words; [rows, length]."""
    words = np.abs(seeded.normal("words", (case.rows, 4), case.seed) * 1e4).astype(np.int64) % (IMAGE - 2) + 2
    begin = np.zeros((case.rows, 1), dtype=np.int64)
    places = np.full((case.rows, case.features), IMAGE, dtype=np.int64)
    return np.concatenate([begin, places, words], axis=1)


def forced(case: Case) -> NDArray[np.int64]:
    """Ids that follow the prompts, [rows, FORCED]."""
    return np.abs(seeded.normal("forced", (case.rows, FORCED), case.seed) * 1e4).astype(np.int64) % (IMAGE - 2) + 2


def views(case: Case, count: int | None = None) -> list[Floats]:
    """The rows' whole views [side, side, 3]."""
    return [_picture(f"view {row}", case.view, case.seed) for row in range(count or case.rows)]


def tiles(case: Case, count: int | None = None) -> list[Floats]:
    """The rows' tiles [columns * rows, tile, tile, 3], none without a grid."""
    columns, rows = case.grid
    return [
        np.stack([_picture(f"tile {row} {index}", case.tile, case.seed) for index in range(columns * rows)])
        for row in range(count or case.rows)
        if columns
    ]


def _picture(name: str, side: int, seed: int) -> Floats:
    return np.asarray(np.clip(seeded.normal(name, (side, side, 3), seed) * np.float32(0.5), -1, 1), dtype=np.float32)


# --- weights ---------------------------------------------------------------------------------------------------------


def weights(shapes: Mapping[str, Shape], seed: int) -> dict[str, Floats]:
    """Random weights for these published names."""
    return {name: scaled(name, seeded.normal(name, shape, seed)) for name, shape in shapes.items()}


def scaled(name: str, values: Floats) -> Floats:
    """Standard normal numbers as weights that keep a deep graph lively and its router decided."""
    if values.ndim == 1 and name.endswith("weight"):
        return np.float32(1.0) + np.float32(0.1) * values
    if values.ndim == 1:
        return np.float32(0.3 if "image_newline" in name or "view_sep" in name or "class_" in name else 0.05) * values
    if any(part in name for part in ("embed_tokens", "pos_embed", "position_embedding", "query_")):
        return np.float32(0.5) * values
    factor = 3.0 if name.endswith("mlp.gate.weight") else 0.5 if "projector" in name else 1.2
    return values * np.float32(factor / np.sqrt(values[0].size))


def shapes(config: Config) -> dict[str, Shape]:
    """The published names of a tiny model and their shapes, CLIP's unused convolution included."""
    return dict(_text(config["text_config"])) | dict(_vision(config))


def _text(text: Config) -> Iterator[tuple[str, Shape]]:
    width, inner, expert = text["hidden_size"], text["intermediate_size"], text["moe_intermediate_size"]
    narrow = width // text["num_attention_heads"] * text["num_key_value_heads"]
    yield "model.embed_tokens.weight", (text["vocab_size"], width)
    yield "lm_head.weight", (text["vocab_size"], width)
    yield "model.norm.weight", (width,)
    for index, kind in enumerate(text["mlp_layer_types"]):
        layer = f"model.layers.{index}"
        for part, out in (("q", width), ("k", narrow), ("v", narrow), ("o", width)):
            yield f"{layer}.self_attn.{part}_proj.weight", (out, width)
        yield f"{layer}.input_layernorm.weight", (width,)
        yield f"{layer}.post_attention_layernorm.weight", (width,)
        if kind == "dense":
            yield from _swiglu(f"{layer}.mlp", width, inner)
            continue
        yield f"{layer}.mlp.gate.weight", (text["n_routed_experts"], width)
        yield from _swiglu(f"{layer}.mlp.shared_experts", width, expert * text["n_shared_experts"])
        for one in range(text["n_routed_experts"]):
            yield from _swiglu(f"{layer}.mlp.experts.{one}", width, expert)


def _swiglu(path: str, width: int, inner: int) -> Iterator[tuple[str, Shape]]:
    yield f"{path}.gate_proj.weight", (inner, width)
    yield f"{path}.up_proj.weight", (inner, width)
    yield f"{path}.down_proj.weight", (width, inner)


def _vision(config: Config) -> Iterator[tuple[str, Shape]]:
    sam, encoder = config["vision_config"]["sam_config"], config["vision_config"]["encoder_config"]
    width, out = config["text_config"]["hidden_size"], encoder["hidden_size"]
    yield from _sam("model.sam_model", sam)
    yield "model.view_seperator", (width,)
    yield from _linear("model.projector.layers", out if "rope_parameters" in encoder else 2 * out, width)
    if "rope_parameters" in encoder:
        yield from _query("model.qwen2_model", encoder)
    else:
        yield "model.image_newline", (width,)
        yield from _clip("model.vision_model", encoder)


def _sam(path: str, sam: Config) -> Iterator[tuple[str, Shape]]:
    width, neck, (down, out) = sam["hidden_size"], sam["output_channels"], sam["downsample_channels"]
    grid, patch = sam["image_size"] // sam["patch_size"], sam["patch_size"]
    yield f"{path}.pos_embed", (1, grid, grid, width)
    yield f"{path}.patch_embed.proj.weight", (width, 3, patch, patch)
    yield f"{path}.patch_embed.proj.bias", (width,)
    for index in range(sam["num_hidden_layers"]):
        block = f"{path}.blocks.{index}"
        side = grid if index in sam["global_attn_indexes"] else sam["window_size"]
        for axis in "hw":
            yield f"{block}.attn.rel_pos_{axis}", (2 * side - 1, width // sam["num_attention_heads"])
        yield from _linear(f"{block}.attn.qkv", width, 3 * width)
        yield from _linear(f"{block}.attn.proj", width, width)
        yield from _linear(f"{block}.mlp.lin1", width, sam["mlp_dim"])
        yield from _linear(f"{block}.mlp.lin2", sam["mlp_dim"], width)
        for norm in ("norm1", "norm2"):
            yield from _norm(f"{block}.{norm}", width)
    yield f"{path}.neck.0.weight", (neck, width, 1, 1)
    yield from _norm(f"{path}.neck.1", neck)
    yield f"{path}.neck.2.weight", (neck, neck, 3, 3)
    yield from _norm(f"{path}.neck.3", neck)
    yield f"{path}.net_2.weight", (down, neck, 3, 3)
    yield f"{path}.net_3.weight", (out, down, 3, 3)


def _clip(path: str, clip: Config) -> Iterator[tuple[str, Shape]]:
    width, patch = clip["hidden_size"], clip["patch_size"]
    yield f"{path}.embeddings.class_embedding", (width,)
    yield f"{path}.embeddings.patch_embedding.weight", (width, 3, patch, patch)
    yield f"{path}.embeddings.position_embedding.weight", ((clip["image_size"] // patch) ** 2 + 1, width)
    yield from _norm(f"{path}.pre_layrnorm", width)
    for index in range(clip["num_hidden_layers"]):
        layer = f"{path}.transformer.layers.{index}"
        yield from _linear(f"{layer}.self_attn.qkv_proj", width, 3 * width)
        yield from _linear(f"{layer}.self_attn.out_proj", width, width)
        yield from _linear(f"{layer}.mlp.fc1", width, clip["intermediate_size"])
        yield from _linear(f"{layer}.mlp.fc2", clip["intermediate_size"], width)
        for norm in ("layer_norm1", "layer_norm2"):
            yield from _norm(f"{layer}.{norm}", width)


def _query(path: str, query: Config) -> Iterator[tuple[str, Shape]]:
    width = query["hidden_size"]
    narrow = width // query["num_attention_heads"] * query["num_key_value_heads"]
    yield f"{path}.query_768.weight", (144, width)
    yield f"{path}.query_1024.weight", (256, width)
    yield f"{path}.model.model.norm.weight", (width,)
    for index in range(query["num_hidden_layers"]):
        layer = f"{path}.model.model.layers.{index}"
        for part, out in (("q", width), ("k", narrow), ("v", narrow)):
            yield from _linear(f"{layer}.self_attn.{part}_proj", width, out)
        yield f"{layer}.self_attn.o_proj.weight", (width, width)
        yield from _swiglu(f"{layer}.mlp", width, query["intermediate_size"])
        yield f"{layer}.input_layernorm.weight", (width,)
        yield f"{layer}.post_attention_layernorm.weight", (width,)


def _linear(path: str, inputs: int, outputs: int) -> Iterator[tuple[str, Shape]]:
    yield f"{path}.weight", (outputs, inputs)
    yield f"{path}.bias", (outputs,)


def _norm(path: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{path}.weight", (width,)
    yield f"{path}.bias", (width,)
