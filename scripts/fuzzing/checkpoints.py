"""A tiny checkpoint of every family, to be changed by inputs."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

from scripts.benchmark import families
from scripts.fuzzing.parts import folder

from ocr_mlx.model.registry import BUILTIN, builtin_folder

NAMES = (*families.names(), BUILTIN)
_PICTURES = ("preprocessor_config.json", "processor_config.json")


def chosen(data: bytes) -> tuple[str, bytes]:
    """The family that the first byte names, and the rest."""
    return NAMES[(data[0] if data else 0) % len(NAMES)], data[1:]


@functools.cache
def without_weights(name: str) -> Path:
    """A folder with everything of the family's checkpoint but its weights."""
    whole, made = folder() / f"whole-{name}", folder() / f"model-{name}"
    if name == BUILTIN:
        whole = builtin_folder()
    else:
        families.make(name, whole, tiny=True)
    shutil.copytree(whole, made, ignore=shutil.ignore_patterns("*.safetensors", "*.index.json"))
    return made


@functools.cache
def json_of(name: str, file: str) -> dict[str, Any]:
    """One of its files as it was made; empty where there is none."""
    path = without_weights(name) / file
    found: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
    return found


@functools.cache
def pictures_of(name: str) -> str:
    """The file that describes its pictures."""
    return next((file for file in _PICTURES if (without_weights(name) / file).exists()), _PICTURES[0])


def changed(name: str, file: str, data: bytes) -> bytes:
    """The file with the changes that `data` is as JSON; else `data` itself."""
    original = json_of(name, file)
    try:
        changes = json.loads(data)
        return json.dumps(_merged(original, changes)).encode() if isinstance(changes, dict) else data
    except (ValueError, RecursionError):
        return data


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    merged = dict(old)
    for key, value in new.items():
        inner = merged.get(key)
        merged[key] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged
