"""The environment of the OCR API service, as its users have it in their `.env` or compose file."""

from __future__ import annotations

from pathlib import Path

import pytest

from ocr_mlx.settings import InvalidSetting, Settings

THEIRS = {
    "API_HOST": "0.0.0.0",
    "API_PORT": "8001",
    "DEBUG": "false",
    "REDIS_HOST": "redis",
    "REDIS_PORT": "6380",
    "REDIS_DB": "1",
    "MODELS_DIR": "/app/data/models",
    "UPLOADS_DIR": "/app/data/uploads",
    "DEFAULT_MODEL": "got",
    "JOB_TIMEOUT": "1200",
    "JOB_RESULT_TTL": "7200",
    "WEBHOOK_TIMEOUT": "10",
    "WEBHOOK_MAX_RETRIES": "3",
    "PRELOAD_MODELS": '["deepseek"]',
}


def test_the_services_own_names_are_read() -> None:
    found = Settings.from_env(THEIRS, contract="jobs")
    assert (found.host, found.port) == ("0.0.0.0", 8001)
    assert (found.redis_url, found.default_model) == ("redis://redis:6380/1", "got")
    assert (found.models_dir, found.jobs_dir) == (Path("/app/data/models"), Path("/app/data/uploads"))
    assert (found.job_timeout, found.job_ttl) == (1200.0, 7200.0)
    assert (found.webhook_timeout, found.webhook_retries) == (10.0, 3)
    options = found.job_options()
    assert (options.folder, options.page_seconds, options.ttl) == (Path("/app/data/uploads"), 1200.0, 7200.0)
    assert (options.webhooks.timeout, options.webhooks.retries) == (10.0, 3)


def test_without_them_it_is_as_the_services_readme_says() -> None:
    found = Settings.from_env({}, contract="jobs")
    assert (found.port, found.default_model, found.health, found.redis_url) == (8000, "qari", "json", "")
    assert (found.job_timeout, found.job_ttl, found.webhook_timeout, found.job_image_mb) == (300.0, 3600.0, 30.0, 50.0)
    assert found.host == "127.0.0.1", "but never open to others unless it is told so"


def test_a_redis_host_may_be_an_ipv6_address() -> None:
    assert Settings.from_env({"REDIS_HOST": "fd00::7"}).redis_url == "redis://[fd00::7]:6379/0"
    assert Settings.from_env({"REDIS_HOST": "[fd00::7]", "REDIS_DB": "3"}).redis_url == "redis://[fd00::7]:6379/3"


def test_parts_do_not_matter_where_the_whole_is_given() -> None:
    parts = {"REDIS_HOST": "redis", "REDIS_PORT": "tcp://10.96.0.1:6379", "OCR_MLX_REDIS_URL": "redis://own/0"}
    assert Settings.from_env(parts).redis_url == "redis://own/0"


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        # As Kubernetes sets it by itself.
        ({"REDIS_HOST": "redis", "REDIS_PORT": "tcp://10.96.0.1:6379"}, "REDIS_PORT"),
        ({"REDIS_HOST": "redis", "REDIS_DB": "jobs"}, "REDIS_DB"),
        ({"OCR_MLX_REDIS_URL": "redis://redis:99999/0"}, "OCR_MLX_REDIS_URL"),
        ({"OCR_MLX_REDIS_URL": "redis://redis:port/0"}, "OCR_MLX_REDIS_URL"),
    ],
)
def test_a_wrong_part_of_redis_address_is_named(environ: dict[str, str], name: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        Settings.from_env(environ)
    assert caught.value.message.startswith(name) and caught.value.hint.startswith("Allowed: ")
