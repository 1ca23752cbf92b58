"""The documents of jobs that are not final, as files: there as a whole or not at all, and only for this user."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path

from ocr_mlx.jobs.local.owners import bury
from ocr_mlx.utils.private import make_private

_NAME = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?:\.(?P<owner>[0-9a-f]+)\.part)?")
"""A job's document, or one that `owner` is preparing. Other files are none of ours."""


class Documents:
    """Files named after their job. `put` only prepares one; `keep` makes it the job's."""

    def __init__(self, folder: Path, owner: str) -> None:
        make_private(folder)
        self._folder = folder
        self._owner = owner

    def put(self, job_id: str, data: bytes) -> None:
        """Write it beside the others. Raises OSError, and leaves nothing then."""
        make_private(self._folder)  # whoever clears old folders away takes one that is empty
        path = self._prepared(job_id)
        try:
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def keep(self, job_id: str) -> None:
        """What was prepared survives the machine from now on."""
        self._prepared(job_id).replace(self._path(job_id))
        handle = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def get(self, job_id: str) -> bytes:
        """The bytes. Raises FileNotFoundError."""
        return self._path(job_id).read_bytes()

    def drop(self, job_id: str) -> None:
        """Forget it, prepared or kept."""
        self._prepared(job_id).unlink(missing_ok=True)
        self._path(job_id).unlink(missing_ok=True)

    def sweep(self, wanted: Collection[str]) -> None:
        """Remove what belongs to no job of `wanted`, and what dead owners had prepared."""
        for path in self._folder.iterdir():
            match = _NAME.fullmatch(path.name)
            if match and self._is_orphan(path.name, match["owner"], wanted):
                path.unlink(missing_ok=True)

    def _is_orphan(self, name: str, owner: str | None, wanted: Collection[str]) -> bool:
        if owner is None:
            return name not in wanted
        return owner != self._owner and bury(self._folder.parent, owner)

    def _path(self, job_id: str) -> Path:
        return self._folder / job_id

    def _prepared(self, job_id: str) -> Path:
        return self._folder / f"{job_id}.{self._owner}.part"
