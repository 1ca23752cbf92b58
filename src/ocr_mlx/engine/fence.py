"""Which folders a model may be read from: those that the operator named, and those inside the roots of files."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from ocr_mlx.errors import SourceForbidden


def check_folder(name: str, roots: Sequence[Path] | None, trusted: Collection[str]) -> None:
    """Raise SourceForbidden for a model's folder outside `roots`, in the same words whether it is there or not.

    Names of other kinds pass, and so do the names in `trusted`.
    """
    from ocr_mlx.model.registry import is_folder_name
    from ocr_mlx.pages.files import is_inside

    if roots is None or name in trusted or not is_folder_name(name):
        return
    try:
        folder = Path(name).expanduser()
    except (RuntimeError, ValueError):  # the home of nobody
        folder = Path(name)
    if not is_inside(folder, roots):
        raise SourceForbidden(
            "That model folder may not be read.", hint="OCR_MLX_FILE_ROOTS lists the allowed folders."
        )
