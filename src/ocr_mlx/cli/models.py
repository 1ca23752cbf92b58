"""`ocr_mlx models`: what is known of families and checkpoints, on this disk and in running servers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ocr_mlx.cli.servers import Server, servers
from ocr_mlx.domain import DecodeParams, ModelRef, resolve
from ocr_mlx.errors import InvalidOption, ModelError, UnknownModel
from ocr_mlx.settings import Settings

if TYPE_CHECKING:
    from ocr_mlx.model.base import Family, Mode
    from ocr_mlx.model.hub import Downloaded


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One checkpoint. None means not known, or not here.

    `bytes` on this disk; `complete`: it can be loaded offline; `published` bytes of weights to download, at
    `published_bits` for each; `memory` bytes that its weights take when loaded on this machine; `loaded` are the addresses
    of servers that hold it now.
    """

    checkpoint: str
    names: tuple[str, ...]
    family: str
    licence: str
    bytes: int | None
    complete: bool
    published: int | None = None
    published_bits: int = 16
    memory: int | None = None
    loaded: tuple[str, ...] = ()
    ref: ModelRef | None = None

    def record(self) -> dict[str, Any]:
        """As plain values."""
        kept = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in ("ref", "published_bits")
        }
        ref = self.ref
        return kept | {
            "path": str(ref.path) if ref else None,
            "adapter": str(ref.adapter) if ref and ref.adapter else None,
            "revision": ref.revision if ref else None,
            "quantization": asdict(ref.quantization) if ref and ref.quantization else None,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Overview:
    """Everything there is to tell. `held` says how weights are held here, such as `cpu, float32`.

    `engine` is the address of the engine that reads instead of this machine, empty where none does.
    """

    default: str
    held: str
    models: tuple[Entry, ...]
    families: tuple[Family, ...]
    servers: tuple[Server, ...]
    engine: str = ""

    def record(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "default": self.default,
            "held": self.held,
            "engine": self.engine or None,
            "models": [entry.record() for entry in self.models],
            "families": [family_record(family) for family in self.families],
            "servers": [asdict(server) for server in self.servers],
        }


def entries(settings: Settings) -> list[Entry]:
    """The built-in model, every known checkpoint, and what else of these families was downloaded. Imports no mlx."""
    from ocr_mlx.model import hub, registry

    here: dict[str, Downloaded] = {}
    for one in hub.downloaded(settings.models_dir):
        if one.complete or one.ref.id not in here:
            here[one.ref.id] = one
    known = list(_builtin(registry.BUILTIN, registry.builtin_folder()))
    for family in registry.families():
        others = [name for name, one in here.items() if one.family == family.name and name not in family.checkpoints]
        known += [_entry(name, family, here.get(name)) for name in (*family.checkpoints, *sorted(others))]
    return known


def overview(settings: Settings) -> Overview:
    """`entries`, with what they take in memory and who holds them. Imports mlx; no weights are read, no model is woken."""
    from ocr_mlx.model import registry
    from ocr_mlx.utils.blas import load_blas

    load_blas(settings.blas)
    from ocr_mlx.engine.device import default_device

    running = tuple(servers(settings))
    expanded = default_device().name == "cpu" and not settings.dtype
    return Overview(
        default=settings.default_model,
        held=f"{default_device().name}, {settings.dtype or ('float32' if expanded else 'as stored')}",
        models=tuple(_completed(entry, running, settings.dtype or None, expanded) for entry in entries(settings)),
        families=registry.families(),
        servers=running,
        engine=settings.remote_endpoint if settings.model_source == "vllm" else "",
    )


def narrowed(whole: Overview, settings: Settings, model: str, family: str) -> Overview:
    """What concerns one model, or one family; a name of both is the model's. Raises InvalidOption, UnknownModel and kin."""
    from ocr_mlx.model import registry

    if model and family:
        raise InvalidOption("A model and --family are both given.", hint="Give one of the two.")
    by_name = {one.name: one for one in whole.families}
    if family and family not in by_name:
        raise InvalidOption(f"There is no family {family!r}.", hint=f"The families are {', '.join(by_name)}.")
    if family or (model in by_name and model.lower() not in registry.aliases()):
        chosen = by_name[family or model]
        kept = tuple(entry for entry in whole.models if entry.family == chosen.name)
    else:
        entry = _find(whole, settings, model)
        chosen, kept = by_name[entry.family], (entry,)
    return replace(whole, models=kept, families=(chosen,))


def family_record(family: Family) -> dict[str, Any]:
    """What users may ask of a family, as plain values: its modes with their prompts and full decode options."""
    return {
        "name": family.name,
        "licence": family.licence,
        "model_types": list(family.model_types),
        "aliases": dict(family.aliases),
        "checkpoints": list(family.checkpoints),
        "default_mode": family.default_mode,
        "defaults": asdict(family.defaults),
        "modes": [_mode_record(family, mode) for mode in family.modes.values()],
    }


def mode_params(family: Family, mode: Mode) -> DecodeParams:
    """How a mode decodes where nothing else is asked for."""
    return resolve(family.defaults, mode.overrides)


def _mode_record(family: Family, mode: Mode) -> dict[str, Any]:
    return {
        "name": mode.name,
        "description": mode.description,
        "prompt": mode.prompt,
        "pages_together": mode.pages_together,
        "decode": asdict(mode_params(family, mode)),
    }


def _entry(name: str, family: Family, found: Downloaded | None) -> Entry:
    return Entry(
        checkpoint=name,
        names=tuple(sorted(alias for alias, target in family.aliases.items() if target == name)),
        family=family.name,
        licence=family.licence,
        bytes=found.bytes if found else None,
        complete=found.complete if found else False,
        published=family.sizes.get(name),
        published_bits=family.published_bits,
        ref=found.ref if found else None,
    )


def _builtin(name: str, folder: Path) -> Iterator[Entry]:
    from ocr_mlx.model import registry
    from ocr_mlx.model.folder import CONFIG, read_config

    if (folder / CONFIG).is_file():
        yield Entry(
            checkpoint=name,
            names=(),
            family=registry.family_for(read_config(folder)).name,
            licence="part of ocr_mlx",
            bytes=sum(file.stat().st_size for file in folder.iterdir() if file.is_file()),
            complete=True,
            ref=ModelRef(id=name, path=folder),
        )


def _completed(entry: Entry, running: Sequence[Server], dtype: str | None, expanded: bool) -> Entry:
    loaded = tuple(server.url for server in running if any(held.id == entry.checkpoint for held in server.models))
    return replace(entry, loaded=loaded, memory=_memory(entry, dtype, expanded))


def _memory(entry: Entry, dtype: str | None, expanded: bool) -> int | None:
    """From the tables of the files that are here; else from the published size."""
    from ocr_mlx.model.load import expected_bytes, floats_of

    if entry.ref is not None and entry.complete:
        try:
            return expected_bytes(entry.ref, dtype=dtype)
        except ModelError:
            return None
    if entry.published is None:
        return None
    floats = floats_of("float32" if expanded else dtype)
    return entry.published if floats is None else entry.published * 8 * floats.size // entry.published_bits


def _find(whole: Overview, settings: Settings, model: str) -> Entry:
    """The entry of a name; a folder gets one of its own."""
    from ocr_mlx.model import hub, registry
    from ocr_mlx.model.folder import read_config

    target = registry.resolve_name(model)
    is_folder = registry.is_folder_name(target)
    wanted = registry.BUILTIN if target == str(registry.builtin_folder()) else target.partition("@")[0]
    for entry in whole.models:
        if entry.checkpoint == wanted and (not is_folder or wanted == registry.BUILTIN):
            return entry
    if not is_folder:
        raise UnknownModel(
            f"{wanted} is neither known nor downloaded, so nothing can be told of it.",
            hint="`ocr_mlx models` lists what is known; reading with it downloads it, if a family here can read it.",
        )
    ref = hub.find(target, offline=True, cache_dir=settings.models_dir)
    family = registry.family_for(read_config(ref.path))
    size = sum(file.stat().st_size for file in (ref.adapter or ref.path).iterdir() if file.is_file())
    found = Entry(
        checkpoint=target, names=(), family=family.name, licence=family.licence, bytes=size, complete=True, ref=ref
    )
    return _completed(found, whole.servers, settings.dtype or None, whole.held == "cpu, float32" and not settings.dtype)
