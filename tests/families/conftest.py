"""Shared by the families' tests: where facts about published checkpoints may lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def model_facts() -> Path:
    """The optional folder with published configs and tokenizers."""
    folder = Path(os.environ.get("OCR_MLX_MODEL_FACTS") or Path(__file__).parents[3] / "shared" / "models")
    if not folder.is_dir():
        pytest.skip(f"no folder with facts about published models at {folder} (set OCR_MLX_MODEL_FACTS)")
    return folder
