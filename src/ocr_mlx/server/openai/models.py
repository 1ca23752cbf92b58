"""The models that a request may name: checkpoints and their short names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ocr_mlx.observer import shown_model
from ocr_mlx.server.openai.schemas import Model
from ocr_mlx.settings import Settings

_OWN = "ocr_mlx"


def listed(settings: Settings) -> list[Model]:
    """Every name of every model that is on this machine or may be fetched, and the one of the settings.

    Looks at the disk, asks no network.

    `created` is when a model came here, 0 where it has not.
    """
    from ocr_mlx.model import registry

    here = _here(settings)
    names: dict[str, list[str]] = {}
    for alias, root in registry.aliases().items():
        names.setdefault(registry.BUILTIN if alias == registry.BUILTIN else root, []).append(alias)
    roots = [registry.BUILTIN, *(name for family in registry.families() for name in family.checkpoints)]
    roots += sorted(name for name in here if name not in roots)
    reachable = not settings.offline or settings.model_source == "vllm"
    known = [one for root in roots if root in here or reachable for one in _named(root, names.get(root, ()), here)]
    own = _own(settings)
    return known if own is None or any(one.id == own.id for one in known) else [own, *known]


def _own(settings: Settings) -> Model | None:
    """The model of the settings as answers call it, where it is a folder or read by another engine."""
    from ocr_mlx.engine.remote import is_reference
    from ocr_mlx.model.registry import is_folder_name

    name = settings.model
    if is_reference(name):
        model = name.partition("#")[2]
        return Model(id=model, created=0, owned_by=_OWN, root=model, here=False)
    if not name or not is_folder_name(name):
        return None
    return Model(id=shown_model(name), created=_since(Path(name)), owned_by=_OWN, root=shown_model(name), here=True)


def find(name: str, settings: Settings) -> Model | None:
    """One of them, in any case."""
    return next((one for one in listed(settings) if one.id.lower() == name.strip().lower()), None)


def _named(root: str, aliases: Iterator[str] | list[str] | tuple[str, ...], here: dict[str, int]) -> Iterator[Model]:
    owner = root.partition("/")[0] if "/" in root else _OWN
    for name in dict.fromkeys((root, *aliases)):
        yield Model(id=name, created=here.get(root, 0), owned_by=owner, root=root, here=root in here)


def _here(settings: Settings) -> dict[str, int]:
    """What is on this machine, and since when."""
    from ocr_mlx.model import hub, registry

    found = {one.ref.id: _since(one.ref.path) for one in hub.downloaded(settings.models_dir) if one.complete}
    found[registry.BUILTIN] = _since(registry.builtin_folder())
    folder = settings.deepseek_model
    if folder is not None and folder.is_dir():
        found[registry.resolve_name("deepseek")] = _since(folder)
    return found


def _since(folder: Path) -> int:
    try:
        return int(folder.stat().st_mtime)
    except OSError:
        return 0
