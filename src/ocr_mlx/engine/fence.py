"""Which folders a model may be read from: those that the operator named, and those inside the roots of files."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from ocr_mlx.errors import SourceForbidden, UnknownModel
from ocr_mlx.observer import shown_model


def check_folder(name: str, roots: Sequence[Path] | None, trusted: Collection[str]) -> None:
    """Raise SourceForbidden for a model's folder outside `roots`, in the same words whether it is there or not.

    Names of other kinds pass, and so do the names in `trusted`.
    """
    from ocr_mlx.model.registry import is_folder_name
    from ocr_mlx.pages.files import is_inside

    if roots is None or name in trusted or not is_folder_name(name):
        return
    if not is_inside(_folder(name), roots):
        raise SourceForbidden(
            "That model folder may not be read.", hint="OCR_MLX_FILE_ROOTS lists the allowed folders."
        )


def check_there(name: str, trusted: Collection[str]) -> None:
    """Raise UnknownModel for a folder in `trusted` that is not there. Who asks need not learn where that would be."""
    from ocr_mlx.model.registry import is_folder_name

    if name in trusted and is_folder_name(name) and not _folder(name).is_dir():
        raise UnknownModel(
            f"The model's folder {shown_model(name)!r} is not on this machine.",
            hint="OCR_MLX_MODEL, OCR_MLX_MODEL_NAME or OCR_MLX_DEEPSEEK_MODEL names it; correct it and start again.",
        )


def _folder(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except (RuntimeError, ValueError):  # the home of nobody
        return Path(name)
