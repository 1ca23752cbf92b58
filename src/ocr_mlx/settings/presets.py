"""What `--contract NAME` changes: defaults only. All services answer whatever the contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

PRESETS: Final[Mapping[str, Mapping[str, str]]] = {
    "ocr_mlx": {"OCR_MLX_PORT": "7771", "OCR_MLX_HEALTH": "text"},
    "nuno": {"OCR_MLX_PORT": "8765", "OCR_MLX_HEALTH": "json"},
    "jobs": {"OCR_MLX_PORT": "8000", "OCR_MLX_HEALTH": "json"},
    "lighton": {"OCR_MLX_PORT": "8000", "OCR_MLX_HEALTH": "json"},
    "deepseek": {
        "OCR_MLX_PORT": "8000",
        "OCR_MLX_HEALTH": "json",
        "OCR_MLX_DEEPSEEK_ORIGINS": "http://localhost:5173,http://127.0.0.1:5173",
    },
}
"""Contract to the defaults of variables that are not set."""
NATIVE: Final[Mapping[str, str]] = {
    "ocr_mlx": "facebook/nougat-small",
    "nuno": "deepseek-ai/DeepSeek-OCR",
    "jobs": "qari",
    "lighton": "lightonai/LightOnOCR-2-1B",
    "deepseek": "deepseek-ai/DeepSeek-OCR",
}
"""The model that each service reads with where nobody chose one."""
ABOUT: Final[Mapping[str, Mapping[str, str]]] = {
    "nuno": {"service": "DeepSeek-OCR API"},
    "jobs": {"name": "OCR API"},
    "lighton": {"message": "Welcome to LightOnOCR Service"},
}
"""What `/` says otherwise under a contract."""
HEALTHY: Final[Mapping[str, str]] = {"jobs": "healthy"}
"""The word for `ok` in `/health` under a contract."""
DEEPSEEK_MODES: Final = ("gundam", "base", "small", "tiny", "large")
"""The modes of `/api/ocr`, in its order."""
