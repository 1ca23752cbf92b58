"""The families that exist, and the names that users have for their checkpoints. Nothing else names a family."""

from __future__ import annotations

import difflib
import importlib
import os
import pkgutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from ocr_mlx.errors import ModelError, UnknownModel, UnsupportedArchitecture
from ocr_mlx.model import families as _folder
from ocr_mlx.model.base import Family
from ocr_mlx.model.folder import read_config

BUILTIN: Final = "builtin"
_FOLDER_STARTS: Final = (".", "/", "~")


@cache
def families() -> tuple[Family, ...]:
    """Every folder of `ocr_mlx.model.families`, sorted by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(_folder.__path__) if module.ispkg)
    return tuple(importlib.import_module(f"{_folder.__name__}.{name}.family").FAMILY for name in names)


def family_for(config: Mapping[str, Any]) -> Family:
    """The family that reads a config.json. Raises UnsupportedArchitecture, which lists what is supported."""
    model_type = config.get("model_type")
    for family in families():
        if model_type in family.model_types and _is_of(family, config):
            return family
    known = "; ".join(f"{family.name} ({', '.join(family.model_types)})" for family in families())
    what = f"Models of type {model_type!r} are" if model_type else "A config.json without `model_type` is"
    raise UnsupportedArchitecture(f"{what} not supported.", hint=f"Supported are {known or 'none'}.")


def _is_of(family: Family, config: Mapping[str, Any]) -> bool:
    named = config.get("architectures")
    if not family.architectures or not named:
        return True
    return isinstance(named, list) and any(one in family.architectures for one in named)


def family_of(name: str) -> Family | None:
    """The family of an alias, a known checkpoint or a folder; None where only its files could tell. Downloads nothing."""
    try:
        known = resolve_name(name)
    except UnknownModel:
        return None
    if is_folder_name(known):
        try:
            return family_for(read_config(Path(known).expanduser()))
        except ModelError:
            return None
    bare = known.partition("@")[0].lower()
    return next((one for one in families() if bare in (checkpoint.lower() for checkpoint in one.checkpoints)), None)


def aliases() -> dict[str, str]:
    """Short names and what they stand for: hub ids, and the folder of the built-in model."""
    known = {BUILTIN: str(builtin_folder())}
    for family in families():
        known |= {alias.lower(): target for alias, target in family.aliases.items()}
    return known


def builtin_folder() -> Path:
    """Where the package keeps the built-in model."""
    return Path(__file__).parents[1] / BUILTIN


def is_folder_name(name: str) -> bool:
    """Whether a name means a folder here: by its looks, or because there is one and no alias of that name."""
    if name.lower() in aliases():
        return False
    return name.startswith(_FOLDER_STARTS) or name.count("/") > 1 or _is_dir(name)


def _brief(name: str) -> str:
    return name if len(name) <= 100 else f"{name[:100]}…"


def _is_dir(name: str) -> bool:
    try:
        return Path(name).is_dir()
    except (OSError, ValueError):  # too long for a path, or with a NUL
        return False


def _is_possible(name: str) -> bool:
    """Whether a folder can be called so."""
    try:
        return b"\0" not in os.fsencode(Path(name).expanduser())
    except (RuntimeError, ValueError):  # the home of nobody, or no text
        return False


def resolve_name(name: str) -> str:
    """An alias, in any case, becomes what it stands for; a folder and a hub id `org/name` stay; `@revision` stays too.

    Raises UnknownModel, with near matches, for a bare word that is no alias.
    """
    known = aliases()
    wanted = name.strip()
    bare, at, revision = wanted.partition("@")
    if bare.lower() in known:
        return known[bare.lower()] + at + revision
    if wanted and _is_possible(wanted) and (is_folder_name(wanted) or (bare.count("/") == 1 and all(bare.split("/")))):
        return wanted
    near = difflib.get_close_matches(wanted.lower(), known, n=3)
    short = ", ".join((BUILTIN, *(next(iter(family.aliases), family.name) for family in families())))
    guess = f"Did you mean {' or '.join(near)}? " if near else ""
    raise UnknownModel(
        f"There is no model {_brief(wanted)!r}.",
        hint=f"{guess}Short names are {short} (`ocr_mlx models` lists all); a hub id (org/name) or a folder works too.",
    )
