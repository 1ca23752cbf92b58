"""The hyper-parameters of a `vision-encoder-decoder` checkpoint: a DonutSwin encoder and an MBart decoder.

Published files carry many keys that mean nothing here. Two that mislead: `decoder.num_hidden_layers` is an alias of
MBart's *encoder* depth (the decoder's is `decoder_layers`), and `max_length` 20 is a library default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ocr_mlx.errors import UnsupportedArchitecture

ACTIVATIONS = frozenset(
    {"gelu", "gelu_python", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu", "swish", "tanh"}
)
_MOST_WINDOW = 24
"""The table of a window's pairs grows with the fourth power of its side; published models have 7 and 10."""
_HINT = "Only Nougat checkpoints (a DonutSwin encoder with an MBart decoder) are read here."


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderConfig:
    """DonutSwin. Sizes are (height, width): `image_size` in pixels, `patch_size` in pixels, `window_size` in cells."""

    image_size: tuple[int, int]
    patch_size: tuple[int, int]
    num_channels: int
    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_size: int
    mlp_ratio: float
    qkv_bias: bool
    hidden_act: str
    use_absolute_embeddings: bool
    layer_norm_eps: float

    @property
    def hidden_size(self) -> int:
        """Width of the encoder's output."""
        return self.embed_dim << (len(self.depths) - 1)

    @property
    def grid(self) -> tuple[int, int]:
        """Patches of a picture of `image_size`, whole ones only: what the absolute positions are laid out for."""
        return self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderConfig:
    """MBart's decoder with cross-attention."""

    vocab_size: int
    d_model: int
    decoder_layers: int
    decoder_attention_heads: int
    decoder_ffn_dim: int
    max_position_embeddings: int
    activation_function: str
    scale_embedding: bool
    tie_word_embeddings: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class NougatConfig:
    """Both halves. `projected` says that a linear layer leads from the encoder's width to the decoder's."""

    encoder: EncoderConfig
    decoder: DecoderConfig
    start_token_id: int

    @property
    def projected(self) -> bool:
        """Whether the checkpoint holds `enc_to_dec_proj`."""
        return self.encoder.hidden_size != self.decoder.d_model

    @staticmethod
    def read(config: Mapping[str, Any]) -> NougatConfig:
        """Read a config.json. Raises UnsupportedArchitecture that names what is missing, foreign or inconsistent."""
        return NougatConfig(
            encoder=_read_encoder(_section(config, "encoder", "donut-swin")),
            decoder=_read_decoder(_section(config, "decoder", "mbart")),
            start_token_id=start_token_id(config),
        )


def start_token_id(config: Mapping[str, Any]) -> int:
    """The id that decoding starts from: the decoder's start id, else its beginning of sequence, else 0."""
    places = (config, config.get("decoder") or {})
    for key in ("decoder_start_token_id", "bos_token_id"):
        for place in places:
            if isinstance(value := place.get(key), int):
                return value
    return 0


def _section(config: Mapping[str, Any], name: str, model_type: str) -> Mapping[str, Any]:
    section = config.get(name)
    if not isinstance(section, Mapping):
        raise UnsupportedArchitecture(f"config.json has no section {name!r}.", hint=_HINT)
    if section.get("model_type") != model_type:
        found = section.get("model_type", "nothing")
        raise UnsupportedArchitecture(f"config.json: {name}.model_type is {found!r}, not {model_type!r}.", hint=_HINT)
    return section


def _read_encoder(values: Mapping[str, Any]) -> EncoderConfig:
    _require(values, "encoder", "image_size", "embed_dim", "depths", "num_heads")
    config = EncoderConfig(
        image_size=_pair(values, "image_size", None),
        patch_size=_pair(values, "patch_size", 4),
        num_channels=_whole(values, "encoder", "num_channels", 3),
        embed_dim=_whole(values, "encoder", "embed_dim", None),
        depths=_wholes(values, "depths"),
        num_heads=_wholes(values, "num_heads"),
        window_size=_whole(values, "encoder", "window_size", 7),
        mlp_ratio=float(values.get("mlp_ratio", 4.0)),
        qkv_bias=bool(values.get("qkv_bias", True)),
        hidden_act=_activation(values, "encoder", "hidden_act"),
        use_absolute_embeddings=bool(values.get("use_absolute_embeddings", False)),
        layer_norm_eps=float(values.get("layer_norm_eps", 1e-5)),
    )
    _check_encoder(config)
    return config


def _check_encoder(config: EncoderConfig) -> None:
    if config.window_size > _MOST_WINDOW:
        raise UnsupportedArchitecture(
            f"config.json: encoder.window_size is {config.window_size}; {_MOST_WINDOW} at most are read here.",
            hint=_HINT,
        )
    if len(config.depths) != len(config.num_heads):
        raise UnsupportedArchitecture("config.json: encoder.depths and encoder.num_heads differ in length.", hint=_HINT)
    for stage, heads in enumerate(config.num_heads):
        if config.embed_dim * 2**stage % heads:
            raise UnsupportedArchitecture(
                f"config.json: encoder.num_heads[{stage}] = {heads} does not divide the stage's width.", hint=_HINT
            )
    rows, columns = (-(-size // patch) for size, patch in zip(config.image_size, config.patch_size, strict=True))
    for stage in range(len(config.depths)):
        if min(rows, columns) < config.window_size:
            raise UnsupportedArchitecture(
                f"config.json: the {rows} x {columns} grid of stage {stage} is smaller than encoder.window_size"
                f" {config.window_size}.",
                hint=_HINT,
            )
        rows, columns = -(-rows // 2), -(-columns // 2)


def _read_decoder(values: Mapping[str, Any]) -> DecoderConfig:
    names = ("vocab_size", "d_model", "decoder_layers", "decoder_attention_heads", "decoder_ffn_dim")
    _require(values, "decoder", *names, "max_position_embeddings")
    sizes = {name: _whole(values, "decoder", name, None) for name in (*names, "max_position_embeddings")}
    config = DecoderConfig(
        **sizes,
        activation_function=_activation(values, "decoder", "activation_function"),
        scale_embedding=bool(values.get("scale_embedding", False)),
        tie_word_embeddings=bool(values.get("tie_word_embeddings", True)),
    )
    if config.d_model % config.decoder_attention_heads:
        raise UnsupportedArchitecture(
            "config.json: decoder.decoder_attention_heads does not divide decoder.d_model.", hint=_HINT
        )
    if values.get("cross_attention_hidden_size") not in (None, config.d_model):
        raise UnsupportedArchitecture(
            "config.json: decoder.cross_attention_hidden_size is neither null nor decoder.d_model.", hint=_HINT
        )
    return config


def _require(values: Mapping[str, Any], section: str, *names: str) -> None:
    if missing := [f"{section}.{name}" for name in names if values.get(name) is None]:
        raise UnsupportedArchitecture(f"config.json lacks {', '.join(missing)}.", hint=_HINT)


def _whole(values: Mapping[str, Any], section: str, name: str, default: int | None) -> int:
    value = values.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise UnsupportedArchitecture(f"config.json: {section}.{name} is {value!r}, not a positive number.", hint=_HINT)
    return value


def _wholes(values: Mapping[str, Any], name: str) -> tuple[int, ...]:
    found = values[name]
    if not isinstance(found, list) or not found or not all(isinstance(v, int) and v > 0 for v in found):
        raise UnsupportedArchitecture(f"config.json: encoder.{name} is not a list of positive numbers.", hint=_HINT)
    return tuple(found)


def _pair(values: Mapping[str, Any], name: str, default: int | None) -> tuple[int, int]:
    found = values.get(name, default)
    pair = found if isinstance(found, list) else [found, found]
    if len(pair) != 2 or not all(isinstance(v, int) and v > 0 for v in pair):
        raise UnsupportedArchitecture(f"config.json: encoder.{name} is neither a size nor two sizes.", hint=_HINT)
    return pair[0], pair[1]


def _activation(values: Mapping[str, Any], section: str, name: str) -> str:
    found = values.get(name, "gelu")
    if found not in ACTIVATIONS:
        raise UnsupportedArchitecture(f"config.json: {section}.{name} {found!r} is not known.", hint=_HINT)
    return str(found)
