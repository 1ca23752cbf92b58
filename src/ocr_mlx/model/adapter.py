"""What a PEFT LoRA adapter's folder says: adapter_config.json beside adapter_model.safetensors, without a model of its own.

Only plain LoRA is read. Whatever would change the arithmetic in another way is refused by name: an adapter that is half
applied reads pages, and reads them wrongly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ocr_mlx.errors import CheckpointIncomplete, ModelError
from ocr_mlx.model.folder import CONFIG, data_file, member, read_json
from ocr_mlx.model.weight_files import choose_weights

ADAPTER_CONFIG: Final = "adapter_config.json"
_STEM: Final = "adapter_model"
_MOST: Final = 1_000_000
"""For the rank and its weight: far beyond any that was trained."""
_FILES: Final = (f"{_STEM}.safetensors", f"{_STEM}.bin")
_HARMLESS_STARTS: Final = (True, False, None, "gaussian", "eva", "orthogonal")
"""Other ways of starting the training (PiSSA, OLoRA, CorDA, LoftQ) changed the base as well."""
_UNSUPPORTED: Final = (
    "use_dora",
    "use_qalora",
    "lora_bias",
    "fan_in_fan_out",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "arrow_config",
    "use_bdlora",
)
_MERGE: Final = "Merge it into its base with PEFT (`merge_and_unload`) and take the saved model."


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """An adapter that can be merged: W becomes W + `scale` * B @ A, with A of `rank` rows.

    `base` is the model it was trained on, as declared: a hub id or a folder; `base_revision` where it is pinned.
    """

    folder: Path
    base: str
    base_revision: str | None
    rank: int
    scale: float


def is_adapter(names: Iterable[str]) -> bool:
    """Whether these files, of a folder or a repository, are an adapter's and no whole model's."""
    names = set(names)
    return ADAPTER_CONFIG in names and not choose_weights([name for name in names if not name.startswith(_STEM)])


def is_adapter_folder(folder: Path) -> bool:
    """`is_adapter` of a folder on this machine; False where there is none."""
    return folder.is_dir() and is_adapter(path.name for path in folder.iterdir())


def weight_file(folder: Path) -> Path:
    """The file with the adapter's tensors. Raises CheckpointIncomplete."""
    for name in _FILES:
        if member(folder, name).exists():
            return data_file(folder, name)
    raise CheckpointIncomplete(
        f"There are no weights in {folder.name}: looked for {' and '.join(_FILES)}.", hint="Download the adapter again."
    )


def base_folder(adapter: Adapter, base: str, roots: Sequence[Path] | None = None) -> Path | None:
    """The folder that `base` means for an adapter kept in a folder: where it says, or beside the adapter.

    Beside it counts by its last name too, so that what `hf download` left there is found. Where there are `roots`, a
    folder outside them is none.
    """
    given, beside = _expanded(base), adapter.folder.parent
    for folder in (beside / given, adapter.folder / given, beside / given.name):
        try:
            real = folder.resolve()
            fenced = roots is not None and not any(real.is_relative_to(root.resolve()) for root in roots)
            if not fenced and real != adapter.folder.resolve() and (folder / CONFIG).is_file():
                return folder
        except (OSError, RuntimeError, ValueError):  # no name that a folder can have
            continue
    return None


def _expanded(base: str) -> Path:
    try:
        return Path(base).expanduser()
    except RuntimeError:  # the home of nobody
        return Path(base)


def choose_weight_file(names: Iterable[str]) -> str | None:
    """Of a repository's files, the one with the adapter's tensors."""
    names = set(names)
    return next((name for name in _FILES if name in names), None)


def read_adapter(folder: Path) -> Adapter:
    """Read adapter_config.json.

    Raises ModelError for another kind of adapter, CheckpointIncomplete where something is missing or no number.
    """
    config = read_json(member(folder, ADAPTER_CONFIG))
    _check_kind(config, folder.name)
    rank, alpha = _number(config, "r", folder.name), _number(config, "lora_alpha", folder.name)
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(base, str) or not base:
        raise CheckpointIncomplete(
            f"{ADAPTER_CONFIG} in {folder.name} names no base model.", hint="Set `base_model_name_or_path` in it."
        )
    return Adapter(
        folder=folder,
        base=base,
        base_revision=revision if isinstance(revision, str) and revision else None,
        rank=int(rank),
        scale=alpha / (math.sqrt(rank) if config.get("use_rslora") else rank),
    )


def check_base(adapter: Adapter, config: Mapping[str, Any]) -> None:
    """Raise ModelError where the base's config.json says that its weights are packed: nothing can be added to those."""
    if config.get("quantization") or config.get("quantization_config"):
        raise ModelError(
            f"The base {adapter.base} of the adapter {adapter.folder.name} is quantized; an adapter is merged into plain"
            " weights.",
            hint=f"Name the unquantized original as `base_model_name_or_path` in a copy of its {ADAPTER_CONFIG}.",
        )


def _check_kind(config: Mapping[str, Any], name: str) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        what = f"an adapter of type {kind}" if kind else "no PEFT adapter: its adapter_config.json has no `peft_type`"
        raise ModelError(f"{name} is {what}; only LoRA can be merged here.", hint=_MERGE)
    wrong = [key for key in _UNSUPPORTED if config.get(key)]
    wrong += ["bias"] if config.get("bias", "none") != "none" else []
    wrong += ["init_lora_weights"] if config.get("init_lora_weights") not in _HARMLESS_STARTS else []
    if wrong:
        told = ", ".join(f"`{key}`: {config[key]!r}" for key in wrong)
        raise ModelError(f"The adapter {name} was made with {told}, which cannot be merged here.", hint=_MERGE)


def _number(config: Mapping[str, Any], key: str, name: str) -> float:
    value = config.get(key)
    kinds = (int,) if key == "r" else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < _MOST:
        raise CheckpointIncomplete(
            f"{ADAPTER_CONFIG} in {name}: `{key}` is {value!r}, not a positive number.",
            hint="Download the adapter again.",
        )
    return float(value)
