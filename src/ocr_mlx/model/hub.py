"""From a name to a model's folder on this machine: an alias, a folder, or a download from the hub.

What is cached whole is used without asking the network; naming a branch or tag asks whether it has moved. A LoRA adapter
needs its base as well: whatever is said of a model here holds for the two together.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

from ocr_mlx.domain import ModelRef
from ocr_mlx.errors import (
    CheckpointIncomplete,
    DownloadFailed,
    ModelError,
    ModelNotHere,
    UnknownModel,
    UnsupportedArchitecture,
)
from ocr_mlx.model import adapter as adapters
from ocr_mlx.model import registry
from ocr_mlx.model.adapter import ADAPTER_CONFIG, Adapter
from ocr_mlx.model.base import Family
from ocr_mlx.model.folder import CONFIG, quantization_of, read_config
from ocr_mlx.model.hub_errors import by_hand
from ocr_mlx.model.hub_files import HubFiles, OnProgress, Repository, check_id, is_pattern
from ocr_mlx.model.weight_files import choose_weights, is_weight_file, weight_files

OnDownload = Callable[[Family, str], None]
"""Called once for each repository before its weights are fetched, with the family (its licence) and the hub id."""
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Downloaded:
    """A model in the hub's cache. `bytes` on disk; `complete` says whether it can be loaded without the network."""

    ref: ModelRef
    family: str
    bytes: int
    complete: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class _Told:
    """Who is told of a download, and of which adapter the model is the base."""

    on_progress: OnProgress
    on_download: OnDownload | None
    base_of: Adapter | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Hub:
    """Where models come from. None means the settings of the hub itself (HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE)."""

    cache_dir: Path | None = None
    offline: bool = False
    endpoint: str | None = None
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)

    def find(
        self,
        name: str,
        *,
        revision: str | None = None,
        on_progress: OnProgress | None = None,
        on_download: OnDownload | None = None,
        roots: Sequence[Path] | None = None,
    ) -> ModelRef:
        """See the function `find`."""
        target = registry.resolve_name(name)
        told = _Told(on_progress=on_progress or _ignore, on_download=on_download)
        if registry.is_folder_name(target):
            folder = Path(target).expanduser()
            known = registry.BUILTIN if folder == registry.builtin_folder() else target
            return self._from_folder(known, folder, told, roots)
        repo, _, at = target.partition("@")
        return self._from_hub(repo, at or revision, told)

    def downloaded(self) -> list[Downloaded]:
        """The cached models that a family here can read, by name. Asks no network."""
        found = [self._describe(one.id, one.commit, one.folder, one.bytes) for one in self._files.snapshots()]
        return sorted((one for one in found if one), key=lambda one: (one.ref.id, one.ref.revision or ""))

    @property
    def _files(self) -> HubFiles:
        return HubFiles(cache_dir=self.cache_dir, offline=self.offline, endpoint=self.endpoint, sleep=self.sleep)

    # --- folders ---------------------------------------------------------------------------------------------------

    def _from_folder(self, name: str, folder: Path, told: _Told, roots: Sequence[Path] | None) -> ModelRef:
        if not folder.is_dir():
            raise UnknownModel(
                f"There is no folder {folder.name}.", hint="Give a model's folder, a hub id (org/name) or an alias."
            )
        folder = folder.absolute()
        if not adapters.is_adapter_folder(folder):
            return _ref(name, folder, None)
        adapter = adapters.read_adapter(folder)
        adapters.weight_file(folder)
        beside = adapters.base_folder(adapter, _known_base(adapter), roots)
        return _adapted(name, adapter, beside or self._base(adapter, told).path, None)

    def _base(self, adapter: Adapter, told: _Told) -> ModelRef:
        repo, revision = _base_id(adapter)
        return self._from_hub(repo, revision, replace(told, base_of=adapter))

    # --- the cache -------------------------------------------------------------------------------------------------

    def _from_hub(self, repo: str, revision: str | None, told: _Told) -> ModelRef:
        check_id(repo)
        files, is_base = self._files, told.base_of is not None
        cached = self._cached(repo, revision)
        moving = revision is not None and not _COMMIT.fullmatch(revision)
        if cached is not None and (files.is_offline or (not moving and self._is_complete(cached, repo))):
            return cached
        if files.is_offline:
            lacking = self._lacking_base(repo, revision) or repo
            raise ModelNotHere(
                f"{lacking} is not on this machine, and downloads are switched off.",
                hint=by_hand(lacking, is_base=is_base or lacking != repo),
            )
        try:
            with files.translated(repo, revision, by_hand(repo, is_base=is_base)):
                return self._download(files.look(repo, revision), revision, told)
        except DownloadFailed:
            if cached is None:
                raise
            return cached

    def _cached(self, repo: str, revision: str | None) -> ModelRef | None:
        """The newest cached snapshot of the revision, if its weights are there; an adapter's if its base's are too."""
        folder = self._cached_folder(repo, revision)
        if folder is None or not adapters.is_adapter_folder(folder):
            return self._cached_model(repo, revision)
        try:
            adapters.weight_file(folder)
            adapter = adapters.read_adapter(folder)
        except CheckpointIncomplete:
            return None
        base = self._cached_model(*_base_id(adapter))
        return None if base is None else _adapted(repo, adapter, base.path, folder.name)

    def _cached_model(self, repo: str, revision: str | None) -> ModelRef | None:
        folder = self._cached_folder(repo, revision)
        if folder is None or adapters.is_adapter_folder(folder):
            return None
        try:
            weight_files(folder)
            return _ref(repo, folder, folder.name)
        except CheckpointIncomplete:
            return None

    def _cached_folder(self, repo: str, revision: str | None) -> Path | None:
        for name in (CONFIG, ADAPTER_CONFIG):
            if path := self._files.cached(repo, name, revision):
                return path.parent
        return None

    def _lacking_base(self, repo: str, revision: str | None) -> str | None:
        """The base that an adapter in the cache still needs; None where there is no such adapter."""
        folder = self._cached_folder(repo, revision)
        if folder is None or not adapters.is_adapter_folder(folder):
            return None
        base, at = _base_id(adapters.read_adapter(folder))
        return base if self._cached_model(base, at) is None else None

    def _is_complete(self, cached: ModelRef, repo: str) -> bool:
        """Whether each file that the family names is here, or known not to exist."""
        names = registry.family_for(read_config(cached.path)).files
        others = [name for name in names if not is_pattern(name) and not is_weight_file(name)]
        if cached.adapter is not None:
            others = [name for name in others if name != CONFIG]
            base, at = _base_id(adapters.read_adapter(cached.adapter))
            found = self._cached_model(base, at)
            if found is None or not self._is_complete(found, base):
                return False
        return all(self._files.is_settled(repo, name, cached.revision) for name in others)

    def _describe(self, repo: str, commit: str, folder: Path, size: int) -> Downloaded | None:
        try:
            whole = self._cached(repo, commit)
            family = _family_of(repo, folder, whole)
            ref = whole or _ref(repo, folder, commit)
        except ModelError:
            return None
        return Downloaded(ref=ref, family=family.name, bytes=size, complete=whole is not None)

    # --- downloads -------------------------------------------------------------------------------------------------

    def _download(self, found: Repository, revision: str | None, told: _Told) -> ModelRef:
        if not adapters.is_adapter(found.files):
            ref, first = self._download_model(found, told), CONFIG
        elif told.base_of is None:
            ref, first = self._download_adapter(found, told), ADAPTER_CONFIG
        else:
            raise ModelError(
                f"{found.id}, the base of the adapter {told.base_of.folder.name}, is an adapter itself.",
                hint="Merge that one into its base first, with PEFT (`merge_and_unload`).",
            )
        self._files.small(found.id, first, revision or "main")  # only now does the name mean this snapshot
        return ref

    def _download_model(self, found: Repository, told: _Told) -> ModelRef:
        if CONFIG not in found.files:
            raise UnsupportedArchitecture(f"{found.id} has no {CONFIG}.", hint="It is no model that can be read here.")
        folder = self._files.small(found.id, CONFIG, found.commit).parent
        config = read_config(folder)
        family = registry.family_for(config)
        if told.base_of is not None:
            adapters.check_base(told.base_of, config)
        quantization_of(config)  # another tool's packing is refused before its weights are fetched
        chosen = _choose(list(found.files), family.files)
        if not any(is_weight_file(name) for name in chosen):
            raise _no_weights(found.id, found.files)
        self._bring(found, folder, chosen, family, told)
        return _ref(found.id, folder, found.commit)

    def _download_adapter(self, found: Repository, told: _Told) -> ModelRef:
        """The base first: it says which family this is, and so which files beside the weights are wanted."""
        weights = adapters.choose_weight_file(found.files)
        if weights is None:
            raise _no_weights(found.id, found.files)
        folder = self._files.small(found.id, ADAPTER_CONFIG, found.commit).parent
        adapter = adapters.read_adapter(folder)
        counted, after = _in_turn(told.on_progress)
        base = self._base(adapter, replace(told, on_progress=counted))
        family = registry.family_for(read_config(base.path))
        names = _choose([name for name in found.files if "/" not in name and name != CONFIG], family.files)
        chosen = [name for name in names if not is_weight_file(name)] + [weights]
        self._bring(found, folder, chosen, family, replace(told, on_progress=after))
        return _adapted(found.id, adapter, base.path, found.commit)

    def _bring(self, found: Repository, folder: Path, names: Sequence[str], family: Family, told: _Told) -> None:
        if told.on_download is not None and any(not (folder / name).exists() for name in names):
            told.on_download(family, found.id)
        self._files.bring(found, folder, names, told.on_progress)
        self._files.note_absent(found, [name for name in family.files if name != CONFIG])


def find(
    name: str,
    *,
    revision: str | None = None,
    offline: bool = False,
    cache_dir: Path | None = None,
    on_progress: OnProgress | None = None,
    on_download: OnDownload | None = None,
    roots: Sequence[Path] | None = None,
) -> ModelRef:
    """Find a model by a folder, an alias, or a hub id `org/name` or `org/name@revision`; download what is missing.

    A folder that exists wins over a hub id of the same name. An adapter in a folder finds its base beside it, where
    the declared path leads (inside `roots`, where given), or on the hub.
    Raises UnknownModel, UnsupportedArchitecture, CheckpointIncomplete for a folder without a proper config.json, ModelError
    for an adapter that cannot be merged, and DownloadFailed, whose hint says how to go on.
    What `on_progress` raises ends the download; it goes on from there the next time.
    """
    hub = Hub(cache_dir=cache_dir, offline=offline)
    return hub.find(name, revision=revision, on_progress=on_progress, on_download=on_download, roots=roots)


def downloaded(cache_dir: Path | None = None) -> list[Downloaded]:
    """The models in the hub's cache that can be read here."""
    return Hub(cache_dir=cache_dir).downloaded()


def _ref(name: str, folder: Path, revision: str | None) -> ModelRef:
    if adapters.is_adapter_folder(folder):
        return ModelRef(id=name, path=folder, revision=revision, adapter=folder)
    return ModelRef(id=name, path=folder, revision=revision, quantization=quantization_of(read_config(folder)))


def _adapted(name: str, adapter: Adapter, base: Path, revision: str | None) -> ModelRef:
    adapters.check_base(adapter, read_config(base))
    return ModelRef(id=name, path=base, revision=revision, adapter=adapter.folder)


def _known_base(adapter: Adapter) -> str:
    """The declared base, or what a family puts in its place."""
    for family in registry.families():
        for declared, used in family.bases.items():
            if declared.lower() == adapter.base.lower():
                return used
    return adapter.base


def _base_id(adapter: Adapter) -> tuple[str, str | None]:
    """The hub id of the base, and its revision where the adapter pins one. Raises UnknownModel for a folder's name."""
    base = _known_base(adapter)
    if base.count("/") != 1 or base.startswith((".", "/", "~")):
        raise UnknownModel(
            f"The adapter {adapter.folder.name} names {base!r} as its base, which is no model on this machine.",
            hint=f"Keep adapter and base as folders side by side, or name a hub id in {ADAPTER_CONFIG}.",
        )
    return base, adapter.base_revision if base == adapter.base else None


def _family_of(repo: str, folder: Path, whole: ModelRef | None) -> Family:
    """Raises ModelError where it cannot be told: an adapter shows its family in its base alone."""
    if whole is None and adapters.is_adapter_folder(folder):
        known = {repo, _known_base(adapters.read_adapter(folder))}
        for family in registry.families():
            if known & {*family.checkpoints, *family.bases.values()}:
                return family
    return registry.family_for(read_config(folder if whole is None else whole.path))


def _choose(names: list[str], patterns: Sequence[str]) -> list[str]:
    wanted = [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]
    return [name for name in wanted if not is_weight_file(name)] + choose_weights(wanted)


def _no_weights(repo: str, names: Collection[str]) -> CheckpointIncomplete:
    return CheckpointIncomplete(
        f"{repo} has no weights that can be read here, neither safetensors nor PyTorch's.",
        hint=f"It holds {', '.join(sorted(names)[:10])}.",
    )


def _in_turn(on_progress: OnProgress) -> tuple[OnProgress, OnProgress]:
    """Two downloads, one after the other, told as one that grows."""
    before = [0]

    def first(done: int, total: int) -> None:
        before[0] = total
        on_progress(done, total)

    def second(done: int, total: int) -> None:
        on_progress(before[0] + done, before[0] + total)

    return first, second


def _ignore(done: int, total: int) -> None:
    pass
