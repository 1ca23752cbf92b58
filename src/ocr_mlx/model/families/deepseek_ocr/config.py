"""The hyper-parameters of a DeepSeek-OCR checkpoint, from any of the three layouts of config.json that are around.

Published ones describe the text under `language_config` and the towers under `vision_config.width`; transformers' own
models have `text_config` and `vision_config.sam_config` / `encoder_config`; MLX conversions keep the published layout.
All leave out what equals their code's defaults, so that the published sizes are the defaults here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ocr_mlx.errors import UnsupportedArchitecture
from ocr_mlx.model.layers.decoder import DecoderConfig
from ocr_mlx.model.layers.sam import SamConfig

IMAGE_TOKEN: Final = 128815
_HINT: Final = "Only DeepSeek-OCR, DeepSeek-OCR-2 and Unlimited-OCR checkpoints are read here."
_TEXT: Final[dict[str, Any]] = {
    "hidden_size": 1280,
    "num_hidden_layers": 12,
    "num_attention_heads": 10,
    "intermediate_size": 6848,
    "vocab_size": 129280,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
_UNLIMITED_POSITIONS: Final = 32768
_WINDOW: Final = 128
_QUERY: Final[Mapping[str, Any]] = {
    "hidden_size": 896,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "intermediate_size": 4864,
    "vocab_size": 1,  # it has no vocabulary, and its positions end with its pictures
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "qkv_bias": True,
}
_FIXED: Final[Mapping[str, tuple[Any, ...]]] = {
    "use_mla": (False,),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "hidden_act": ("silu",),
    "scoring_func": ("softmax",),
    "topk_method": ("greedy", "gready", "group_limited_greedy"),
    "n_group": (1,),
    "norm_topk_prob": (False,),
    "routed_scaling_factor": (1,),
}
"""What the text part may say where it says anything; with one group, limiting the groups changes nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MoeConfig:
    """The experts of the text layers; `sparse[layer]` says which layers have them."""

    routed: int
    shared: int
    chosen: int
    width: int
    sparse: tuple[bool, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipConfig:
    """CLIP-L behind SAM (version 1); the defaults are the published ones."""

    width: int = 1024
    layers: int = 24
    heads: int = 16
    mlp_width: int = 4096
    image_size: int = 224
    patch_size: int = 14
    eps: float = 1e-5

    @property
    def grid(self) -> int:
        """Patches on a side that the table of positions is made for."""
        return self.image_size // self.patch_size


@dataclass(frozen=True, kw_only=True, slots=True)
class DeepseekConfig:
    """The whole model. Version 1 has `clip`, version 2 has `query` behind SAM.

    `window` is how many of the tokens that it has written Unlimited-OCR looks at, None for the others: all.
    """

    version: int
    image_token: int
    text: DecoderConfig
    moe: MoeConfig
    sam: SamConfig
    clip: ClipConfig | None
    query: DecoderConfig | None
    window: int | None

    @property
    def vocab_size(self) -> int:
        """Rows of the token table."""
        return self.text.vocab_size

    @property
    def max_position_embeddings(self) -> int:
        """Prompt and generated tokens together."""
        return self.text.max_position_embeddings

    @property
    def feature_width(self) -> int:
        """Width of what the projector reads."""
        if self.query is not None:
            return self.query.hidden_size
        return self.sam.down_widths[1] + (self.clip.width if self.clip else 0)

    @staticmethod
    def read(config: Mapping[str, Any]) -> DeepseekConfig:
        """Read a config.json. Raises UnsupportedArchitecture that names what is foreign or inconsistent."""
        version = _version(config)
        text, sections = _text_section(config), _vision_sections(config)
        _refuse_foreign(text)
        query = _read_query(sections[1]) if version == 2 else None
        clip = _read_clip(sections[1]) if version == 1 else None
        unlimited = "unlimited" in str(config.get("model_type", "")).lower()
        positions = {"max_position_embeddings": _UNLIMITED_POSITIONS} if unlimited else {}
        found = DeepseekConfig(
            version=version,
            image_token=int(config.get("image_token_id") or config.get("image_token_index") or IMAGE_TOKEN),
            text=DecoderConfig.read(_without_head_dim(text), **(_TEXT | positions)),
            moe=_read_moe(text),
            sam=_read_sam(sections[0], query),
            clip=clip,
            query=query,
            window=_window(config, text) if unlimited else None,
        )
        _check(found, config)
        return found


def _version(config: Mapping[str, Any]) -> int:
    """By the vision part, which is what differs; by the names of model and class where it says nothing."""
    vision = config.get("vision_config") or {}
    names = [str(name) for name in config.get("architectures") or ()]
    said = str(vision.get("model_name", "")) if isinstance(vision, Mapping) else ""
    if said:
        if said not in ("deeplip_b_l", "deepencoderv2"):
            raise UnsupportedArchitecture(f"config.json: vision_config.model_name {said!r} is not known.", hint=_HINT)
        return 2 if said == "deepencoderv2" else 1
    flat = "".join([str(config.get("model_type", "")), *names]).lower().replace("_", "").replace("-", "")
    return 2 if "deepseekocr2" in flat else 1


def _text_section(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The text part; what a nested section leaves out may stand at the top."""
    for name in ("language_config", "text_config", "llm_config"):
        section = config.get(name)
        if isinstance(section, Mapping) and section:
            return section
    return config


def _window(config: Mapping[str, Any], text: Mapping[str, Any]) -> int:
    found = (part.get(name) for part in (text, config) for name in ("sliding_window", "sliding_window_size"))
    window = next((value for value in found if value is not None), _WINDOW)
    if not isinstance(window, int) or window < 1:
        raise UnsupportedArchitecture(f"config.json: sliding_window is {window!r}, not a positive number.", hint=_HINT)
    return window


def _vision_sections(config: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """SAM's part and that of what stands behind it, in the names of transformers' configs."""
    vision = config.get("vision_config") or {}
    if not isinstance(vision, Mapping):
        raise UnsupportedArchitecture("config.json: vision_config is not an object.", hint=_HINT)
    if "sam_config" in vision or "encoder_config" in vision:
        return vision.get("sam_config") or {}, vision.get("encoder_config") or {}
    width = vision.get("width")
    towers = width if isinstance(width, Mapping) else {}
    behind = towers.get("clip-l-14-224") or towers.get("qwen2-0-5b") or {}
    return _published(towers.get("sam_vit_b") or {}), _published(behind)


def _published(tower: Mapping[str, Any]) -> dict[str, Any]:
    """A tower of the published layout under transformers' names; it never tells the width of its feed-forward part."""
    names = {
        "width": "hidden_size",
        "dim": "hidden_size",
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
    }
    return {names.get(name, name): value for name, value in tower.items()}


def _refuse_foreign(text: Mapping[str, Any]) -> None:
    for name, allowed in _FIXED.items():
        value = text.get(name)
        if value is not None and value not in allowed:
            raise UnsupportedArchitecture(f"config.json: the text part's {name} is {value!r}.", hint=_HINT)


def _without_head_dim(text: Mapping[str, Any]) -> dict[str, Any]:
    """Heads always share the hidden size; sizes of latent attention may be given and mean nothing."""
    ignored = ("head_dim", "qkv_bias", "qk_norm", "tie_word_embeddings")
    return {name: value for name, value in text.items() if name not in ignored}


def _read_moe(text: Mapping[str, Any]) -> MoeConfig:
    layers = int(text.get("num_hidden_layers") or _TEXT["num_hidden_layers"])
    kinds = text.get("mlp_layer_types")
    dense = text.get("first_k_dense_replace")
    first = 1 if dense is None else int(dense)
    sparse = tuple(kind == "sparse" for kind in kinds) if kinds else tuple(index >= first for index in range(layers))
    if len(sparse) != layers:
        raise UnsupportedArchitecture("config.json: mlp_layer_types does not fit num_hidden_layers.", hint=_HINT)
    return MoeConfig(
        routed=int(text.get("n_routed_experts") or text.get("num_experts") or 64),
        shared=int(text.get("n_shared_experts") or 2),
        chosen=int(text.get("num_experts_per_tok") or 6),
        width=int(text.get("moe_intermediate_size") or 896),
        sparse=sparse,
    )


def _read_sam(sam: Mapping[str, Any], query: DecoderConfig | None) -> SamConfig:
    """Published files of version 2 give version 1's width after the last halving; it is the query encoder's."""
    usual = SamConfig()
    width = int(sam.get("hidden_size") or usual.width)
    down = sam.get("downsample_channels") or usual.down_widths
    globals_ = sam.get("global_attn_indexes")
    return SamConfig(
        width=width,
        layers=int(sam.get("num_hidden_layers") or usual.layers),
        heads=int(sam.get("num_attention_heads") or usual.heads),
        mlp_width=int(sam.get("mlp_dim") or width * sam.get("mlp_ratio", 4)),
        image_size=int(sam.get("image_size") or usual.image_size),
        patch_size=int(sam.get("patch_size") or usual.patch_size),
        window=int(sam.get("window_size") or usual.window),
        global_layers=usual.global_layers if globals_ is None else tuple(globals_),
        neck_width=int(sam.get("output_channels") or usual.neck_width),
        down_widths=(int(down[0]), int(down[1]) if query is None else query.hidden_size),
        eps=float(sam.get("layer_norm_eps") or usual.eps),
    )


def _read_clip(clip: Mapping[str, Any]) -> ClipConfig:
    usual = ClipConfig()
    width = int(clip.get("hidden_size") or usual.width)
    return ClipConfig(
        width=width,
        layers=int(clip.get("num_hidden_layers") or usual.layers),
        heads=int(clip.get("num_attention_heads") or usual.heads),
        mlp_width=int(clip.get("intermediate_size") or 4 * width),
        image_size=int(clip.get("image_size") or usual.image_size),
        patch_size=int(clip.get("patch_size") or usual.patch_size),
        eps=float(clip.get("layer_norm_eps") or usual.eps),
    )


def _read_query(query: Mapping[str, Any]) -> DecoderConfig:
    return DecoderConfig.read(_without_head_dim(query), **_QUERY)


def _check(found: DeepseekConfig, config: Mapping[str, Any]) -> None:
    wrong = []
    if found.text.hidden_size % found.text.num_attention_heads:
        wrong.append("num_attention_heads does not divide hidden_size")
    if found.sam.width % found.sam.heads:
        wrong.append("the heads of SAM do not divide its width")
    if found.clip is not None and found.clip.width != found.sam.down_widths[1]:
        wrong.append("what SAM gives is not as wide as CLIP")
    if found.clip is not None and found.clip.width % found.clip.heads:
        wrong.append("the heads of CLIP do not divide its width")
    if found.moe.chosen > found.moe.routed:
        wrong.append("num_experts_per_tok is more than n_routed_experts")
    projector = config.get("projector_config") or {}
    if projector.get("projector_type", "linear") != "linear":
        wrong.append(f"projector_type is {projector['projector_type']!r}, not 'linear'")
    if wrong:
        raise UnsupportedArchitecture(f"config.json: {wrong[0]}.", hint=_HINT)
