"""The server process: settings, socket, application, announcement; then it serves until it is told to end.

Told by a signal or /shutdown, running work gets `OCR_MLX_DRAIN` seconds, then it is cancelled; a second signal ends it at
once. When its parent or its stdin goes (where asked to watch them) nobody waits for work any more, and it ends within two
seconds. `STATUSES` are its exit statuses.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import gc
import json
import logging
import os
import re
import secrets
import socket
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import uvicorn

from ocr_mlx import __version__
from ocr_mlx.errors import EngineError, UnknownModel
from ocr_mlx.jobs.base import Jobs
from ocr_mlx.jobs.build import build_jobs
from ocr_mlx.observer import Observer
from ocr_mlx.server import access
from ocr_mlx.server.app import create_app
from ocr_mlx.server.choice import ModelChoice
from ocr_mlx.server.deepseek.history import history_of
from ocr_mlx.server.deps import ServerContext
from ocr_mlx.server.metrics import Metrics
from ocr_mlx.server.protocol import protocol
from ocr_mlx.server.running import DocumentRunner, EngineSlot, Service
from ocr_mlx.settings import InvalidSetting, Settings
from ocr_mlx.settings.presets import PRESETS
from ocr_mlx.utils import logs, ports, private, records, watch
from ocr_mlx.utils.ending import Ending

log = logging.getLogger("ocr_mlx.endpoint")

ENGINE_AFTER = 0.2
"""Seconds after the announcement when the engine's imports and the jobs begin, unless a request asks earlier."""
GRACE = 2.0
"""Seconds between the end of the drain, when work is cancelled, and that of the connections that are still open."""
LAST_RESORT = 4.0
"""Seconds after the drain when the process ends even if a thread does not."""
ALONE = 0.5
"""The same where the parent has gone, counted from when that is noticed."""
STATUSES = (
    "Exit status: 0 told to end (SIGTERM, Ctrl-C, SIGHUP, /shutdown, the parent or standard input has gone), "
    "1 no port can be had, 2 a wrong setting or option, 128+N ended at once by a second signal N."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to end; the exit status is one of `STATUSES`."""
    warnings.filterwarnings("ignore", module="PIL")  # Pillow warns of every large page that is cut
    ending = Ending()
    ending.catch_signals()
    _open_streams()
    options = _parser().parse_args(_dashes(sys.argv[1:] if argv is None else argv))
    try:
        settings = _settings(options)
    except InvalidSetting as error:
        return _complain(_as_option(str(error), options), 2)
    try:
        sock = ports.listen(settings.host, settings.port)
    except OSError as error:
        return _complain(f"Cannot listen on {settings.host}: {error.strerror or error}", 1)
    private.no_core_dumps()
    with sock:
        try:
            _serve(settings, sock, options, ending)
        except EngineError as error:  # jobs in Redis, and the packages for that are missing
            return _complain(str(error), 2)
    return 0


def _open_streams() -> None:
    """Put nothing in the place of standard streams that whoever started this program has closed."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ocr_mlx serve",
        description="Serve OCR over HTTP. Prints one JSON line with the address once it answers.",
        epilog="OCR_MLX_* environment variables hold all other settings; `python -m ocr_mlx.settings` lists them. "
        + STATUSES,
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
    parser.add_argument(
        "--instance",
        type=_instance,
        metavar="ID",
        help="the name of this run, in the ready line, the record and every answer (a random one)",
    )
    return parser


def _pid(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) == 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a process id")
    return int(text)


def _instance(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", text):
        raise argparse.ArgumentTypeError("an instance is 1 to 64 letters, digits, dots, underlines and hyphens")
    return text


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
        self.on_end: Callable[[], None] = lambda: None
        self._drain = drain
        self._on_ready = on_ready
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then announce, unless the end has come already."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if not self.should_exit:
            self._on_ready()

    def end(self) -> None:
        """Begin to end: no new connections, running work has the drain time. From any thread, and more than once."""
        if not self.should_exit:
            self.should_exit = True
            self._soon(self._begin_to_end)

    def give_up(self) -> None:
        """End without the drain, or cut short the one that has begun: nobody waits for an answer. From any thread."""
        self.end()
        self._soon(self.expire)

    def _begin_to_end(self) -> None:
        self.on_end()
        asyncio.get_running_loop().call_later(self._drain, self.expire)

    def _soon(self, act: Callable[[], None]) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and all connections with it
                self._loop.call_soon_threadsafe(act)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None: `Ending` has them."""
        yield


def _serve(settings: Settings, sock: socket.socket, options: argparse.Namespace, ending: Ending) -> None:
    tail = logs.configure(settings.log_level, style=settings.log_format)
    for name in Settings.unknown():
        log.warning("%s is no setting; `python -m ocr_mlx.settings` lists them", name)
    address, port = sock.getsockname()[:2]
    settings, token = access.settle(settings, address)
    if settings.port not in (0, port):
        log.info("port %d is taken: this is port %d", settings.port, port)
    instance = options.instance or secrets.token_hex(8)
    metrics = Metrics(__version__, lambda: engine.state)
    engine = EngineSlot(lambda: _build(settings, metrics))
    runner = DocumentRunner(engine, threads=settings.queue + 4)
    jobs = build_jobs(settings.job_options(), engine.wait)
    record = _Record(settings, port, instance, token)

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
        shutdown=lambda: ending.begin("/shutdown"),
        logs=tail,
        metrics=metrics,
    )
    server = Sidecar(uvicorn_config(create_app(context), settings, instance), drain=settings.drain, on_ready=ready)

    def end() -> None:
        ending.within(settings.drain + LAST_RESORT)
        log.info("ending: %s", ending.reason)
        jobs.stop()

    server.expire, server.on_end = runner.stop, end
    ending.start, ending.last_act = server.end, record.remove
    _watch(options, ending, server)
    try:
        server.run(sockets=[sock])
    finally:
        record.remove()
        ending.within(settings.drain + LAST_RESORT)
        _close(jobs, runner, engine)


def _watch(options: argparse.Namespace, ending: Ending, server: Sidecar) -> None:
    """Where asked to, end with the parent and with standard input."""

    def alone(reason: str) -> None:
        ending.within(ALONE)
        ending.begin(reason)
        server.give_up()

    if options.parent_pid:
        watch.parent(options.parent_pid, lambda: alone("the parent has gone"))
    if options.stdin_watch:
        watch.stream(sys.stdin.fileno(), lambda: alone("standard input has ended"))


def _build(settings: Settings, observer: Observer) -> Service:
    """The engine; and what has expired while no server ran goes."""
    history_of(settings).sweep()
    options = settings.engine_options()
    from ocr_mlx.engine.build import build_service

    service = build_service(options, observer)
    _check_model(settings)
    _settle_down()
    return service


def _settle_down() -> None:
    """Take the program itself out of the collector's sight: looking through it kept every thread waiting for 30 ms."""
    gc.collect()
    gc.freeze()


def _check_model(settings: Settings) -> None:
    """Say at once that a model that is set is none, and not only to the first who asks."""
    from ocr_mlx.engine.fence import check_there
    from ocr_mlx.engine.remote import is_reference
    from ocr_mlx.model.registry import resolve_name

    names = (settings.default_model, settings.model_name, str(settings.deepseek_model or ""))
    for name in dict.fromkeys(filter(None, names)):
        try:
            if not is_reference(name):
                resolve_name(name)
                check_there(name, () if settings.redis_url else {name})
        except UnknownModel as error:
            log.error("a model that is set: %s", error)


def uvicorn_config(app: Any, settings: Settings, instance: str) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=protocol(instance),
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=int(settings.drain + GRACE),
    )


def _close(jobs: Jobs, runner: DocumentRunner, engine: EngineSlot) -> None:
    jobs.close()
    runner.close()
    ended = engine.close()
    log.info("ended")
    if not ended:  # Python would wait for that thread, or abort on it
        logging.shutdown()
        os._exit(0)


class _Record:
    """The announcement: one JSON line on stdout, and the same in the state folder for as long as the server runs."""

    def __init__(self, settings: Settings, port: int, instance: str, token: str) -> None:
        """`token` where one was made for this run."""
        self._folder = settings.state_dir
        self._path: Path | None = None
        self._record = {
            "event": "ready",
            "url": ports.url(settings.host, port),
            "port": port,
            "pid": os.getpid(),
            "instance": instance,
            "version": __version__,
            "started": records.started(),
        } | ({"token": token} if token else {})

    def announce(self) -> None:
        folder = records.state_folder(self._folder)
        try:
            self._path = records.write(folder, self._record)
        except OSError as error:
            log.warning("the state folder cannot be written: %s", error.strerror)
        # Past Python's buffer: what nobody reads would stay in it, and spoil the exit status.
        with contextlib.suppress(OSError):
            os.write(sys.stdout.fileno(), f"{json.dumps(self._record)}\n".encode())
        records.tidy(folder)

    def remove(self) -> None:
        if self._path is not None:
            records.remove(self._path, str(self._record["instance"]))


if __name__ == "__main__":
    sys.exit(main())
