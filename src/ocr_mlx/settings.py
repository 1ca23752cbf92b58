"""Every setting, read once from the environment into one frozen value. Nothing else reads the environment.

`python -m ocr_mlx.settings` prints the table of settings in Markdown.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ocr_mlx.errors import OcrMlxError
from ocr_mlx.pages.fetch import FetchLimits
from ocr_mlx.pages.limits import PageLimits

if TYPE_CHECKING:
    from ocr_mlx.engine.build import EngineOptions

PREFIX = "OCR_MLX_"
MEBIBYTE = 1024 * 1024
_FETCH = FetchLimits()
_PAGES = PageLimits()


class InvalidSetting(OcrMlxError):
    """A setting holds a value that it cannot have."""

    code = "invalid_setting"


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """How a setting's text becomes a value; `parse` raises ValueError, and `allowed` says what would be right."""

    parse: Callable[[str], Any]
    allowed: str
    secret: bool = False


def _flag(text: str) -> bool:
    low = text.lower()
    if low not in {"1", "0", "true", "false", "yes", "no", "on", "off"}:
        raise ValueError(text)
    return low in {"1", "true", "yes", "on"}


def _integer(least: int, most: int) -> Kind:
    def parse(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise ValueError(text)
        return value

    return Kind(parse=parse, allowed=f"a whole number from {least} to {most}")


def _number(least: float, allowed: str = "") -> Kind:
    def parse(text: str) -> float:
        value = float(text)
        if not least <= value <= 1e9:
            raise ValueError(text)
        return value

    return Kind(parse=parse, allowed=allowed or f"a number from {least:g} to 1e9")


def _choice(*names: str) -> Kind:
    def parse(text: str) -> str:
        if text.lower() not in names:
            raise ValueError(text)
        return text.lower()

    return Kind(parse=parse, allowed=" or ".join(names))


def _token(text: str) -> str:
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise ValueError
    return text


def _origins(text: str) -> tuple[str, ...]:
    if text.lower() == "none":
        return ()
    origins = tuple(part.strip().rstrip("/").lower() for part in text.split(",") if part.strip())
    if any("://" not in origin or origin == "*" for origin in origins):
        raise ValueError(text)
    return origins


def _hosts(text: str) -> tuple[str, ...]:
    hosts = tuple(part.strip().lower() for part in text.split(",") if part.strip())
    if any("/" in host or " " in host for host in hosts):
        raise ValueError(text)
    return hosts


def _folders(text: str) -> tuple[Path, ...]:
    return tuple(Path(part).expanduser().absolute() for part in text.split(os.pathsep) if part.strip())


FLAG = Kind(parse=_flag, allowed="1 or 0 (also true, false, yes, no, on, off)")
TEXT = Kind(parse=str, allowed="text")
TOKEN = Kind(parse=_token, allowed="printable ASCII without spaces", secret=True)
FOLDER = Kind(parse=lambda text: Path(text).expanduser().absolute(), allowed="a folder")
FOLDERS = Kind(parse=_folders, allowed=f"folders, separated by '{os.pathsep}'")
ORIGINS = Kind(parse=_origins, allowed="origins such as https://app.example, separated by commas, or none; never *")
HOSTS = Kind(parse=_hosts, allowed="names, or name:port, separated by commas; * for every name")
PORT = _integer(0, 65535)
COUNT = _integer(1, 2**31)
TIME = _number(0, "seconds, 0 or more")
IDLE = _number(-1e9, "seconds; negative means for good")


def _setting(name: str, default: Any, kind: Kind, text: str, *, shown: str = "", aliases: tuple[str, ...] = ()) -> Any:
    meta = {"name": PREFIX + name, "kind": kind, "help": text, "shown": shown, "aliases": aliases}
    return field(default=default, metadata=meta)


TAURI_ORIGINS = ("tauri://localhost", "http://tauri.localhost", "https://tauri.localhost")


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The program's settings. Each field carries its variable's name, default and help as data."""

    host: str = _setting("HOST", "127.0.0.1", TEXT, "Address to listen on.")
    port: int = _setting("PORT", 7771, PORT, "Preferred port; the next free one when it is taken, 0 for any free one.")
    token: str = _setting(
        "TOKEN", "", TOKEN, "`Authorization: Bearer` token on everything but the health routes.", aliases=("API_KEY",)
    )
    allowed_hosts: tuple[str, ...] = _setting(
        "ALLOWED_HOSTS", (), HOSTS, "Names in the `Host` header that are served besides the loopback ones."
    )
    allowed_origins: tuple[str, ...] = _setting(
        "ALLOWED_ORIGINS",
        TAURI_ORIGINS,
        ORIGINS,
        "Web origins that may call the server.",
        shown=", ".join(TAURI_ORIGINS),
    )
    health: str = _setting(
        "HEALTH", "text", _choice("text", "json"), "What `/health` answers when the client does not say what it wants."
    )
    drain: float = _setting("DRAIN", 5.0, TIME, "Seconds that running work gets to finish when the server ends.")
    log_level: str = _setting(
        "LOG_LEVEL", "info", _choice("debug", "info", "warning", "error"), "Least severe messages that are logged."
    )
    state_dir: Path | None = _setting(  # noqa: RUF009
        "STATE_DIR", None, FOLDER, "Where a running server leaves its record.", shown="the user's state folder"
    )
    model: str = _setting(
        "MODEL",
        "facebook/nougat-small",
        TEXT,
        "Model for requests that name none: an alias, a hub id or a folder.",
        aliases=("DEFAULT_MODEL",),
    )
    models_dir: Path | None = _setting(  # noqa: RUF009
        "MODELS_DIR", None, FOLDER, "Where downloaded models are kept.", shown="the Hugging Face cache"
    )
    offline: bool = _setting("OFFLINE", False, FLAG, "Never download.", aliases=("HF_HUB_OFFLINE",))
    dtype: str = _setting(
        "DTYPE",
        "",
        _choice("float32", "float16", "bfloat16", "stored"),
        "Precision of the weights in memory.",
        shown="the model's own; float32 on a CPU",
    )
    blas: bool = _setting("BLAS", True, FLAG, "On Linux CPUs, use a system OpenBLAS when there is one.")
    keep_alive: float = _setting(
        "KEEP_ALIVE", 10.0, IDLE, "Seconds that an idle model stays in memory; negative: for good."
    )
    queue: int = _setting("QUEUE", 64, COUNT, "Documents that may be in work or wait; more are refused with 429.")
    max_rows: int | None = _setting("MAX_ROWS", None, COUNT, "Most rows that decode together.", shown="the model's own")
    file_roots: tuple[Path, ...] = _setting(
        "FILE_ROOTS", (), FOLDERS, "Folders that files may be read from.", shown="everywhere"
    )
    fetch_urls: bool = _setting("FETCH_URLS", True, FLAG, "Fetch `http(s)://` documents.")
    fetch_private: bool = _setting(
        "FETCH_PRIVATE", False, FLAG, "Fetch from private, loopback and link-local addresses too."
    )
    fetch_timeout: float = _setting("FETCH_TIMEOUT", _FETCH.timeout, TIME, "Seconds that fetching a URL may take.")
    max_file_mb: int = _setting(
        "MAX_FILE_MB", _PAGES.max_bytes // MEBIBYTE, _integer(1, 4096), "Largest document in MiB."
    )
    max_pixels: int = _setting("MAX_PIXELS", _PAGES.max_pixels, COUNT, "Most pixels of one page, padding included.")
    max_pages: int = _setting("MAX_PAGES", _PAGES.max_pages, COUNT, "Most pages that one request may read.")
    max_page_points: float = _setting(
        "MAX_PAGE_POINTS", _PAGES.max_page_points, _number(1), "Longest side of a PDF page in points (1/72 inch)."
    )
    render_timeout: float = _setting(
        "RENDER_TIMEOUT", _PAGES.render_timeout, TIME, "Seconds that opening a PDF or rendering one page may take."
    )
    render_memory_mb: int = _setting(
        "RENDER_MEMORY_MB",
        _PAGES.memory // MEBIBYTE,
        _integer(128, 2**20),
        "Address space in MiB of the process that renders PDFs (Linux).",
    )

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read every setting from `environ` (None: the process's own). Raises InvalidSetting, which names it."""
        env = os.environ if environ is None else environ
        return cls(**{spec.name: value for spec in fields(cls) for value in _read(spec, env)})

    @property
    def max_body_bytes(self) -> int:
        """The largest request body: the largest document as base64, and some room for the other fields."""
        return self.max_file_mb * MEBIBYTE * 4 // 3 + MEBIBYTE

    def engine_options(self) -> EngineOptions:
        """The part that the engine needs, in its own words. Settles the BLAS: it must be loaded before mlx is."""
        from ocr_mlx.utils.blas import load_blas

        load_blas(self.blas)
        from ocr_mlx.engine.build import EngineOptions

        max_bytes = self.max_file_mb * MEBIBYTE
        return EngineOptions(
            default_model=self.model,
            keep_alive=self.keep_alive,
            offline=self.offline,
            cache_dir=self.models_dir,
            dtype=self.dtype or None,
            queue_limit=self.queue,
            max_rows=self.max_rows,
            fetch=FetchLimits(
                max_bytes=max_bytes,
                timeout=self.fetch_timeout,
                allow_urls=self.fetch_urls,
                allow_private=self.fetch_private,
                file_roots=self.file_roots or None,
            ),
            limits=PageLimits(
                max_bytes=max_bytes,
                max_pixels=self.max_pixels,
                max_pages=self.max_pages,
                max_page_points=self.max_page_points,
                render_timeout=self.render_timeout,
                memory=self.render_memory_mb * MEBIBYTE,
            ),
        )


def _read(spec: Field[Any], env: Mapping[str, str]) -> Iterator[Any]:
    """The setting's value, where a variable that is not empty gives one."""
    kind: Kind = spec.metadata["kind"]
    for name in (spec.metadata["name"], *spec.metadata["aliases"]):
        text = env.get(name, "").strip()
        if not text:
            continue
        try:
            yield kind.parse(text)
        except ValueError:
            shown = "" if kind.secret else f" is '{text}', which"
            raise InvalidSetting(
                f"{name}{shown} is not a value it can have.", hint=f"Allowed: {kind.allowed}."
            ) from None
        return


def table() -> str:
    """The settings as a Markdown table: variable, default, meaning."""
    rows = ["| Variable | Default | Meaning |", "|---|---|---|"]
    for spec in fields(Settings):
        also = "".join(f" Also read as `{alias}`." for alias in spec.metadata["aliases"])
        rows.append(f"| `{spec.metadata['name']}` | {_shown(spec)} | {spec.metadata['help']}{also} |")
    return "\n".join(rows) + "\n"


def _shown(spec: Field[Any]) -> str:
    if spec.metadata["shown"]:
        return str(spec.metadata["shown"])
    value = spec.default
    if value is MISSING or value is None or value in ("", ()):
        return "none"
    if isinstance(value, bool):
        return f"`{int(value)}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


if __name__ == "__main__":
    sys.stdout.write(table())
