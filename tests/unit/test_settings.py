from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ocr_mlx.pages.fetch import FetchLimits
from ocr_mlx.pages.limits import PageLimits
from ocr_mlx.settings import TAURI_ORIGINS, InvalidSetting, Settings, table

SOURCE = Path(__file__).resolve().parents[2] / "src" / "ocr_mlx"


def test_an_empty_environment_gives_the_defaults() -> None:
    assert Settings.from_env({}) == Settings()
    assert Settings.from_env({"OCR_MLX_PORT": "", "OCR_MLX_MODEL": "  "}) == Settings()


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("OCR_MLX_PORT", "0", "port", 0),
        ("OCR_MLX_HOST", " 0.0.0.0 ", "host", "0.0.0.0"),
        ("OCR_MLX_FETCH_URLS", "off", "fetch_urls", False),
        ("OCR_MLX_FETCH_PRIVATE", "TRUE", "fetch_private", True),
        ("OCR_MLX_KEEP_ALIVE", "-1", "keep_alive", -1.0),
        ("OCR_MLX_MAX_ROWS", "4", "max_rows", 4),
        ("OCR_MLX_DTYPE", "Float16", "dtype", "float16"),
        ("OCR_MLX_FILE_ROOTS", f"/a{os.pathsep}/b", "file_roots", (Path("/a"), Path("/b"))),
        ("OCR_MLX_ALLOWED_HOSTS", "Ocr.Example, b:80,", "allowed_hosts", ("ocr.example", "b:80")),
        ("OCR_MLX_ALLOWED_ORIGINS", "https://App.example/", "allowed_origins", ("https://app.example",)),
        ("OCR_MLX_ALLOWED_ORIGINS", "none", "allowed_origins", ()),
        ("OCR_MLX_ALLOWED_ORIGINS", "file://, http://b:1", "allowed_origins", ("file://", "http://b:1")),
        ("OCR_MLX_OPEN", "1", "open", True),
        ("OCR_MLX_RENDER_PROCESSES", "16", "render_processes", 16),
        ("DEFAULT_MODEL", "builtin", "model", "builtin"),
        ("API_KEY", "k", "token", "k"),
        ("MODEL_CACHE_DIR", "/m", "models_dir", Path("/m")),
        ("UPLOADS_DIR", "/u", "jobs_dir", Path("/u")),
        ("JOB_TIMEOUT", "20", "job_timeout", 20.0),
        ("MODEL_SOURCE", "vllm", "model_source", "vllm"),
        (
            "VLLM_ENDPOINT",
            "http://gpu:8001/v1/chat/completions",
            "remote_endpoint",
            "http://gpu:8001/v1/chat/completions",
        ),
        ("MAX_FILE_SIZE_MB", "2.5", "lighton_max_mb", 2.5),
        ("DEEPSEEK_OCR_DEFAULT_PROMPT", "<image>\\nRead.", "deepseek_prompt", "<image>\nRead."),
        ("DEEPSEEK_ALLOWED_ORIGINS", "*", "deepseek_origins", ("*",)),
        ("DEEPSEEK_ALLOWED_ORIGINS", "http://a, http://b", "deepseek_origins", ("http://a", "http://b")),
        ("DEEPSEEK_ATTN_IMPL", "eager", "deepseek_attention", "eager"),
        ("REDIS_HOST", "r", "redis_url", "redis://r:6379/0"),
    ],
)
def test_a_variable_sets_its_field(name: str, text: str, field: str, value: object) -> None:
    assert getattr(Settings.from_env({name: text}), field) == value


def test_the_products_own_name_wins_over_an_alias() -> None:
    assert Settings.from_env({"API_KEY": "theirs", "OCR_MLX_TOKEN": "ours"}).token == "ours"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("OCR_MLX_PORT", "70000"),
        ("OCR_MLX_PORT", "http"),
        ("OCR_MLX_FETCH_URLS", "maybe"),
        ("OCR_MLX_KEEP_ALIVE", "nan"),
        ("OCR_MLX_DRAIN", "-1"),
        ("OCR_MLX_HEALTH", "xml"),
        ("OCR_MLX_QUEUE", "0"),
        ("OCR_MLX_ALLOWED_ORIGINS", "*"),
        ("OCR_MLX_ALLOWED_ORIGINS", "app.example"),
        ("OCR_MLX_ALLOWED_ORIGINS", "null"),
        ("OCR_MLX_ALLOWED_ORIGINS", "https://*"),
        ("OCR_MLX_ALLOWED_ORIGINS", "https://app.example/page"),
        ("OCR_MLX_ALLOWED_ORIGINS", "https://me@app.example"),
        ("OCR_MLX_RENDER_PROCESSES", "17"),
        ("OCR_MLX_ALLOWED_HOSTS", "http://a"),
        ("OCR_MLX_RENDER_TIMEOUT", "soon"),
        ("OCR_MLX_CONTRACT", "sixth"),
        ("DEEPSEEK_ALLOWED_ORIGINS", "a, *"),
    ],
)
def test_a_wrong_value_names_its_variable_and_what_is_right(name: str, text: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        Settings.from_env({name: text})
    assert name in caught.value.message and text in caught.value.message and caught.value.hint


def test_a_contract_changes_defaults_and_nothing_that_was_said() -> None:
    nuno = Settings.from_env({}, contract="nuno")
    assert (nuno.contract, nuno.port, nuno.health, nuno.host) == ("nuno", 8765, "json", "127.0.0.1")
    assert nuno.default_model == "deepseek-ai/DeepSeek-OCR" and nuno.model == ""
    said = {"OCR_MLX_CONTRACT": "lighton", "OCR_MLX_PORT": "1234", "DEFAULT_MODEL": "builtin"}
    assert Settings.from_env(said).port == 1234 and Settings.from_env(said).default_model == "builtin"
    assert Settings.from_env(said, contract="jobs").contract == "jobs"


@pytest.mark.parametrize(
    ("name", "field", "text", "value"), [("PORT", "port", "9000", 9000), ("HOST", "host", "::1", "::1")]
)
def test_bare_names_count_only_under_a_contract(name: str, field: str, text: str, value: object) -> None:
    assert getattr(Settings.from_env({name: text}), field) == getattr(Settings(), field)
    assert getattr(Settings.from_env({name: text}, contract="nuno"), field) == value


def test_redis_may_come_in_parts() -> None:
    parts = {"REDIS_HOST": "r", "REDIS_PORT": "7000", "REDIS_DB": "2"}
    assert Settings.from_env(parts).redis_url == "redis://r:7000/2"
    assert Settings.from_env(parts | {"OCR_MLX_REDIS_URL": "redis://own:1/0"}).redis_url == "redis://own:1/0"
    assert Settings.from_env({"REDIS_PORT": "7000"}).redis_url == ""


@pytest.mark.parametrize("name", ["OCR_MLX_TOKEN", "API_KEY", "OCR_MLX_REDIS_URL", "OCR_MLX_WEBHOOK_SECRET"])
def test_a_wrong_secret_is_not_repeated(name: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        Settings.from_env({name: "two words"})
    assert name in str(caught.value) and "two" not in str(caught.value)


@pytest.mark.parametrize("name", ["VLLM_ENDPOINT", "DEFAULT_MODEL", "MODEL_NAME"])
@pytest.mark.parametrize("address", ["http://me:s3cret@gpu/v1", "gpu:8000/v1", "http://gpu:99999/v1", "ftp://gpu/v1"])
def test_a_wrong_address_of_an_engine_is_told_at_the_start_and_not_repeated(name: str, address: str) -> None:
    text = address if name == "VLLM_ENDPOINT" else f"openai+{address}#model"
    with pytest.raises(InvalidSetting) as caught:
        Settings.from_env({name: text})
    assert name in caught.value.message and "http://host:8000/v1" in caught.value.hint
    assert "s3cret" not in str(caught.value)


def test_an_engines_model_has_a_name_and_its_prefix_one_spelling() -> None:
    with pytest.raises(InvalidSetting):
        Settings.from_env({"OCR_MLX_MODEL": "openai+http://gpu:8000/v1"})
    assert Settings.from_env({"OCR_MLX_MODEL": "OpenAI+http://gpu/v1#M"}).model == "openai+http://gpu/v1#M"


@pytest.mark.parametrize("content", ["s3cret", "s3cret\n", " s3cret \r\nmore\n"])
def test_a_token_may_come_in_a_file(tmp_path: Path, content: str) -> None:
    file = tmp_path / "token"
    file.write_bytes(content.encode())
    for others in ({}, {"API_KEY": "theirs"}):
        settings = Settings.from_env({"OCR_MLX_TOKEN_FILE": str(file), **others})
        assert (settings.token, settings.token_file) == ("s3cret", file)


@pytest.mark.parametrize("content", [b"", b"\ns3cret", b"two words", b"\xff\xfe", b"\x00", b"s\xc3\xa9cret"])
def test_a_file_without_a_token_is_told_without_its_content(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(InvalidSetting, match="OCR_MLX_TOKEN_FILE") as caught:
        Settings.from_env({"OCR_MLX_TOKEN_FILE": str(file)})
    assert "cret" not in str(caught.value) and "two" not in str(caught.value) and str(tmp_path) not in str(caught.value)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(InvalidSetting, match="cannot be read") as caught:
            Settings.from_env({"OCR_MLX_TOKEN_FILE": str(path)})
        assert str(tmp_path) not in str(caught.value)


def test_one_token_is_enough(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="both set"):
        Settings.from_env({"OCR_MLX_TOKEN_FILE": str(tmp_path), "OCR_MLX_TOKEN": "t"})


def test_secrets_stay_out_of_what_is_printed() -> None:
    settings = Settings.from_env(
        {name: "http" for name in ("OCR_MLX_TOKEN", "OCR_MLX_WEBHOOK_SECRET", "OCR_MLX_REMOTE_KEY")}
    )
    assert "token=" not in repr(settings) and "secret" not in repr(settings) and "remote_key" not in repr(settings)


def test_limits_default_to_those_of_the_pages() -> None:
    settings, fetch, pages = Settings(), FetchLimits(), PageLimits()
    assert settings.max_file_mb * 1024 * 1024 == fetch.max_bytes == pages.max_bytes
    assert (settings.fetch_timeout, settings.max_pages, settings.max_pixels) == (
        fetch.timeout,
        pages.max_pages,
        pages.max_pixels,
    )
    assert settings.render_memory_mb * 1024 * 1024 == pages.memory


def test_every_setting_reaches_the_engine() -> None:
    options = Settings.from_env(
        {
            "OCR_MLX_MODEL": "builtin",
            "OCR_MLX_KEEP_ALIVE": "3",
            "OCR_MLX_OFFLINE": "1",
            "OCR_MLX_MODELS_DIR": "/models",
            "OCR_MLX_DTYPE": "bfloat16",
            "OCR_MLX_QUEUE": "5",
            "OCR_MLX_MAX_ROWS": "6",
            "OCR_MLX_BLAS": "0",
            "OCR_MLX_MAX_FILE_MB": "7",
            "OCR_MLX_FETCH_TIMEOUT": "8",
            "OCR_MLX_FETCH_URLS": "0",
            "OCR_MLX_FETCH_PRIVATE": "1",
            "OCR_MLX_FILE_ROOTS": "/a",
            "OCR_MLX_MAX_PIXELS": "9",
            "OCR_MLX_MAX_PAGES": "10",
            "OCR_MLX_MAX_PAGE_POINTS": "11",
            "OCR_MLX_RENDER_TIMEOUT": "12",
            "OCR_MLX_RENDER_MEMORY_MB": "256",
            "OCR_MLX_RENDER_PROCESSES": "3",
        }
    ).engine_options()
    assert (options.default_model, options.keep_alive, options.offline, options.cache_dir) == (
        "builtin",
        3.0,
        True,
        Path("/models"),
    )
    assert (options.dtype, options.queue_limit, options.max_rows) == ("bfloat16", 5, 6)
    assert options.render_processes == 3
    assert options.fetch == FetchLimits(
        max_bytes=7 * 1024 * 1024, timeout=8.0, allow_urls=False, allow_private=True, file_roots=(Path("/a"),)
    )
    assert options.limits == PageLimits(
        max_bytes=7 * 1024 * 1024,
        max_pixels=9,
        max_pages=10,
        max_page_points=11.0,
        render_timeout=12.0,
        memory=256 * 1024 * 1024,
    )


def test_nothing_else_set_means_the_engines_own_choice() -> None:
    options = Settings().engine_options()
    assert (options.dtype, options.max_rows, options.cache_dir, options.fetch.file_roots) == (None, None, None, None)


def test_the_table_has_a_row_for_every_setting() -> None:
    rows = re.findall(r"^\| `(OCR_MLX_\w+)` \| (.+?) \| (.+) \|$", table(), re.MULTILINE)
    assert [name for name, _, _ in rows] == [spec.metadata["name"] for spec in dataclasses.fields(Settings)]
    assert all(meaning.endswith(".") for _, _, meaning in rows)
    assert set(TAURI_ORIGINS) <= set(re.split(r"[ ,|]+", table()))


def test_the_module_prints_the_table() -> None:
    printed = subprocess.run([sys.executable, "-m", "ocr_mlx.settings"], capture_output=True, text=True, check=True)
    assert printed.stdout == table()


def test_no_setting_is_dead() -> None:
    """Every field is read somewhere, by its name, or says that it has no effect."""
    code = "\n".join(path.read_text("utf-8") for path in SOURCE.rglob("*.py"))
    living = [spec.name for spec in dataclasses.fields(Settings) if "no effect" not in spec.metadata["help"]]
    unread = [name for name in living if not re.search(rf"(settings|self|over)\.{name}\b", code)]
    assert not unread


def test_nobody_else_reads_the_environment() -> None:
    readers = [
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        if re.search(r"os\.environ|os\.getenv|from os import environ", path.read_text("utf-8"))
    ]
    # The client is a program of its own; a page process gets the little of the environment that Python needs.
    assert sorted(readers) == ["client/locate.py", "pages/process.py", "settings/__init__.py"]


def test_a_slip_in_a_name_is_found() -> None:
    assert Settings.unknown({"OCR_MLX_MODLE": "x", "OCR_MLX_MODEL": "y", "PATH": "/"}) == ("OCR_MLX_MODLE",)
