"""The settings of jobs, of engines elsewhere, and of the services whose users move over."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ocr_mlx.settings.core import CoreSettings
from ocr_mlx.settings.kinds import (
    ANY_ORIGINS,
    COUNT,
    ENGINE,
    FLAG,
    FOLDER,
    HOSTS,
    MODEL,
    PROMPT,
    REDIS,
    TEXT,
    TIME,
    TOKEN,
    choice,
    integer,
    number,
    setting,
)

MEGABYTES = number(0.001, "a number of MiB")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceSettings(CoreSettings):
    """Jobs, remote engines, and what is particular to one service."""

    job_timeout: float = setting(
        "JOB_TIMEOUT", 300.0, TIME, "Seconds that a job may decode, for each of its pages.", aliases=("JOB_TIMEOUT",)
    )
    job_ttl: float = setting(
        "JOB_TTL", 3600.0, TIME, "Seconds that a job's record outlives its end.", aliases=("JOB_RESULT_TTL",)
    )
    job_queue: int = setting("JOB_QUEUE", 1000, COUNT, "Jobs that may wait; more are refused with 429.")
    jobs_at_once: int = setting("JOBS_AT_ONCE", 4, integer(1, 64), "Jobs that this server reads side by side.")
    job_image_mb: float = setting("JOB_IMAGE_MB", 50.0, MEGABYTES, "Largest picture in MiB for a job.")
    jobs_dir: Path | None = setting(  # noqa: RUF009
        "JOBS_DIR",
        None,
        FOLDER,
        "Where jobs and their documents are kept until they are done.",
        shown="`jobs` in the state folder",
        aliases=("UPLOADS_DIR",),
    )
    redis_url: str = setting(
        "REDIS_URL",
        "",
        REDIS,
        "Keep jobs in this Redis, and leave reading to `ocr_mlx worker`s: `redis://host:6379/0`. "
        "Also read as `REDIS_HOST`, `REDIS_PORT` and `REDIS_DB`.",
    )
    webhook_timeout: float = setting(
        "WEBHOOK_TIMEOUT", 30.0, TIME, "Seconds that a webhook may take to answer.", aliases=("WEBHOOK_TIMEOUT",)
    )
    webhook_retries: int = setting(
        "WEBHOOK_RETRIES",
        5,
        integer(0, 20),
        "Attempts after the first failed one, with growing delays.",
        aliases=("WEBHOOK_MAX_RETRIES",),
    )
    webhook_secret: str = setting(
        "WEBHOOK_SECRET", "", TOKEN, "Signs webhooks: `X-OCR-MLX-Signature: sha256=...` (HMAC of `timestamp.body`)."
    )
    webhook_private: bool = setting("WEBHOOK_PRIVATE", False, FLAG, "Deliver to private and loopback addresses too.")
    model_source: str = setting(
        "MODEL_SOURCE",
        "huggingface",
        choice("huggingface", "vllm"),
        "`vllm`: read with the engine at the endpoint below instead of on this machine.",
        aliases=("MODEL_SOURCE",),
    )
    remote_endpoint: str = setting(
        "REMOTE_ENDPOINT",
        "http://localhost:8001/v1",
        ENGINE,
        "OpenAI-style engine for `vllm`.",
        aliases=("VLLM_ENDPOINT",),
    )
    remote_key: str = setting("REMOTE_KEY", "", TOKEN, "Bearer token for that engine.")
    remote_hosts: tuple[str, ...] = setting(
        "REMOTE_HOSTS",
        ("api.openai.com", "localhost:1234", "127.0.0.1:1234"),
        HOSTS,
        "Engines that requests may name (`/llm/ocr`, `openai+http://...`), besides the configured one.",
        shown="api.openai.com, localhost:1234, 127.0.0.1:1234",
    )
    remote_at_once: int = setting("REMOTE_AT_ONCE", 8, integer(1, 1024), "Pages that a remote engine gets at a time.")
    remote_timeout: float = setting("REMOTE_TIMEOUT", 300.0, TIME, "Seconds that a remote engine may take for a page.")
    model_name: str = setting(
        "MODEL_NAME",
        "",
        MODEL,
        "Model for the service whose family it belongs to (`/api/inference`, `/api/ocr`).",
        aliases=("MODEL_NAME",),
    )
    project_name: str = setting("PROJECT_NAME", "", TEXT, "Name that `/` tells.", aliases=("PROJECT_NAME",))
    device: str = setting(
        "DEVICE", "", TEXT, "Told by `/info`; the engine takes what the machine has.", aliases=("DEVICE",)
    )
    lighton_max_mb: float = setting(
        "LIGHTON_MAX_MB", 10.0, MEGABYTES, "Largest document in MiB at `/api/inference`.", aliases=("MAX_FILE_SIZE_MB",)
    )
    deepseek_max_mb: float = setting(
        "DEEPSEEK_MAX_MB", 15.0, MEGABYTES, "Largest document in MiB at `/api/ocr`.", aliases=("DEEPSEEK_MAX_IMAGE_MB",)
    )
    deepseek_model: Path | None = setting(  # noqa: RUF009
        "DEEPSEEK_MODEL", None, FOLDER, "Folder of DeepSeek-OCR's weights.", aliases=("DEEPSEEK_OCR_MODEL_PATH",)
    )
    deepseek_prompt: str = setting(
        "DEEPSEEK_PROMPT",
        "<image>\n<|grounding|>Convert the document to markdown.",
        PROMPT,
        "Prompt at `/api/ocr` when the request has none.",
        shown="`<image>\\n<\\|grounding\\|>Convert the document to markdown.`",
        aliases=("DEEPSEEK_OCR_DEFAULT_PROMPT",),
    )
    deepseek_origins: tuple[str, ...] = setting(
        "DEEPSEEK_ORIGINS",
        (),
        ANY_ORIGINS,
        "Web origins that may call `/api/*` besides the allowed ones; `*` for every one, without credentials.",
        shown="none; under its contract `http://localhost:5173`",
        aliases=("DEEPSEEK_ALLOWED_ORIGINS",),
    )
    deepseek_attention: str = setting(
        "DEEPSEEK_ATTENTION", "", TEXT, "Accepted, no effect.", aliases=("DEEPSEEK_ATTN_IMPL",)
    )
    history_dir: Path | None = setting(  # noqa: RUF009
        "HISTORY_DIR",
        None,
        FOLDER,
        "Where `/api/history` is kept.",
        shown="`runs` in the state folder",
        aliases=("DEEPSEEK_OCR_RUNS_DIR",),
    )
    history_ttl: float = setting(
        "HISTORY_TTL", 7 * 86400.0, TIME, "Seconds that `/api/history` keeps a document; 0 keeps none."
    )
