"""The hyper-parameters of a `qwen2_vl` config.json, in the flat layout of the published file or the nested one of newer
transformers.

Two that mislead: the published `vision_config` calls the channels `in_chans`, and its `hidden_size` is the text's width,
not the tower's (`embed_dim`). `rope_scaling` and `rope_parameters` are the same thing under two names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ocr_mlx.errors import UnsupportedArchitecture
from ocr_mlx.model.layers.decoder import DecoderConfig

_HINT = "Only Qwen2-VL checkpoints, such as QARI, are read here; Qwen2.5-VL and Qwen3-VL are other models."
_CHANNELS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionConfig:
    """The vision tower. `patch_size` in pixels; `spatial_merge_size` patches a side become one token of `hidden_size`."""

    depth: int
    embed_dim: int
    hidden_size: int
    num_heads: int
    mlp_ratio: float
    patch_size: int
    spatial_merge_size: int
    temporal_patch_size: int
    hidden_act: str
    rope_theta: float

    @property
    def factor(self) -> int:
        """Pixels a side that become one token."""
        return self.patch_size * self.spatial_merge_size


@dataclass(frozen=True, kw_only=True, slots=True)
class Qwen2VLConfig:
    """Both halves. `mrope_section` says how many pairs of a head's numbers turn by time, row and column."""

    vision: VisionConfig
    text: DecoderConfig
    mrope_section: tuple[int, ...]
    image_token_id: int
    vision_start_token_id: int
    vision_end_token_id: int

    @staticmethod
    def read(config: Mapping[str, Any]) -> Qwen2VLConfig:
        """Read a config.json.

        Raises KeyError for what is missing, UnsupportedArchitecture for what is foreign or inconsistent.
        """
        nested = config.get("text_config")
        text = {**config, **nested} if isinstance(nested, Mapping) else dict(config)
        tied = bool(config.get("tie_word_embeddings") or text.get("tie_word_embeddings"))
        rope = text.get("rope_scaling") or text.get("rope_parameters") or {}
        read = Qwen2VLConfig(
            vision=_read_vision(config["vision_config"]),
            text=_read_text(text, rope, tied),
            mrope_section=tuple(rope.get("mrope_section") or (16, 24, 24)),
            image_token_id=int(config.get("image_token_id", 151655)),
            vision_start_token_id=int(config.get("vision_start_token_id", 151652)),
            vision_end_token_id=int(config.get("vision_end_token_id", 151653)),
        )
        _check(read)
        return read


def _read_text(text: Mapping[str, Any], rope: Mapping[str, Any], tied: bool) -> DecoderConfig:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    _only("rope_scaling.type", kind, ("default", "mrope"))
    _only("hidden_act", text.get("hidden_act", "silu"), ("silu",))
    windowed = text.get("use_sliding_window") and text.get("max_window_layers", 0) < text["num_hidden_layers"]
    _only("use_sliding_window", bool(windowed), (False,))
    fixed = {
        "rope_theta": float(rope.get("rope_theta") or text.get("rope_theta") or 1e6),
        "qkv_bias": True,
        "qk_norm": False,
        "head_dim": None,
        "tie_word_embeddings": tied,
        "rope_parameters": None,
    }
    return DecoderConfig.read({**text, **fixed}, rms_norm_eps=1e-5, max_position_embeddings=32768)


def _read_vision(values: Mapping[str, Any]) -> VisionConfig:
    _only("vision_config.in_channels", values.get("in_channels", values.get("in_chans", _CHANNELS)), (_CHANNELS,))
    rope = values.get("rope_parameters") or {}
    _only("vision_config.hidden_act", act := values.get("hidden_act", "quick_gelu"), ("quick_gelu", "gelu"))
    return VisionConfig(
        depth=values.get("depth", 32),
        embed_dim=values.get("embed_dim", 1280),
        hidden_size=values["hidden_size"],
        num_heads=values.get("num_heads", 16),
        mlp_ratio=values.get("mlp_ratio", 4),
        patch_size=values.get("patch_size", 14),
        spatial_merge_size=values.get("spatial_merge_size", 2),
        temporal_patch_size=values.get("temporal_patch_size", 2),
        hidden_act=act,
        rope_theta=float(rope.get("rope_theta", 10_000.0)),
    )


def _check(config: Qwen2VLConfig) -> None:
    vision, text = config.vision, config.text
    if vision.embed_dim % (4 * vision.num_heads):
        raise _inconsistent(
            f"vision_config.embed_dim {vision.embed_dim} is not 4 numbers times {vision.num_heads} heads"
        )
    if vision.hidden_size != text.hidden_size:
        raise _inconsistent(f"vision_config.hidden_size is {vision.hidden_size}, the text's {text.hidden_size}")
    if text.head_dim * text.num_attention_heads != text.hidden_size:
        raise _inconsistent("num_attention_heads does not divide hidden_size")
    if text.num_attention_heads % text.num_key_value_heads:
        raise _inconsistent("num_key_value_heads does not divide num_attention_heads")
    if sum(config.mrope_section) * 2 != text.head_dim:
        raise _inconsistent(f"mrope_section {list(config.mrope_section)} does not fill half a head of {text.head_dim}")


def _only(name: str, value: object, known: tuple[object, ...]) -> None:
    if value not in known:
        raise UnsupportedArchitecture(f"config.json: {name} is {value!r}, which is not known.", hint=_HINT)


def _inconsistent(what: str) -> UnsupportedArchitecture:
    return UnsupportedArchitecture(f"config.json: {what}.", hint=_HINT)
