"""What can be told of models: which there are, where each of them stands, what is in memory. Nothing here wakes one.

Every method may block (the disk, Redis), so they are called off the event loop.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ocr_mlx.errors import OcrMlxError, UnknownModel
from ocr_mlx.jobs.records import JobState
from ocr_mlx.server.deps import ServerContext
from ocr_mlx.server.jobs.convert import to_time
from ocr_mlx.server.jobs.schemas import (
    CurrentModel,
    JobModels,
    ModelEntry,
    ModelEviction,
    ModelInMemory,
    ModelMemory,
    ModelsEvicted,
    ModelStatus,
    ModelSwitched,
)

if TYPE_CHECKING:
    from ocr_mlx.engine.board import ModelState
    from ocr_mlx.engine.cache import CachedModel, Eviction

NAMES: Final = ("got", "qari", "deepseek", "nougat", "lighton", "builtin")
"""The models that are always listed, in this order."""
_REMOTE: Final = "openai+"
_SERVICE: Final = "jobs"


class Catalog:
    """The models of one server, for one request."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    def listed(self) -> JobModels:
        """The known models, and those that somebody chose."""
        current, default = self._current, self._context.models.default(_SERVICE)
        names = dict.fromkeys((*NAMES, *(self.shown(name) for name in (default, current) if name)))
        return JobModels(
            models=[self.entry(name) for name in names],
            current_model=self.shown(current) if current else None,
            default_model=self.shown(default),
            memory=self.memory(),
        )

    def memory(self) -> ModelMemory | None:
        """What is in memory and what went last; None before the engine runs."""
        service = self._context.engine.peek()
        if service is None:
            return None
        state, now = service.cache.memory(), time.time()
        return ModelMemory(
            limit_bytes=state.limit,
            models_bytes=state.held,
            process_bytes=state.process,
            waiting=[self.shown(name) for name in state.waiting],
            models=[self._in_memory(model, now) for model in service.cache.snapshot()],
            evictions=[self._eviction(gone) for gone in reversed(state.evictions)],
        )

    def evict(self, name: str | None) -> ModelsEvicted:
        """Unload one model, or all that are idle, and wait until that is measured. Raises UnknownModel."""
        service = self._context.engine.peek()
        place = None if name is None else self._place(name)
        if service is None:
            return ModelsEvicted(evicted=[], in_use=[], message="No model is in memory.")
        told = service.cache.evict(place)
        return ModelsEvicted(
            evicted=[self._eviction(gone) for gone in told.gone],
            in_use=[self.shown(one) for one in told.in_use],
            message=_told(len(told.gone), len(told.in_use), one=name is not None),
        )

    def current(self) -> CurrentModel:
        """What was switched to, and whether anything is being read."""
        jobs, chosen = self._context.jobs, self._current
        leased = any(model.leases for model in self._loaded())
        return CurrentModel(
            model=self.shown(chosen) if chosen else None,
            is_processing=leased or bool(jobs.listed(limit=1, state=JobState.PROCESSING)),
        )

    def switch(self, name: str) -> ModelSwitched:
        """Choose the model for jobs that name none. Raises UnknownModel."""
        chosen = self.find(name)
        if chosen is None:
            raise UnknownModel(f"Unknown model: {name}. Use GET /models to list available models.")
        previous = self._current
        self._context.jobs.set_current_model(chosen)
        return ModelSwitched(
            previous_model=self.shown(previous) if previous else None,
            current_model=self.shown(chosen),
            message=f"Model set to {self.shown(chosen)}. Worker will load on next job.",
        )

    def chosen(self, engine: str) -> tuple[str, str]:
        """What a job is read with, and how that is called: `engine`, or else the current or default model.

        Raises UnknownModel.
        """
        if not engine:
            engine = self._current or self._context.models.default(_SERVICE)
            return self._context.models.pick(engine, _SERVICE), self.shown(engine)
        is_remote = engine[: len(_REMOTE)].lower() == _REMOTE
        found = _REMOTE + engine[len(_REMOTE) :] if is_remote else self.find(engine)
        if found is None:
            raise UnknownModel(f"Model '{engine}' is not registered. Check /models for available models.")
        return self._context.models.pick(found, _SERVICE), self.shown(found)

    def find(self, name: str) -> str | None:
        """The model of a name: an alias, a known checkpoint, one that is downloaded, or what the operator or a switch chose."""
        from ocr_mlx.model.registry import aliases, family_of, is_folder_name

        name = name.strip()
        for known in self._configured():
            if name in (known, self.shown(known)):
                return known
        if name.lower() in aliases():
            return name.lower()
        if not name.isprintable() or name.count("/") != 1 or is_folder_name(name):
            return None
        return name if family_of(name) is not None or self._is_here(name) else None

    def entry(self, name: str) -> ModelEntry:
        """Where a model stands that `find` knows."""
        known = self.find(name) or name
        is_loaded = False
        try:
            placed = self._context.models.pick(known, _SERVICE)
        except OcrMlxError as error:  # what was once switched to, and the settings of today do not allow
            status, progress, message = _refused(error)
        else:
            is_loaded = any(_same(model.id, placed) for model in self._loaded())
            status, progress, message = self._standing(placed, is_loaded=is_loaded)
        return ModelEntry(
            name=self.shown(known),
            is_loaded=is_loaded,
            is_available=status == "ready",
            status=status,
            progress=progress,
            message=message,
        )

    def shown(self, name: str) -> str:
        """How a model is called on the wire: its short name, never a folder's place."""
        from ocr_mlx.model.registry import is_folder_name

        if name.startswith(_REMOTE):
            return name.partition("#")[2] or name
        short = next((one for one in NAMES if _same(one, name)), None)
        if short is not None:
            return short
        return Path(name).name if is_folder_name(name) else name

    def _place(self, name: str) -> str:
        """A model that is in memory by its shown name, or one that `find` knows, as the engine has it. Raises UnknownModel."""
        for model in self._loaded():
            if name in (model.id, self.shown(model.id)):
                return model.id
        found = self.find(name)
        if found is None:
            raise UnknownModel(f"Model '{name}' not found")
        return self._context.models.pick(found, _SERVICE)

    def _in_memory(self, model: CachedModel, now: float) -> ModelInMemory:
        return ModelInMemory(
            name=self.shown(model.id),
            family=model.family,
            bytes=model.bytes,
            requests=model.leases,
            idle_seconds=round(model.idle_seconds, 3),
            last_used=to_time(now - model.idle_seconds),
            pinned=model.pinned,
            leaving=model.leaving,
        )

    def _eviction(self, gone: Eviction) -> ModelEviction:
        return ModelEviction(
            name=self.shown(gone.id),
            at=to_time(gone.at),
            reason=gone.reason,
            held_bytes=gone.held,
            released_bytes=gone.released,
        )

    def _standing(self, placed: str, *, is_loaded: bool) -> tuple[ModelStatus, int, str]:
        if placed.startswith(_REMOTE):
            return "ready", 100, "Read by another engine."
        if is_loaded:
            return "ready", 100, "In memory."
        service = self._context.engine.peek()
        state = service.board.get(placed) if service else None
        if service and state is not None:
            if any(_same(name, placed) for name in service.cache.memory().waiting):
                return "loading", 100, "Waits until other models are not used any more: they fill the memory."
            return _on_its_way(state)
        if self._context.engine.state == "failed" and not self._context.jobs.is_remote:
            return "failed", 0, "The engine cannot start. `ocr_mlx doctor` says what is missing."
        if self._is_here(placed):
            where = "jobs are read by workers" if self._context.jobs.is_remote else "it is loaded with the next job"
            return "ready", 100, f"On this machine; {where}."
        return "not_found", 0, self._lacking()

    def _lacking(self) -> str:
        if self._context.jobs.is_remote:
            return "Not on this machine; a worker that lacks it fetches it with the next job."
        if self._context.settings.offline:
            return "Not on this machine, and downloads are switched off."
        return "Not on this machine; it is downloaded with the next job."

    def _is_here(self, name: str) -> bool:
        """Whether a model can be read without the network."""
        from ocr_mlx.model import hub

        try:
            hub.find(name, offline=True, cache_dir=self._context.settings.models_dir)
        except OcrMlxError:
            return False
        return True

    @cached_property
    def _current(self) -> str | None:
        """What was switched to; the store may answer late, and is asked once."""
        return self._context.jobs.current_model()

    def _configured(self) -> Iterator[str]:
        yield self._context.models.default(_SERVICE)
        if self._current:
            yield self._current

    def _loaded(self) -> Iterator[CachedModel]:
        service = self._context.engine.peek()
        yield from service.cache.snapshot() if service else ()


def _refused(error: OcrMlxError) -> tuple[ModelStatus, int, str]:
    return "failed", 0, str(error)


def _on_its_way(state: ModelState) -> tuple[ModelStatus, int, str]:
    match state.stage:
        case "downloading":
            percent = min(100, 100 * state.done // state.total) if state.total else 0
            return "downloading", percent, f"Downloading ({percent}%)."
        case "loading":
            return "loading", 100, "Loading into memory."
        case "failed":
            return "failed", 0, f"The last attempt failed, the next job tries again. {state.message}"


def _told(gone: int, in_use: int, *, one: bool) -> str:
    if one and in_use:
        return "In use: it is unloaded when the last request that uses it has ended."
    if one:
        return "Unloaded." if gone else "It was not in memory."
    if not gone + in_use:
        return "No model is in memory."
    left = f" {in_use} in use stayed." if in_use else ""
    return f"{gone} unloaded.{left}"


def _same(one: str, other: str) -> bool:
    """Whether two names mean the same model."""
    return _identity(one) == _identity(other)


def _identity(name: str) -> str:
    from ocr_mlx.model.registry import is_folder_name, resolve_name

    try:
        known = resolve_name(name)
    except UnknownModel:
        return name
    return str(Path(known).expanduser().resolve()) if is_folder_name(known) else known.lower()
