"""curl, as a README has it. Tests skip, and say so, where it is not installed."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from scripts.builtin.score import error_rate

from ocr_mlx.utils import ports
from tests.process.program import Start

EXAMPLES = Path(__file__).parents[2] / "examples"
TEXT = (EXAMPLES / "page.txt").read_text(encoding="utf-8").strip()
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def curl(line: str, *, port: tuple[int, int] | None = None) -> str:
    """Run a line such as `curl -s http://…`; `port` is the README's and the one the server really got."""
    if port is not None:
        line = line.replace(f":{port[0]}/", f":{port[1]}/")
    ran = subprocess.run(shlex.split(line), capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def own_port(wanted: int) -> str:
    """A contract's own port where it is free, else 0 for any."""
    try:
        with ports.listen("127.0.0.1", wanted) as sock:
            return str(wanted) if sock.getsockname()[1] == wanted else "0"
    except OSError:
        return "0"


def serve(start: Start, contract: str, wanted: int, **environ: str) -> int:
    """Begin with this contract; the port that the server really got."""
    options = ("serve", "--contract", contract, "--port", own_port(wanted))
    return int(start(*options, command=("-m", "ocr_mlx"), **environ).ready()["port"])


def asked(line: str, *, port: tuple[int, int]) -> dict[str, Any]:
    """The JSON that a line is answered with; `port` as `curl` takes it."""
    answer = json.loads(curl(line, port=port))
    assert isinstance(answer, dict)
    return answer


def is_the_page(text: str) -> bool:
    """Whether the built-in model read the example."""
    rate = error_rate([TEXT], [text.strip()])
    assert rate <= 0.02, (rate, text)
    return True
