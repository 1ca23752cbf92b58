"""A hub cache with tiny models under the names of published ones, so that the real program finds them without a network."""

from __future__ import annotations

from pathlib import Path

from scripts.benchmark import families

from ocr_mlx.model.registry import family_of

REVISION = "0123456789abcdef0123456789abcdef01234567"


def hub_with(folder: Path, *names: str) -> dict[str, str]:
    """Make the models below `folder`; the environment in which the program reads them. Their text is noise."""
    for name in names:
        family = family_of(name)
        assert family is not None, name
        home = folder / f"models--{name.replace('/', '--')}"
        snapshot = home / "snapshots" / REVISION
        snapshot.parent.mkdir(parents=True)
        families.make(family.name, snapshot, tiny=True)
        (home / "refs").mkdir()
        (home / "refs" / "main").write_text(REVISION, "utf-8")
    return {"OCR_MLX_MODELS_DIR": str(folder), "OCR_MLX_OFFLINE": "1"}
