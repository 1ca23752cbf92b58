"""What is open while there are jobs."""

from __future__ import annotations

import logging
from pathlib import Path

from ocr_mlx.jobs.local.database import NAME, open_database
from ocr_mlx.jobs.local.documents import Documents
from ocr_mlx.jobs.local.owners import Owner
from ocr_mlx.utils.private import make_private

log = logging.getLogger(__name__)


class Files:
    """What is open while there are jobs: the database, this process's lock, the documents."""

    def __init__(self, folder: Path) -> None:
        """Makes the folder where there is none. Raises OSError, and JobsUnavailable for a database of a later version."""
        make_private(folder)
        self._folder = folder
        self.db = open_database(folder)
        try:
            self._owner = Owner(folder)
            self.owner = self._owner.name
            self.documents = Documents(folder / "documents", self.owner)
        except BaseException:
            self.db.close()
            raise

    def lost(self) -> bool:
        """Whether somebody removed the database while it was open, which the log tells: what it holds goes with it."""
        if (self._folder / NAME).exists():
            return False
        log.error("the database of the jobs was removed while it was in use: its jobs are lost")
        return True

    def close(self) -> None:
        """Let go of all three."""
        self.db.close()
        self._owner.close()
