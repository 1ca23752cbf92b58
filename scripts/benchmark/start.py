"""How long the server and the package take to start."""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from typing import Any

BARE_APP = """
import sys, fastapi, uvicorn
app = fastapi.FastAPI()
@app.get("/livez")
async def livez() -> str:
    return "ok"
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
"""


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until_alive(command: list[str], port: int) -> float:
    """Seconds from starting `command` to its first answer on /livez; the process is ended."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=5):
                    return time.perf_counter() - started
            except OSError:
                time.sleep(0.002)
        raise RuntimeError(f"{command} ended with {process.returncode}")
    finally:
        process.terminate()
        process.wait(timeout=60)


def measure_start(runs: int) -> dict[str, Any]:
    """Ours and a bare FastAPI app in turn; import time of the package."""
    ours, bare = [], []
    for _ in range(runs + 1):
        port = free_port()
        bare.append(until_alive([sys.executable, "-c", BARE_APP, str(port)], port))
        port = free_port()
        ours.append(until_alive([sys.executable, "-m", "ocr_mlx.endpoint", "--port", str(port)], port))
    code = "import time; t = time.perf_counter(); import ocr_mlx; print(time.perf_counter() - t)"
    imports = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(runs)]
    pairs = [a / b for a, b in zip(ours[1:], bare[1:], strict=True)]
    return {
        "livez_seconds": statistics.median(ours[1:]),
        "bare_seconds": statistics.median(bare[1:]),
        "ratio": statistics.median(pairs),
        "import_ms": statistics.median(imports) * 1000,
    }
