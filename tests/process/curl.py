"""curl, as a README has it. Tests skip, and say so, where it is not installed."""

from __future__ import annotations

import shlex
import shutil
import subprocess

import pytest

from ocr_mlx.utils import ports

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
