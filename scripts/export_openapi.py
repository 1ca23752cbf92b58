"""Write openapi.json, the description of the HTTP interface, at the top of the repository.

`--check` writes nothing and fails when the file is not what the code describes.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ocr_mlx.jobs.build import build_jobs
from ocr_mlx.server.app import create_app
from ocr_mlx.server.choice import ModelChoice
from ocr_mlx.server.deps import ServerContext
from ocr_mlx.server.running import DocumentRunner, EngineSlot, Service
from ocr_mlx.settings import Settings
from ocr_mlx.utils.logs import LogTail

TARGET = Path(__file__).resolve().parents[1] / "openapi.json"


def document() -> str:
    """The description as the server answers it, indented."""
    engine, settings = EngineSlot(_never), Settings()
    jobs = build_jobs(settings.job_options(), engine.wait)
    context = ServerContext(
        settings=settings,
        engine=engine,
        runner=DocumentRunner(engine, threads=1),
        jobs=jobs,
        models=ModelChoice(settings, jobs.current_model),
        port=settings.port,
        instance="",
        shutdown=lambda: None,
        logs=LogTail(),
    )
    return json.dumps(create_app(context).openapi(), indent=2, ensure_ascii=False) + "\n"


def _never() -> Service:
    raise NotImplementedError


def main() -> int:
    """Write or check; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only")
    check = parser.parse_args().check
    wanted = document()
    if not check:
        TARGET.write_text(wanted, "utf-8")
        return 0
    if TARGET.is_file() and TARGET.read_text("utf-8") == wanted:
        return 0
    print(f"{TARGET.name} is out of date: run `python scripts/export_openapi.py`.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
