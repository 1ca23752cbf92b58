"""Every setting, read once from the environment into one frozen value. Nothing else reads the environment.

`python -m ocr_mlx.settings` prints the table of settings in Markdown.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from typing import TYPE_CHECKING, Any

from ocr_mlx.pages.fetch import FetchLimits
from ocr_mlx.pages.limits import PageLimits
from ocr_mlx.settings.core import DEFAULT_MODEL, MEBIBYTE, TAURI_ORIGINS
from ocr_mlx.settings.kinds import PREFIX, InvalidSetting, Kind
from ocr_mlx.settings.presets import ABOUT, DEEPSEEK_MODES, HEALTHY, NATIVE, PRESETS
from ocr_mlx.settings.services import ServiceSettings
from ocr_mlx.settings.token_file import read_token

if TYPE_CHECKING:
    from ocr_mlx.engine.build import EngineOptions
    from ocr_mlx.engine.remote import RemoteOptions
    from ocr_mlx.jobs.options import JobOptions

__all__ = [
    "ABOUT",
    "DEEPSEEK_MODES",
    "DEFAULT_MODEL",
    "HEALTHY",
    "NATIVE",
    "PRESETS",
    "TAURI_ORIGINS",
    "InvalidSetting",
    "Settings",
    "table",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings(ServiceSettings):
    """The program's settings. Each field carries its variable's name, default and help as data."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, *, contract: str = "") -> Settings:
        """Read every setting from `environ` (None: the process's own); `contract` stands above OCR_MLX_CONTRACT.

        Raises InvalidSetting, which names the variable.
        """
        env = dict(os.environ if environ is None else environ)
        if contract:
            env["OCR_MLX_CONTRACT"] = contract
        for name, value in _redis(env).items():
            env.setdefault(name, value)
        given = {spec.name: value for spec in fields(cls) for value in _read(spec, env)}
        if "token_file" in given:
            if env.get("OCR_MLX_TOKEN", "").strip():
                raise InvalidSetting("OCR_MLX_TOKEN and OCR_MLX_TOKEN_FILE are both set.", hint="Set one of them.")
            given["token"] = read_token(given["token_file"])
        return cls(**given)

    @classmethod
    def unknown(cls, environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
        """Variables that look like settings and are none: somebody's slip."""
        env = os.environ if environ is None else environ
        known = {spec.metadata["name"] for spec in fields(cls)}
        return tuple(sorted(name for name in env if name.startswith(PREFIX) and name not in known))

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
            default_model=self.default_model,
            keep_alive=self.keep_alive,
            offline=self.offline,
            cache_dir=self.models_dir,
            dtype=self.dtype or None,
            queue_limit=self.queue,
            max_rows=self.max_rows,
            deterministic=self.deterministic,
            drafts=self.drafts,
            timeout=self.timeout,
            memory=self.memory_mb * MEBIBYTE if self.memory_mb is not None else None,
            page_cache_bytes=self.page_cache_mb * MEBIBYTE,
            page_cache_dir=self.page_cache_dir,
            page_cache_ttl=self.page_cache_ttl,
            render_processes=self.render_processes,
            fetch=FetchLimits(
                max_bytes=max_bytes,
                timeout=self.fetch_timeout,
                allow_urls=self.fetch_urls,
                allow_private=self.fetch_private,
                file_roots=self.file_roots or None,
            ),
            trusted=frozenset(
                str(one) for one in (self.model, self.model_name, self.deepseek_model, self.models_dir) if one
            ),
            remote=self.remote_options(),
            limits=PageLimits(
                max_bytes=max_bytes,
                max_pixels=self.max_pixels,
                max_pages=self.max_pages,
                max_page_points=self.max_page_points,
                render_timeout=self.render_timeout,
                memory=self.render_memory_mb * MEBIBYTE,
            ),
        )

    def remote_options(self) -> RemoteOptions:
        """Which engines elsewhere may be asked, and how: those of the list, and those of the models that are set."""
        from ocr_mlx.engine.remote import RemoteOptions, engine_names

        named = (engine_names(name) for name in (self.default_model, self.model_name))
        return RemoteOptions(
            endpoint=self.remote_endpoint,
            key=self.remote_key,
            at_once=self.remote_at_once,
            timeout=self.remote_timeout,
            hosts=frozenset(self.remote_hosts).union(*named),
        )

    def job_options(self) -> JobOptions:
        """The part that jobs need, in their own words."""
        from ocr_mlx.jobs.options import JobOptions
        from ocr_mlx.utils.records import state_folder

        return JobOptions(
            folder=self.jobs_dir or state_folder(self.state_dir) / "jobs",
            redis_url=self.redis_url,
            page_seconds=self.job_timeout,
            ttl=self.job_ttl,
            most_waiting=self.job_queue,
            at_once=self.jobs_at_once,
            drain=self.drain,
            webhook_timeout=self.webhook_timeout,
            webhook_retries=self.webhook_retries,
            webhook_secret=self.webhook_secret,
            webhook_private=self.webhook_private,
        )


def _redis(env: Mapping[str, str]) -> dict[str, str]:
    """REDIS_HOST, REDIS_PORT and REDIS_DB as one address. Raises InvalidSetting, which names the part."""
    host = env.get("REDIS_HOST", "").strip()
    if not host or env.get("OCR_MLX_REDIS_URL"):
        return {}
    port, database = env.get("REDIS_PORT", "").strip() or "6379", env.get("REDIS_DB", "").strip() or "0"
    for name, text in (("REDIS_PORT", port), ("REDIS_DB", database)):
        if not text.isdecimal():
            raise InvalidSetting(
                f"{name} is '{text}', which is not a value it can have.", hint="Allowed: a whole number."
            )
    shown = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return {"OCR_MLX_REDIS_URL": f"redis://{shown}:{port}/{database}"}


def _read(spec: Field[Any], env: Mapping[str, str]) -> Iterator[Any]:
    """The setting's value, where a variable that is not empty, or the contract, gives one."""
    kind: Kind = spec.metadata["kind"]
    own, contract = spec.metadata["name"], env.get("OCR_MLX_CONTRACT", "").strip().lower()
    names = (own, *spec.metadata["aliases"], *(spec.metadata["contract_aliases"] if contract else ()))
    given = ((name, env.get(name, "").strip()) for name in names)
    preset = ((own, text) for text in (PRESETS.get(contract, {}).get(own, ""),))
    for name, text in (*given, *preset):
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
        also = _also("Also read as", spec.metadata["aliases"])
        also += _also("With a contract also", spec.metadata["contract_aliases"])
        rows.append(f"| `{spec.metadata['name']}` | {_shown(spec)} | {spec.metadata['help']}{also} |")
    return "\n".join(rows) + "\n"


def _also(words: str, names: Sequence[str]) -> str:
    return f" {words} {', '.join(f'`{name}`' for name in names)}." if names else ""


def _shown(spec: Field[Any]) -> str:
    if spec.metadata["shown"]:
        return str(spec.metadata["shown"])
    value = spec.default
    if value is MISSING or value is None or value in ("", ()):
        return "none"
    if isinstance(value, bool):
        return f"`{int(value)}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"
