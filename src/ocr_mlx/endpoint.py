"""The server process: settings, socket, application, announcement; then it serves until it is told to end.

Ends on SIGTERM, SIGINT, /shutdown, and when its parent or its stdin goes (where asked to watch them): running work gets
`OCR_MLX_DRAIN` seconds, then it is cancelled, and the exit status is 0. A second signal ends it at once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from ocr_mlx import __version__
from ocr_mlx.errors import EngineError, UnknownModel
from ocr_mlx.jobs.base import Jobs
from ocr_mlx.jobs.build import build_jobs
from ocr_mlx.observer import Observer
from ocr_mlx.server.app import create_app
from ocr_mlx.server.choice import ModelChoice
from ocr_mlx.server.deepseek.history import history_of
from ocr_mlx.server.deps import ServerContext
from ocr_mlx.server.metrics import Metrics
from ocr_mlx.server.running import DocumentRunner, EngineSlot, Service
from ocr_mlx.settings import InvalidSetting, Settings
from ocr_mlx.settings.presets import PRESETS
from ocr_mlx.utils import logs, ports, records, watch

log = logging.getLogger("ocr_mlx.endpoint")

ENGINE_AFTER = 0.2
"""Seconds after the announcement when the engine's imports and the jobs begin, unless a request asks earlier."""
GRACE = 2.0
"""Seconds between the end of the drain, when work is cancelled, and that of the connections that are still open."""
LAST_RESORT = 5.0
"""Seconds after the drain of the jobs when the process ends even if a thread does not."""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to end; the exit status: 0, 1 when no port can be had, 2 for a bad setting or option."""
    warnings.filterwarnings("ignore", module="PIL")  # what a picture does wrong is told with its page
    options = _parser().parse_args(_dashes(sys.argv[1:] if argv is None else argv))
    try:
        settings = _settings(options)
    except InvalidSetting as error:
        return _complain(_as_option(str(error), options), 2)
    try:
        sock = ports.listen(settings.host, settings.port)
    except OSError as error:
        return _complain(f"Cannot listen on {settings.host}: {error.strerror or error}", 1)
    with sock:
        try:
            _serve(settings, sock, options)
        except EngineError as error:  # jobs in Redis, and the packages for that are missing
            return _complain(str(error), 2)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ocr_mlx serve",
        description="Serve OCR over HTTP. Prints one JSON line with the address once it answers.",
        epilog="OCR_MLX_* environment variables hold all other settings; `python -m ocr_mlx.settings` lists them.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--contract", choices=tuple(PRESETS), help="take the defaults of one service: its port, /health, / and model"
    )
    parser.add_argument("--host", help="address to listen on (127.0.0.1)")
    parser.add_argument(
        "--port", help="preferred port (7771, or the contract's), the next free one when taken; 0 for any free one"
    )
    parser.add_argument("--parent-pid", type=_pid, metavar="PID", help="end when this process ends")
    parser.add_argument("--stdin-watch", action="store_true", help="end when standard input ends")
    return parser


def _pid(text: str) -> int:
    if not text.isdecimal() or int(text) <= 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a process id")
    return int(text)


def _dashes(arguments: Sequence[str]) -> list[str]:
    """`--stdin_watch` is `--stdin-watch`."""
    names = ("--parent_pid", "--stdin_watch")
    return [a.replace("_", "-") if a.startswith(names) else a for a in arguments]


def _settings(options: argparse.Namespace) -> Settings:
    """The environment's settings, with the command line's contract, port and host on top."""
    given = {"OCR_MLX_HOST": options.host, "OCR_MLX_PORT": options.port}
    over = Settings.from_env({name: value for name, value in given.items() if value is not None})
    changed = {key: getattr(over, key) for key in ("host", "port") if getattr(options, key) is not None}
    return dataclasses.replace(Settings.from_env(contract=options.contract or ""), **changed)


def _as_option(message: str, options: argparse.Namespace) -> str:
    """A wrong value in the words of the command line, where it came from there."""
    for name in ("host", "port"):
        if getattr(options, name) is not None:
            message = message.replace(f"OCR_MLX_{name.upper()} ", f"--{name} ")
    return message


def _complain(message: str, status: int) -> int:
    sys.stderr.write(f"ocr_mlx: {message}\n")
    return status


class Sidecar(uvicorn.Server):
    """uvicorn with this program's manners: announce when it answers, drain with a deadline, status 0 on SIGTERM."""

    def __init__(self, config: uvicorn.Config, *, drain: float, on_ready: Callable[[], None]) -> None:
        """`on_ready` runs on the event loop's thread; `on_end` as the end begins, `expire` once the drain is over."""
        super().__init__(config)
        self.expire: Callable[[], None] = lambda: None
        self.at_once: Callable[[], None] = lambda: None
        self.on_end: Callable[[], None] = lambda: None
        self._drain = drain
        self._on_ready = on_ready
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then announce."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self._on_ready()

    def end(self) -> None:
        """Begin to end: no new connections, running work has the drain time. From any thread, and more than once."""
        if self.should_exit:
            return
        self.should_exit = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._begin_to_end, self._loop)

    def _begin_to_end(self, loop: asyncio.AbstractEventLoop) -> None:
        self.on_end()
        loop.call_later(self._drain, self.expire)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, the second ends the process at once."""
        if self.should_exit:
            self.at_once()
            os._exit(128 + sig)
        self.end()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Like uvicorn's, but the signal is not raised again afterwards: that would spoil the exit status."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {sig: signal.signal(sig, self.handle_exit) for sig in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)


def _serve(settings: Settings, sock: socket.socket, options: argparse.Namespace) -> None:
    tail = logs.configure(settings.log_level, style=settings.log_format)
    for name in Settings.unknown():
        log.warning("%s is no setting; `python -m ocr_mlx.settings` lists them", name)
    port, instance = sock.getsockname()[1], secrets.token_hex(8)
    metrics = Metrics(lambda: engine.state)
    engine = EngineSlot(lambda: _build(settings, metrics))
    runner = DocumentRunner(engine, threads=settings.queue + 4)
    jobs = build_jobs(settings.job_options(), engine.wait)
    record = _Record(settings, port, instance)

    def ready() -> None:
        record.announce()
        asyncio.get_running_loop().call_later(ENGINE_AFTER, engine.start)
        asyncio.get_running_loop().call_later(ENGINE_AFTER, jobs.start)

    context = ServerContext(
        settings=settings,
        engine=engine,
        runner=runner,
        jobs=jobs,
        models=ModelChoice(settings, jobs.current_model),
        port=port,
        instance=instance,
        shutdown=lambda: server.end(),
        logs=tail,
        metrics=metrics,
    )
    server = Sidecar(uvicorn_config(create_app(context), settings), drain=settings.drain, on_ready=ready)
    server.expire, server.at_once, server.on_end = runner.stop, record.remove, jobs.stop
    if not settings.token and not _is_loopback(settings.host):
        log.warning("other machines can reach this server, and OCR_MLX_TOKEN is not set")
    if options.parent_pid:
        watch.parent(options.parent_pid, server.end)
    if options.stdin_watch:
        watch.stream(sys.stdin.fileno(), server.end)
    try:
        server.run(sockets=[sock])
    finally:
        _close(record, jobs, runner, engine, last=settings.drain + LAST_RESORT)


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _build(settings: Settings, observer: Observer) -> Service:
    """The engine; and what has expired while no server ran goes."""
    history_of(settings).sweep()
    options = settings.engine_options()
    from ocr_mlx.engine.build import build_service

    service = build_service(options, observer)
    _check_model(settings)
    return service


def _check_model(settings: Settings) -> None:
    """Say at once that the default model is none, and not only to the first who asks."""
    from ocr_mlx.engine.remote import is_reference
    from ocr_mlx.model.registry import resolve_name

    try:
        if not is_reference(settings.default_model):
            resolve_name(settings.default_model)
    except UnknownModel as error:
        log.error("OCR_MLX_MODEL: %s", error)


def uvicorn_config(app: Any, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=int(settings.drain + GRACE),
    )


def _close(record: _Record, jobs: Jobs, runner: DocumentRunner, engine: EngineSlot, *, last: float) -> None:
    record.remove()
    end = threading.Timer(last, lambda: os._exit(0))
    end.daemon = True
    end.start()
    jobs.close()
    runner.close()
    ended = engine.close()
    log.info("ended")
    if not ended:  # Python would wait for that thread, or abort on it
        logging.shutdown()
        os._exit(0)


class _Record:
    """The announcement: one JSON line on stdout, and the same in the state folder for as long as the server runs."""

    def __init__(self, settings: Settings, port: int, instance: str) -> None:
        self._folder = settings.state_dir
        self._path: Path | None = None
        self._record = {
            "event": "ready",
            "url": ports.url(settings.host, port),
            "port": port,
            "pid": os.getpid(),
            "instance": instance,
            "version": __version__,
        }

    def announce(self) -> None:
        try:
            self._path = records.write(records.state_folder(self._folder), self._record)
        except OSError as error:
            log.warning("the state folder cannot be written: %s", error.strerror)
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.write(json.dumps(self._record) + "\n")
            sys.stdout.flush()

    def remove(self) -> None:
        if self._path is not None:
            records.remove(self._path, str(self._record["instance"]))


if __name__ == "__main__":
    sys.exit(main())
