"""The real program as a child of the test."""

from __future__ import annotations

import json
import os
import select
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

WAIT = 30.0


class Program:
    """A running server and its announcement."""

    def __init__(self, command: Sequence[str], folder: Path, environ: dict[str, str], **more: Any) -> None:
        env = os.environ | {"OCR_MLX_STATE_DIR": str(folder)} | environ
        self.process = subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1, **more
        )

    def ready(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], WAIT)[0], "no ready line"
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        record = json.loads(line)
        assert isinstance(record, dict)
        return record

    def ends(self) -> int:
        return self.process.wait(WAIT)

    def rest(self) -> tuple[str, str]:
        return self.process.communicate(timeout=WAIT)


Start = Callable[..., Program]
