"""From a name to a model's folder on this machine: an alias, a folder, or a download from the hub.

What is cached whole is used without asking the network; naming a branch or tag asks whether it has moved.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ocr_mlx.domain import ModelRef
from ocr_mlx.errors import CheckpointIncomplete, DownloadFailed, ModelError, UnknownModel, UnsupportedArchitecture
from ocr_mlx.model import registry
from ocr_mlx.model.base import Family
from ocr_mlx.model.folder import CONFIG, quantization_of, read_config
from ocr_mlx.model.transfer import fetch_file, partial_file
from ocr_mlx.model.weight_files import choose_weights, is_weight_file, weight_files

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

OnProgress = Callable[[int, int], None]
"""(bytes here, bytes in all)"""
OnDownload = Callable[[Family, str], None]
"""Called once before weights are fetched, with the family (its licence) and the hub id."""
_LARGE: Final = 8_000_000
_TIMEOUT: Final = 10.0
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_WORKS_NOW: Final = "`--model builtin` works right now."


@dataclass(frozen=True, kw_only=True, slots=True)
class Downloaded:
    """A model in the hub's cache. `bytes` on disk; `complete` says whether it can be loaded without the network."""

    ref: ModelRef
    family: str
    bytes: int
    complete: bool


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
    ) -> ModelRef:
        """See the function `find`."""
        target = registry.resolve_name(name)
        if registry.is_folder_name(target):
            folder = Path(target).expanduser()
            return _local(registry.BUILTIN if folder == registry.builtin_folder() else target, folder)
        repo, _, at = target.partition("@")
        return self._from_hub(repo, at or revision, on_progress or _ignore, on_download)

    def downloaded(self) -> list[Downloaded]:
        """The cached models that a family here can read, by name. Asks no network."""
        hub = _library()
        try:
            cache = hub.scan_cache_dir(self.cache_dir)
        except hub.errors.CacheNotFound:
            return []
        found = [
            self._describe(repo.repo_id, revision.commit_hash, revision.snapshot_path, revision.size_on_disk)
            for repo in cache.repos
            if repo.repo_type == "model"
            for revision in repo.revisions
        ]
        return sorted((one for one in found if one), key=lambda one: (one.ref.id, one.ref.revision or ""))

    def _from_hub(
        self, repo: str, revision: str | None, on_progress: OnProgress, on_download: OnDownload | None
    ) -> ModelRef:
        _check_id(repo)
        cached = self._cached(repo, revision)
        moving = revision is not None and not _COMMIT.fullmatch(revision)
        if cached is not None and (self._is_offline() or (not moving and self._is_complete(cached, repo))):
            return cached
        if self._is_offline():
            raise DownloadFailed(f"{repo} is not on this machine, and downloads are switched off.", hint=_by_hand(repo))
        try:
            with _translated(repo, revision):
                return self._download(repo, revision, on_progress, on_download)
        except DownloadFailed:
            if cached is None:
                raise
            return cached

    def _cached(self, repo: str, revision: str | None) -> ModelRef | None:
        """The newest cached snapshot of the revision, if its weights are there."""
        config = self._cached_file(repo, CONFIG, revision)
        if not isinstance(config, str):
            return None
        folder = Path(config).parent
        try:
            weight_files(folder)
            return _ref(repo, folder, folder.name)
        except CheckpointIncomplete:
            return None

    def _is_complete(self, cached: ModelRef, repo: str) -> bool:
        """Whether each file that the family names is here, or known not to exist."""
        names = [name for name in registry.family_for(read_config(cached.path)).files if not _is_pattern(name)]
        others = [name for name in names if not is_weight_file(name)]
        return all(self._cached_file(repo, name, cached.revision) is not None for name in others)

    def _cached_file(self, repo: str, name: str, revision: str | None) -> object:
        """A path as str, a marker where the file is known not to exist, None where nothing is known."""
        return _library().try_to_load_from_cache(repo, name, cache_dir=self.cache_dir, revision=revision)

    def _download(
        self, repo: str, revision: str | None, on_progress: OnProgress, on_download: OnDownload | None
    ) -> ModelRef:
        api = _library().HfApi(endpoint=self.endpoint, library_name="ocr_mlx")
        info = api.model_info(repo, revision=revision, files_metadata=True, timeout=_TIMEOUT)
        commit = str(info.sha)
        siblings = {sibling.rfilename: sibling for sibling in info.siblings or ()}
        if CONFIG not in siblings:
            raise UnsupportedArchitecture(f"{repo} has no {CONFIG}.", hint="It is no model that can be read here.")
        folder = self._small(repo, CONFIG, commit).parent
        family = registry.family_for(read_config(folder))
        chosen = [siblings[name] for name in _choose(list(siblings), family.files)]
        if not any(is_weight_file(sibling.rfilename) for sibling in chosen):
            raise CheckpointIncomplete(
                f"{repo} has no weights that can be read here, neither safetensors nor PyTorch's.",
                hint=f"It holds {', '.join(sorted(siblings)[:10])}.",
            )
        if on_download is not None and any(not (folder / sibling.rfilename).exists() for sibling in chosen):
            on_download(family, repo)
        self._fetch_all(repo, commit, folder, chosen, on_progress)
        self._note_absent(repo, commit, [name for name in family.files if name not in siblings])
        self._small(repo, CONFIG, revision or "main")  # only now does the name mean this snapshot
        return _ref(repo, folder, commit)

    def _fetch_all(
        self, repo: str, commit: str, folder: Path, chosen: Sequence[RepoSibling], on_progress: OnProgress
    ) -> None:
        """Small files first: where the weights are whole, everything is."""
        ordered = sorted(chosen, key=lambda sibling: (is_weight_file(sibling.rfilename), sibling.size or 0))
        total = sum(sibling.size or 0 for sibling in ordered)
        _check_space(folder, sum(_missing(folder, sibling) for sibling in ordered), repo)
        done = 0
        for sibling in ordered:
            before = done

            def tick(here: int, before: int = before) -> None:
                on_progress(before + here, total)

            if sibling.lfs is not None and (sibling.size or 0) > _LARGE:
                self._large(repo, commit, folder, sibling, tick)
            self._small(repo, sibling.rfilename, commit)
            done += sibling.size or 0
            on_progress(done, total)

    def _large(self, repo: str, commit: str, folder: Path, sibling: RepoSibling, tick: Callable[[int], None]) -> None:
        """Put the file's bytes where the hub's library looks for them; alone, it would begin anew after each end."""
        hub = _library()
        if sibling.lfs is None or (folder / sibling.rfilename).exists():
            return
        fetch_file(
            hub.hf_hub_url(repo, sibling.rfilename, revision=commit, endpoint=self.endpoint),
            _blob(folder, sibling.lfs.sha256),
            size=sibling.lfs.size,
            sha256=sibling.lfs.sha256,
            headers=hub.utils.build_hf_headers(library_name="ocr_mlx"),
            tick=tick,
            sleep=self.sleep,
        )

    def _small(self, repo: str, name: str, revision: str) -> Path:
        hub = _library()
        path = hub.hf_hub_download(
            repo, name, revision=revision, cache_dir=self.cache_dir, endpoint=self.endpoint, library_name="ocr_mlx"
        )
        return Path(path)

    def _note_absent(self, repo: str, commit: str, names: Sequence[str]) -> None:
        """Let the library remember which optional files do not exist, so that the cache is known to be whole."""
        for name in names:
            if _is_pattern(name) or is_weight_file(name):
                continue
            try:
                self._small(repo, name, commit)
            except _library().errors.EntryNotFoundError:
                continue

    def _describe(self, repo: str, commit: str, folder: Path, size: int) -> Downloaded | None:
        try:
            family = registry.family_for(read_config(folder))
            ref = _ref(repo, folder, commit)
        except ModelError:
            return None
        complete = self._cached(repo, commit) is not None
        return Downloaded(ref=ref, family=family.name, bytes=size, complete=complete)

    def _is_offline(self) -> bool:
        return self.offline or bool(_library().constants.HF_HUB_OFFLINE)


def find(
    name: str,
    *,
    revision: str | None = None,
    offline: bool = False,
    cache_dir: Path | None = None,
    on_progress: OnProgress | None = None,
    on_download: OnDownload | None = None,
) -> ModelRef:
    """Find a model by a folder, an alias, or a hub id `org/name` or `org/name@revision`; download what is missing.

    A folder that exists wins over a hub id of the same name. Raises UnknownModel, UnsupportedArchitecture,
    CheckpointIncomplete for a folder without a proper config.json, and DownloadFailed, whose hint says how to go on.
    What `on_progress` raises ends the download; it goes on from there the next time.
    """
    hub = Hub(cache_dir=cache_dir, offline=offline)
    return hub.find(name, revision=revision, on_progress=on_progress, on_download=on_download)


def downloaded(cache_dir: Path | None = None) -> list[Downloaded]:
    """The models in the hub's cache that can be read here."""
    return Hub(cache_dir=cache_dir).downloaded()


def _library() -> Any:
    """The hub's library, imported at its first use because that takes long. Its progress bars would garble ours."""
    import huggingface_hub.constants
    import huggingface_hub.errors
    import huggingface_hub.utils

    hub: Any = huggingface_hub
    if hub.constants.HF_HUB_DISABLE_PROGRESS_BARS is None and not hub.utils.are_progress_bars_disabled():
        hub.utils.disable_progress_bars()
    return hub


def _check_id(repo: str) -> None:
    hub = _library()
    try:
        hub.utils.validate_repo_id(repo)
    except hub.errors.HFValidationError as error:
        raise UnknownModel(f"{repo} is no hub id.", hint="A hub id is org/name; a folder works too.") from error


def _local(name: str, folder: Path) -> ModelRef:
    if not folder.is_dir():
        raise UnknownModel(
            f"There is no folder {name}.", hint="Give a model's folder, a hub id (org/name) or an alias."
        )
    return _ref(name, folder.absolute(), None)


def _ref(name: str, folder: Path, revision: str | None) -> ModelRef:
    return ModelRef(id=name, path=folder, revision=revision, quantization=quantization_of(read_config(folder)))


def _choose(names: list[str], patterns: Sequence[str]) -> list[str]:
    wanted = [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]
    return [name for name in wanted if not is_weight_file(name)] + choose_weights(wanted)


def _blob(folder: Path, sha256: str) -> Path:
    """Where the hub's cache keeps a file of this snapshot."""
    return folder.parents[1] / "blobs" / sha256


def _missing(folder: Path, sibling: RepoSibling) -> int:
    """Bytes of a file that are still to come."""
    if (folder / sibling.rfilename).exists():
        return 0
    partial = partial_file(_blob(folder, sibling.lfs.sha256)) if sibling.lfs is not None else None
    here = partial.stat().st_size if partial is not None and partial.exists() else 0
    return max((sibling.size or 0) - here, 0)


def _is_pattern(name: str) -> bool:
    return any(mark in name for mark in "*?[")


def _ignore(done: int, total: int) -> None:
    pass


def _check_space(folder: Path, needed: int, repo: str) -> None:
    import shutil

    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DownloadFailed(
            f"{repo} needs {needed / 1e9:.1f} GB more on the disk, of which {free / 1e9:.1f} GB are free.",
            hint="Make room, or point HF_HOME to another disk.",
        )


def _by_hand(repo: str) -> str:
    folder = repo.split("/")[-1]
    return (
        f"Where there is a network: `hf download {repo} --local-dir {folder}`; bring that folder here and use "
        f"`--model ./{folder}`. {_WORKS_NOW}"
    )


@contextmanager
def _translated(repo: str, revision: str | None) -> Iterator[None]:
    """The one door for errors of the hub and of the network below it."""
    import httpx

    errors = _library().errors
    at = f" at revision {revision}" if revision else ""
    try:
        yield
    except errors.GatedRepoError as error:
        raise DownloadFailed(
            f"{repo} is gated: its owner asks for an agreement first.",
            hint=f"Accept the terms on https://huggingface.co/{repo}, then `hf auth login`. {_WORKS_NOW}",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise DownloadFailed(f"{repo} has no revision {revision}.", hint="Check the name after the @.") from error
    except errors.RepositoryNotFoundError as error:
        raise DownloadFailed(
            f"The hub has no model {repo}, or it is private.",
            hint=f"Check the name; for a private model `hf auth login` first. {_WORKS_NOW}",
        ) from error
    except (*errors.HfHubHTTPError.__bases__, httpx.HTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None and error.filename:
            raise DownloadFailed(
                f"{repo} could not be stored in {error.filename}: {error.strerror}.", hint="Check room and rights."
            ) from error
        raise DownloadFailed(f"{repo}{at} could not be fetched: {_reason(error)}.", hint=_by_hand(repo)) from error


def _reason(error: BaseException) -> str:
    """The hub's answer in a few words; where there was none, that."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return f"the hub answered {status}" if status else "the hub cannot be reached"
