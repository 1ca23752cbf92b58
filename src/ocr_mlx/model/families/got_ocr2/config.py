"""The hyper-parameters of GOT-OCR 2.0 from any of the config.json files around.

Three layouts: the original's (`model_type` GOT, one level, nothing about the vision tower), transformers' first (one level,
`image_token_id`) and its later ones (`text_config`, `image_token_index`). What a file leaves out is the published model's.
`image_seq_length` 576 is a number that was never true: a picture takes 256 tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ocr_mlx.errors import UnsupportedArchitecture
from ocr_mlx.model.layers.decoder import DecoderConfig
from ocr_mlx.model.layers.sam import SamConfig

_IMAGE_TOKEN: Final = 151859
_TEXT: Final = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 2816,
    "vocab_size": 151860,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
}
_FIXED_TEXT: Final = {"hidden_act": "silu", "use_sliding_window": False, "rope_scaling": None}
_FIXED_VISION: Final = {
    "hidden_act": "gelu",
    "qkv_bias": True,
    "use_abs_pos": True,
    "use_rel_pos": True,
    "num_channels": 3,
}
_HALVINGS: Final = 2
_HINT: Final = "Only GOT-OCR 2.0 checkpoints (a SAM encoder with a Qwen2 decoder) are read here."


@dataclass(frozen=True, kw_only=True, slots=True)
class GotConfig:
    """Both halves, and the id that holds a picture's places in the prompt."""

    vision: SamConfig
    text: DecoderConfig
    image_token: int

    @property
    def tokens_per_image(self) -> int:
        """How many of the prompt's places one picture takes."""
        side = self.vision.grid
        for _ in range(_HALVINGS):
            side = -(-side // 2)
        return side * side

    @staticmethod
    def read(config: Mapping[str, Any]) -> GotConfig:
        """Read a config.json. Raises UnsupportedArchitecture that names what is foreign or inconsistent."""
        inner = _section(config, "text_config")
        text = _read_text(inner if inner else config, config)
        token = next((config[name] for name in _IMAGE_NAMES if config.get(name) is not None), _IMAGE_TOKEN)
        if not isinstance(token, int) or not 0 <= token < text.vocab_size:
            raise _wrong(f"the image token {token!r} is no id below vocab_size {text.vocab_size}")
        return GotConfig(
            vision=_read_vision(_section(config, "vision_config"), text.hidden_size), text=text, image_token=token
        )


_IMAGE_NAMES: Final = ("image_token_index", "image_token_id", "im_patch_token")


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = config.get(name) or {}
    if not isinstance(section, Mapping):
        raise _wrong(f"{name} is not an object")
    return section


def _read_text(values: Mapping[str, Any], outer: Mapping[str, Any]) -> DecoderConfig:
    _check_fixed(values, _FIXED_TEXT, "text")
    rope = (values.get("rope_parameters") or {}).get("rope_type", "default")
    if rope != "default":
        raise _wrong(f"positions of the type {rope!r} are not known")
    config = DecoderConfig.read(dict(values) | {"qkv_bias": True, "tie_word_embeddings": _tied(values, outer)}, **_TEXT)
    if config.num_attention_heads % config.num_key_value_heads:
        raise _wrong("num_key_value_heads does not divide num_attention_heads")
    return config


def _tied(*places: Mapping[str, Any]) -> bool:
    """Whether the head repeats the embeddings: the outermost word counts."""
    said = [place["tie_word_embeddings"] for place in places if place.get("tie_word_embeddings") is not None]
    return bool(said[-1]) if said else True


def _read_vision(values: Mapping[str, Any], hidden_size: int) -> SamConfig:
    _check_fixed(values, _FIXED_VISION, "vision")
    usual = SamConfig()
    neck = values.get("output_channels", usual.neck_width)
    config = SamConfig(
        width=values.get("hidden_size", usual.width),
        layers=values.get("num_hidden_layers", usual.layers),
        heads=values.get("num_attention_heads", usual.heads),
        mlp_width=values.get("mlp_dim", usual.mlp_width),
        image_size=_side(values.get("image_size", usual.image_size), "image_size"),
        patch_size=_side(values.get("patch_size", usual.patch_size), "patch_size"),
        window=values.get("window_size", usual.window),
        global_layers=tuple(values.get("global_attn_indexes", usual.global_layers)),
        neck_width=neck,
        down_widths=(2 * neck, hidden_size),
        eps=values.get("layer_norm_eps", usual.eps),
    )
    if config.image_size % config.patch_size:
        raise _wrong(f"patches of {config.patch_size} do not divide pictures of {config.image_size}")
    if config.width % config.heads:
        raise _wrong(f"vision: {config.heads} heads do not divide {config.width}")
    return config


def _side(value: Any, name: str) -> int:
    sides = set(value) if isinstance(value, list | tuple) else {value}
    side = sides.pop()
    if sides or not isinstance(side, int) or side < 1:
        raise _wrong(f"{name} is {value!r}, not one side of a square")
    return side


def _check_fixed(values: Mapping[str, Any], fixed: Mapping[str, Any], part: str) -> None:
    for name, wanted in fixed.items():
        if values.get(name, wanted) != wanted:
            raise _wrong(f"{part}: {name} is {values[name]!r}, not {wanted!r}")


def _wrong(what: str) -> UnsupportedArchitecture:
    return UnsupportedArchitecture(f"config.json: {what}.", hint=_HINT)
