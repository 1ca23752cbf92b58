"""The five modes of `/api/ocr`, and what a mode and a prompt mean to the model that reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from ocr_mlx.domain import Prompt
from ocr_mlx.server.deepseek.schemas import ModeInfo
from ocr_mlx.server.uploads import plain_lines
from ocr_mlx.settings import DEEPSEEK_MODES, NATIVE, Settings

if TYPE_CHECKING:
    from ocr_mlx.model.base import Mode

IMAGE: Final = "<image>"
DEFAULT_MODE: Final = DEEPSEEK_MODES[0]
GROUNDING: Final = "<|grounding|>"
_TABLE: Final[Mapping[str, tuple[str, str, int, int, bool, str, str]]] = {
    "gundam": ("Gundam (动态裁剪)", "整页概览加局部裁剪，适合大多数文档。", 1024, 640, True, "中等", "更高"),
    "base": ("Base 1024", "整页缩放到 1024 像素，适合一般页面。", 1024, 1024, False, "中等", "高"),
    "small": ("Small 640", "整页缩放到 640 像素，适合文字较少的页面。", 640, 640, False, "较快", "中等"),
    "tiny": ("Tiny 512", "整页缩放到 512 像素，适合快速预览。", 512, 512, False, "最快", "基础"),
    "large": ("Large 1280", "整页缩放到 1280 像素，适合细节较多的页面。", 1280, 1280, False, "最慢", "最高"),
}
"""label, description, base size, image size, tiles, speed, quality"""


def table() -> dict[str, ModeInfo]:
    """Every mode by its name, in the service's order."""
    return {name: _info(*_TABLE[name]) for name in DEEPSEEK_MODES}


def _info(label: str, description: str, base: int, image: int, crop: bool, speed: str, quality: str) -> ModeInfo:
    return ModeInfo(
        label=label,
        description=description,
        base_size=base,
        image_size=image,
        crop_mode=crop,
        test_compress=crop,
        speed=speed,
        quality=quality,
    )


def effective(prompt: str, settings: Settings) -> str:
    """The prompt as it is used and told: the default for a blank one, with a place for the picture."""
    text = plain_lines(prompt).strip() or settings.deepseek_prompt
    return text if IMAGE in text else f"{IMAGE}\n{text}"


def to_prompt(mode: str, prompt: str, model: str) -> Prompt:
    """What `model`, as the engine wants it named, is asked for a mode and an `effective` prompt. Downloads nothing.

    DeepSeek-OCR has the mode and gets the prompt; one of its own prompts names its task, so that the answer is understood
    as one to that task. Others have no such mode, and get the words without DeepSeek's marks, none for a prompt of its own.
    """
    known, task = _modes_of(model), _task(prompt, mode, _deepseek())
    if known is None:  # only the checkpoint's files could tell: name nothing that its family would do by itself
        usual = mode == DEFAULT_MODE
        return Prompt() if usual and task == f"document-{mode}" else Prompt(text=prompt, mode="" if usual else mode)
    if set(DEEPSEEK_MODES).issubset(known):
        return Prompt(mode=task) if task else Prompt(text=prompt, mode=mode)
    return Prompt() if task else Prompt(text=prompt.replace(IMAGE, "").replace(GROUNDING, "").strip())


def _modes_of(model: str) -> Mapping[str, Mode] | None:
    from ocr_mlx.engine.remote import is_reference, parse
    from ocr_mlx.model.registry import family_of

    family = family_of(parse(model).model if is_reference(model) else model)
    return None if family is None else family.modes


def _deepseek() -> Mapping[str, Mode]:
    return _modes_of(NATIVE["deepseek"]) or {}


def _task(prompt: str, size: str, modes: Mapping[str, Mode]) -> str:
    """The mode of this size whose own prompt that is; empty where there is none."""
    ours = (name for name, mode in modes.items() if name.endswith(f"-{size}") and mode.prompt == prompt)
    return next(ours, "")
