"""The settings of the server itself: its address and guards, the default model, the limits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ocr_mlx.pages.fetch import FetchLimits
from ocr_mlx.pages.limits import PageLimits
from ocr_mlx.settings.kinds import (
    COUNT,
    FILE,
    FLAG,
    FOLDER,
    FOLDERS,
    HOSTS,
    IDLE,
    MODEL,
    ORIGINS,
    PORT,
    TEXT,
    TIME,
    TOKEN,
    choice,
    integer,
    number,
    setting,
)
from ocr_mlx.settings.presets import NATIVE, PRESETS

MEBIBYTE = 1024 * 1024
DEFAULT_MODEL = "facebook/nougat-small"
"""What JSON `/ocr`, the command line and Python read with unless told otherwise."""
_FETCH = FetchLimits()
_PAGES = PageLimits()
TAURI_ORIGINS = ("tauri://localhost", "http://tauri.localhost", "https://tauri.localhost")


@dataclass(frozen=True, kw_only=True, slots=True)
class CoreSettings:
    """Address, guards, model, limits."""

    contract: str = setting(
        "CONTRACT",
        "",
        choice(*PRESETS),
        f"Take the defaults of one service ({', '.join(PRESETS)}): its port, `/health`, `/` and model.",
    )
    host: str = setting(
        "HOST", "127.0.0.1", TEXT, "Address to listen on.", contract_aliases=("HOST", "API_HOST", "SERVER_HOST")
    )
    port: int = setting(
        "PORT",
        7771,
        PORT,
        "Preferred port; the next free one when it is taken, 0 for any free one.",
        contract_aliases=("PORT", "API_PORT", "SERVER_PORT", "OCR_BACKEND_PORT"),
    )
    token: str = setting(
        "TOKEN", "", TOKEN, "`Authorization: Bearer` token on everything but the health routes.", aliases=("API_KEY",)
    )
    token_file: Path | None = setting(  # noqa: RUF009
        "TOKEN_FILE", None, FILE, "File whose first line is that token, instead of `OCR_MLX_TOKEN`."
    )
    open: bool = setting(
        "OPEN",
        False,
        FLAG,
        "Serve other machines without a token. Otherwise a server that they can reach makes one for its run, unless one "
        "is set: `token` in the ready line and the record.",
    )
    allowed_hosts: tuple[str, ...] = setting(
        "ALLOWED_HOSTS",
        (),
        HOSTS,
        "Names in the `Host` header that are served besides the loopback ones and, where it listens on all of them, the "
        "machine's own addresses.",
    )
    allowed_origins: tuple[str, ...] = setting(
        "ALLOWED_ORIGINS",
        TAURI_ORIGINS,
        ORIGINS,
        "Web origins that may call the server.",
        shown=", ".join(TAURI_ORIGINS),
    )
    health: str = setting(
        "HEALTH", "text", choice("text", "json"), "What `/health` answers when the client does not say what it wants."
    )
    drain: float = setting("DRAIN", 5.0, TIME, "Seconds that running work gets to finish when the server ends.")
    log_level: str = setting(
        "LOG_LEVEL", "info", choice("debug", "info", "warning", "error"), "Least severe messages that are logged."
    )
    state_dir: Path | None = setting(  # noqa: RUF009
        "STATE_DIR", None, FOLDER, "Where a running server leaves its record.", shown="the user's state folder"
    )
    model: str = setting(
        "MODEL",
        "",
        MODEL,
        "Model for requests that name none: an alias, a hub id or a folder.",
        shown=f"`{DEFAULT_MODEL}` for JSON `/ocr`; elsewhere the service's own",
        aliases=("DEFAULT_MODEL",),
    )
    models_dir: Path | None = setting(  # noqa: RUF009
        "MODELS_DIR",
        None,
        FOLDER,
        "Where downloaded models are kept.",
        shown="the Hugging Face cache",
        aliases=("MODELS_DIR", "MODEL_CACHE_DIR"),
    )
    offline: bool = setting("OFFLINE", False, FLAG, "Never download.", aliases=("HF_HUB_OFFLINE",))
    dtype: str = setting(
        "DTYPE",
        "",
        choice("float32", "float16", "bfloat16", "stored"),
        "Precision of the weights in memory.",
        shown="the model's own; float32 on a CPU",
    )
    blas: bool = setting("BLAS", True, FLAG, "On Linux CPUs, use a system OpenBLAS when there is one.")
    keep_alive: float = setting(
        "KEEP_ALIVE",
        10.0,
        IDLE,
        "Seconds that an idle model stays in memory; negative: until another one needs the room.",
    )
    queue: int = setting("QUEUE", 64, COUNT, "Documents that may be in work or wait; more are refused with 429.")
    max_rows: int | None = setting("MAX_ROWS", None, COUNT, "Most rows that decode together.", shown="the model's own")
    deterministic: bool = setting(
        "DETERMINISTIC",
        False,
        FLAG,
        "Decode in batches of one fixed width and without drafts, so that a page's text never depends on its neighbours.",
    )
    drafts: bool = setting(
        "DRAFTS",
        True,
        FLAG,
        "Let a PDF's own words propose tokens, which greedy decoding verifies; the text stays the same.",
    )
    timeout: float | None = setting(
        "TIMEOUT",
        None,
        TIME,
        "Seconds that one request may take once its model is loaded; jobs have their own.",
        shown="no limit",
    )
    memory_mb: int | None = setting(
        "MEMORY_MB",
        None,
        integer(64, 2**30),
        "Memory in MiB that the weights of models may fill together; the least recently used goes first.",
        shown="three quarters of what the device works best within",
    )
    page_cache_mb: int = setting(
        "PAGE_CACHE_MB", 16, integer(0, 2**20), "Memory in MiB for results of pages that may come again; 0 keeps none."
    )
    page_cache_dir: Path | None = setting(  # noqa: RUF009
        "PAGE_CACHE_DIR",
        None,
        FOLDER,
        "Keep results of pages, which are text, in this folder too.",
        shown="not on disk",
    )
    page_cache_ttl: float = setting(
        "PAGE_CACHE_TTL", 86_400.0, TIME, "Seconds that a page's result stays in that folder."
    )
    log_format: str = setting("LOG_FORMAT", "text", choice("text", "json"), "How log lines are written.")
    file_roots: tuple[Path, ...] = setting(
        "FILE_ROOTS", (), FOLDERS, "Folders that files may be read from.", shown="everywhere"
    )
    fetch_urls: bool = setting("FETCH_URLS", True, FLAG, "Fetch `http(s)://` documents.")
    fetch_private: bool = setting(
        "FETCH_PRIVATE", False, FLAG, "Fetch from private, loopback and link-local addresses too."
    )
    fetch_timeout: float = setting("FETCH_TIMEOUT", _FETCH.timeout, TIME, "Seconds that fetching a URL may take.")
    max_file_mb: int = setting(
        "MAX_FILE_MB", _PAGES.max_bytes // MEBIBYTE, integer(1, 4096), "Largest document in MiB."
    )
    max_pixels: int = setting("MAX_PIXELS", _PAGES.max_pixels, COUNT, "Most pixels of one page, padding included.")
    max_pages: int = setting("MAX_PAGES", _PAGES.max_pages, COUNT, "Most pages that one request may read.")
    max_page_points: float = setting(
        "MAX_PAGE_POINTS", _PAGES.max_page_points, number(1), "Longest side of a PDF page in points (1/72 inch)."
    )
    render_timeout: float = setting(
        "RENDER_TIMEOUT", _PAGES.render_timeout, TIME, "Seconds that opening a document or rendering one page may take."
    )
    render_processes: int = setting(
        "RENDER_PROCESSES",
        2,
        integer(1, 16),
        "Processes that decode images and render PDFs; each starts when it is needed.",
    )
    render_memory_mb: int = setting(
        "RENDER_MEMORY_MB",
        _PAGES.memory // MEBIBYTE,
        integer(128, 2**20),
        "Address space in MiB of each such process (Linux).",
    )

    @property
    def default_model(self) -> str:
        """What JSON `/ocr`, the command line and Python read with when they name no model."""
        return self.model or NATIVE.get(self.contract, DEFAULT_MODEL)
