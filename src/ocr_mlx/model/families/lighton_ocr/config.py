"""The hyper-parameters of a LightOnOCR checkpoint: a Pixtral tower, a patch merger and a Qwen3 decoder.

Published files say `mistral3` (or `lighton_ocr` where transformers wrote them); the image token is called `image_token_id`
or `image_token_index`; what may differ and would change the numbers is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ocr_mlx.errors import UnsupportedArchitecture
from ocr_mlx.model.layers.decoder import DecoderConfig

_HINT: Final = "Only LightOnOCR checkpoints (a Pixtral tower with a Qwen3 decoder) are read here."
_IMAGE_TOKEN: Final = 151655
_OWN_TYPE: Final = "lighton_ocr"
_NEEDED: Final = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionConfig:
    """Pixtral. `image_size` and `patch_size` are pixels; `image_size` is the longest side of a picture."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    image_size: int
    patch_size: int
    num_channels: int
    rope_theta: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LightOnConfig:
    """Both halves; `spatial_merge_size` squared patches become one of the decoder's tokens."""

    vision: VisionConfig
    text: DecoderConfig
    spatial_merge_size: int
    image_token_id: int

    @property
    def cell(self) -> int:
        """Pixels on a side that become one token."""
        return self.vision.patch_size * self.spatial_merge_size

    @staticmethod
    def read(config: Mapping[str, Any]) -> LightOnConfig:
        """Read a config.json. Raises UnsupportedArchitecture that names what is missing, foreign or inconsistent."""
        _refuse_others(
            config, "", vision_feature_layer=-1, multimodal_projector_bias=False, projector_hidden_act="gelu"
        )
        return LightOnConfig(
            vision=_read_vision(_section(config, "vision_config", "pixtral")),
            text=_read_text(_section(config, "text_config", "qwen3"), config),
            spatial_merge_size=_whole(config, "", "spatial_merge_size", 2),
            image_token_id=_image_token(config),
        )


def _section(config: Mapping[str, Any], name: str, model_type: str) -> Mapping[str, Any]:
    section = config.get(name)
    if not isinstance(section, Mapping):
        raise UnsupportedArchitecture(f"config.json has no section {name!r}.", hint=_HINT)
    _refuse_others(section, f"{name}.", model_type=model_type, hidden_act="silu")
    _check_rope(section, name)
    return section


def _read_vision(values: Mapping[str, Any]) -> VisionConfig:
    where = "vision_config."
    heads = _whole(values, where, "num_attention_heads", None)
    width = _whole(values, where, "hidden_size", None)
    if width % heads or width // heads % 4:
        raise UnsupportedArchitecture(
            f"config.json: {width} numbers do not make {heads} heads of whole fours in vision_config.", hint=_HINT
        )
    _refuse_others(values, where, head_dim=width // heads)
    return VisionConfig(
        hidden_size=width,
        num_hidden_layers=_whole(values, where, "num_hidden_layers", None),
        num_attention_heads=heads,
        intermediate_size=_whole(values, where, "intermediate_size", None),
        image_size=_whole(values, where, "image_size", 1540),
        patch_size=_whole(values, where, "patch_size", 14),
        num_channels=_whole(values, where, "num_channels", 3),
        rope_theta=_theta(values, 10_000.0),
    )


def _read_text(values: Mapping[str, Any], config: Mapping[str, Any]) -> DecoderConfig:
    _refuse_others(values, "text_config.", attention_bias=False, use_sliding_window=False)
    for name in _NEEDED:
        _whole(values, "text_config.", name, None)
    for name, default in (("head_dim", 128), ("num_key_value_heads", 1)):
        _whole(values, "text_config.", name, default)
    given = {**values, "tie_word_embeddings": _tied(config, values)}
    text = DecoderConfig.read(given, rope_theta=1_000_000.0, qk_norm=True, head_dim=128)
    if text.num_attention_heads % text.num_key_value_heads:
        raise UnsupportedArchitecture(
            "config.json: text_config.num_key_value_heads does not divide num_attention_heads.", hint=_HINT
        )
    return text


def _tied(config: Mapping[str, Any], text: Mapping[str, Any]) -> bool:
    """Whether the head is the embedding table: the whole model's word counts before the decoder's.

    transformers writes `true` for the whole and the decoder's own default `false` beside it. Where nothing is said, its
    own class ties and the published `mistral3` files do not.
    """
    for place in (config, text):
        if (found := place.get("tie_word_embeddings")) is not None:
            return bool(found)
    return config.get("model_type") == _OWN_TYPE


def _check_rope(values: Mapping[str, Any], section: str) -> None:
    for key in ("rope_parameters", "rope_scaling"):
        rope = values.get(key) or {}
        kind = rope.get("rope_type", rope.get("type", "default")) if isinstance(rope, Mapping) else rope
        if kind not in ("default", "axial"):
            raise UnsupportedArchitecture(f"config.json: {section}.{key} asks for {kind!r}.", hint=_HINT)


def _theta(values: Mapping[str, Any], default: float) -> float:
    rope = values.get("rope_parameters") or {}
    return float(rope.get("rope_theta") or values.get("rope_theta") or default)


def _image_token(config: Mapping[str, Any]) -> int:
    for name in ("image_token_id", "image_token_index"):
        if isinstance(found := config.get(name), int):
            return found
    return _IMAGE_TOKEN


def _refuse_others(values: Mapping[str, Any], where: str, **wanted: Any) -> None:
    for name, value in wanted.items():
        if values.get(name) not in (None, value):
            raise UnsupportedArchitecture(
                f"config.json: {where}{name} is {values[name]!r}; only {value!r} is read here.", hint=_HINT
            )


def _whole(values: Mapping[str, Any], where: str, name: str, default: int | None) -> int:
    value = values.get(name, default)
    if value is None:
        raise UnsupportedArchitecture(f"config.json lacks {where}{name}.", hint=_HINT)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise UnsupportedArchitecture(f"config.json: {where}{name} is {value!r}, not a positive number.", hint=_HINT)
    return value
