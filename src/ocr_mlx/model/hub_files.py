"""The files of a repository on the hub: which there are, which are in the cache, and bringing those that are not.

The only importer of the hub's library. What a file means is not known here.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from ocr_mlx.errors import UnknownModel
from ocr_mlx.model.hub_errors import check_space, translated
from ocr_mlx.model.transfer import fetch_file, partial_file
from ocr_mlx.model.weight_files import is_weight_file

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

OnProgress = Callable[[int, int], None]
"""(bytes here, bytes in all)"""
_LARGE: Final = 8_000_000
_TIMEOUT: Final = 10.0
_SUM: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Repository:
    """A model repository at one commit, with the files that it has there."""

    id: str
    commit: str
    files: Mapping[str, RepoSibling]


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A commit in the cache: its folder, and the bytes on disk."""

    id: str
    commit: str
    folder: Path
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class HubFiles:
    """The hub and its cache. None means the settings of the hub itself (HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE)."""

    cache_dir: Path | None
    offline: bool
    endpoint: str | None
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)

    @property
    def is_offline(self) -> bool:
        """Whether nothing may be asked of the network."""
        return self.offline or bool(_library().constants.HF_HUB_OFFLINE)

    def translated(self, repo: str, revision: str | None, by_hand: str) -> AbstractContextManager[None]:
        """Errors of the hub and the network become DownloadFailed; `by_hand` is the hint where there is no network."""
        return translated(_library().errors, repo, revision, by_hand)

    def look(self, repo: str, revision: str | None) -> Repository:
        """Ask the hub what the repository holds. Files whose names or sums would lead elsewhere are as good as not there."""
        api = _library().HfApi(endpoint=self.endpoint, library_name="ocr_mlx")
        info = api.model_info(repo, revision=revision, files_metadata=True, timeout=_TIMEOUT)
        files = {file.rfilename: file for file in info.siblings or () if _is_sound(file)}
        return Repository(id=repo, commit=str(info.sha), files=files)

    def cached(self, repo: str, name: str, revision: str | None) -> Path | None:
        """The file in the cache."""
        found = self._cached(repo, name, revision)
        return Path(found) if isinstance(found, str) else None

    def is_settled(self, repo: str, name: str, revision: str | None) -> bool:
        """Whether the file is in the cache, or known not to exist."""
        return self._cached(repo, name, revision) is not None

    def snapshots(self) -> Iterator[Snapshot]:
        """Every model's commits in the cache. Asks no network."""
        hub = _library()
        try:
            cache = hub.scan_cache_dir(self.cache_dir)
        except hub.errors.CacheNotFound:
            return
        for repo in cache.repos:
            for one in repo.revisions if repo.repo_type == "model" else ():
                yield Snapshot(
                    id=repo.repo_id, commit=one.commit_hash, folder=one.snapshot_path, bytes=one.size_on_disk
                )

    def small(self, repo: str, name: str, revision: str) -> Path:
        """Bring a file that need not be resumed; one that is here is asked about by its name only."""
        path = _library().hf_hub_download(
            repo, name, revision=revision, cache_dir=self.cache_dir, endpoint=self.endpoint, library_name="ocr_mlx"
        )
        return Path(path)

    def bring(self, found: Repository, folder: Path, names: Sequence[str], on_progress: OnProgress) -> None:
        """Bring these files into the snapshot's folder. Small ones first: where the weights are whole, everything is."""
        files = [found.files[name] for name in names]
        ordered = sorted(files, key=lambda file: (is_weight_file(file.rfilename), file.size or 0))
        total = sum(file.size or 0 for file in ordered)
        check_space(folder, sum(_missing(folder, file) for file in ordered), found.id)
        done = 0
        for file in ordered:
            before = done

            def tick(here: int, before: int = before) -> None:
                on_progress(before + here, total)

            if file.lfs is not None and (file.size or 0) > _LARGE:
                self._large(found, folder, file, tick)
            self.small(found.id, file.rfilename, found.commit)
            done += file.size or 0
            on_progress(done, total)

    def note_absent(self, found: Repository, names: Sequence[str]) -> None:
        """Let the library remember which optional files do not exist, so that the cache is known to be whole."""
        for name in names:
            if is_pattern(name) or is_weight_file(name) or name in found.files:
                continue
            try:
                self.small(found.id, name, found.commit)
            except _library().errors.EntryNotFoundError:
                continue

    def _cached(self, repo: str, name: str, revision: str | None) -> object:
        """A path as str, a marker where the file is known not to exist, None where nothing is known."""
        return _library().try_to_load_from_cache(repo, name, cache_dir=self.cache_dir, revision=revision)

    def _large(self, found: Repository, folder: Path, file: RepoSibling, tick: Callable[[int], None]) -> None:
        """Put the file's bytes where the hub's library looks for them; alone, it would begin anew after each end."""
        hub = _library()
        if file.lfs is None or (folder / file.rfilename).exists():
            return
        fetch_file(
            hub.hf_hub_url(found.id, file.rfilename, revision=found.commit, endpoint=self.endpoint),
            _blob(folder, file.lfs.sha256),
            size=file.lfs.size,
            sha256=file.lfs.sha256,
            headers=hub.utils.build_hf_headers(library_name="ocr_mlx"),
            tick=tick,
            sleep=self.sleep,
        )


def check_id(repo: str) -> None:
    """Raise UnknownModel for a name that the hub cannot have."""
    hub = _library()
    try:
        hub.utils.validate_repo_id(repo)
    except hub.errors.HFValidationError as error:
        raise UnknownModel(f"{repo} is no hub id.", hint="A hub id is org/name; a folder works too.") from error


def _is_sound(file: RepoSibling) -> bool:
    """Both become paths: the name in the snapshot's folder, the sum beside it."""
    path = PurePosixPath(file.rfilename)
    inside = not path.is_absolute() and ".." not in path.parts and file.rfilename.isprintable()
    return inside and "\\" not in file.rfilename and (file.lfs is None or _SUM.fullmatch(file.lfs.sha256) is not None)


def is_pattern(name: str) -> bool:
    """Whether a file's name stands for several."""
    return any(mark in name for mark in "*?[")


def _library() -> Any:
    """The hub's library, imported at its first use because that takes long. Its progress bars would garble ours."""
    import huggingface_hub.constants
    import huggingface_hub.errors
    import huggingface_hub.utils

    hub: Any = huggingface_hub
    if hub.constants.HF_HUB_DISABLE_PROGRESS_BARS is None and not hub.utils.are_progress_bars_disabled():
        hub.utils.disable_progress_bars()
    return hub


def _blob(folder: Path, sha256: str) -> Path:
    """Where the hub's cache keeps a file of this snapshot."""
    return folder.parents[1] / "blobs" / sha256


def _missing(folder: Path, file: RepoSibling) -> int:
    """Bytes of a file that are still to come."""
    if (folder / file.rfilename).exists():
        return 0
    partial = partial_file(_blob(folder, file.lfs.sha256)) if file.lfs is not None else None
    here = partial.stat().st_size if partial is not None and partial.exists() else 0
    return max((file.size or 0) - here, 0)
