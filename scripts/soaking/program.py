"""The real server as a child of the soak, with models that are small and a memory that is too small for all of them."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from scripts.benchmark import families

ROOT = Path(__file__).resolve().parents[2]
BUILTIN = "builtin"
LIGHTON = "mlx-community/LightOnOCR-2-1B-bf16"
QWEN = "mlx-community/Qwen2-VL-2B-Instruct-8bit"
_REVISION = "0123456789abcdef0123456789abcdef01234567"
_START_SECONDS, _END_SECONDS = 60.0, 60.0
_SMALL = """
import sys
from ocr_mlx.engine import device
device.models_memory = lambda: int(sys.argv[1])
from ocr_mlx.endpoint import main
sys.exit(main(sys.argv[2:]))
"""
"""The setting for it begins at 64 MiB, in which all of these models fit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A model: the name to ask with, how `/api/inference` calls it, whether it throws dice unless told not to."""

    name: str
    version: str
    dices: bool = False


MODELS = (
    Model(name=BUILTIN, version="builtin"),
    Model(name=LIGHTON, version="lightonocr-2-1b-bf16", dices=True),
    Model(name=QWEN, version="qwen2-vl-2b-instruct-8bit"),
)
STEADY = tuple(model for model in MODELS if not model.dices)
"""Those that say the same twice by every service: forms have no field for the temperature."""
MODELS_BYTES = 9 * 2**20
"""The built-in model takes 8.4 MiB, the others 0.2 and 1: never all three."""
SETTINGS = {
    "KEEP_ALIVE": "0.5",
    "QUEUE": "12",
    "PAGE_CACHE_MB": "0",
    "FETCH_PRIVATE": "1",
    "FETCH_TIMEOUT": "10",
    "JOB_TTL": "20",
    "HISTORY_TTL": "20",
    "LOG_LEVEL": "error",
    "OFFLINE": "1",
}
"""A queue that a burst fills, models that go as soon as nobody asks, and nothing kept for long: what stays is a leak."""


def make_models(folder: Path) -> None:
    """Tiny models of random numbers under published names (of which no size is known), as a hub cache has them."""
    for name, family in ((LIGHTON, "lighton_ocr"), (QWEN, "qwen2_vl")):
        home = folder / f"models--{name.replace('/', '--')}"
        snapshot = home / "snapshots" / _REVISION
        snapshot.parent.mkdir(parents=True)
        families.make(family, snapshot, tiny=True)
        (home / "refs").mkdir()
        (home / "refs" / "main").write_text(_REVISION, "utf-8")


class Server:
    """The program on a free port; it ends when this process does. A context: leaving it ends the server."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        """`settings` are environment variables without their prefix."""
        self.log = folder / "server.log"
        (folder / "state").mkdir()
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("OCR_MLX_")}
        given = SETTINGS | {"MODELS_DIR": str(folder / "hub"), "STATE_DIR": str(folder / "state")} | settings
        environment = inherited | {f"OCR_MLX_{name}": value for name, value in given.items()}
        environment["PYTHONPATH"] = str(ROOT / "src")
        options = [str(MODELS_BYTES), "--port", "0", "--parent-pid", str(os.getpid())]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _SMALL, *options],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the soak alone
            )
        self.url = self._announced()
        self.status: int | None = None

    def _announced(self) -> str:
        assert self.process.stdout is not None
        ready = select.select([self.process.stdout], [], [], _START_SECONDS)[0]
        line = self.process.stdout.readline() if ready else b""
        if not line:
            self.process.kill()
            raise RuntimeError(f"the server did not start:\n{self.last_words()}")
        return str(json.loads(line)["url"])

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def last_words(self) -> str:
        """The end of its log."""
        return self.log.read_text("utf-8", "replace")[-4000:]

    def end(self) -> int:
        """SIGTERM, and the exit status; SIGKILL for one that does not end."""
        if self.alive:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.status = self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.status = self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.status

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        if self.status is None:
            self.end()
