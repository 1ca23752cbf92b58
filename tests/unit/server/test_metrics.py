from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from ocr_mlx.domain import PageResult, PageStatus
from ocr_mlx.observer import Observer
from ocr_mlx.server.app import create_app
from ocr_mlx.server.metrics import Metrics
from ocr_mlx.settings import Settings
from tests.wire.fakes import FakeService, context, page

Sample = Callable[..., float | None]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("1.2.3")


def sample(metrics: Metrics, name: str, **labels: str) -> float | None:
    """What a scrape shows under this name with these labels; None where there is no such line."""
    for family in text_string_to_metric_families(metrics.text().decode()):
        for found in family.samples:
            if found.name == name and found.labels == labels:
                return found.value
    return None


def test_it_is_an_observer(metrics: Metrics) -> None:
    told: Observer = metrics
    told.document_started()
    told.document_done("", 0.1)


def test_documents_by_outcome(metrics: Metrics) -> None:
    for error in ("", "", "queue_full", "what a caller wrote"):
        metrics.document_started()
        metrics.document_done(error, 0.5)
    metrics.document_started()
    assert sample(metrics, "ocr_mlx_documents_total", outcome="ok") == 2
    assert sample(metrics, "ocr_mlx_documents_total", outcome="queue_full") == 1
    assert sample(metrics, "ocr_mlx_documents_total", outcome="error") == 1
    assert sample(metrics, "ocr_mlx_documents_in_work") == 1
    assert sample(metrics, "ocr_mlx_document_seconds_count") == 4
    assert "caller" not in metrics.text().decode()


def test_pages_tokens_speed_and_drafts(metrics: Metrics) -> None:
    metrics.loaded("org/model", 1000, 2.0)
    read = page(prompt_tokens=3, generated_tokens=50, seconds=0.5, drafted=40, accepted=30)
    metrics.page_done("org/model", read, 0.2)
    metrics.page_done("org/model", PageResult(index=1, status=PageStatus.BLANK), None)
    assert sample(metrics, "ocr_mlx_pages_total", model="org/model", status="ok") == 1
    assert sample(metrics, "ocr_mlx_pages_total", model="org/model", status="blank") == 1
    assert sample(metrics, "ocr_mlx_tokens_total", kind="prompt") == 3
    assert sample(metrics, "ocr_mlx_tokens_total", kind="generated") == 50
    assert sample(metrics, "ocr_mlx_drafted_tokens_total") == 40
    assert sample(metrics, "ocr_mlx_accepted_tokens_total") == 30
    assert sample(metrics, "ocr_mlx_first_token_seconds_count") == 1
    assert sample(metrics, "ocr_mlx_page_tokens_per_second_sum") == 100


def test_a_page_out_of_the_cache_is_a_page_and_no_work(metrics: Metrics) -> None:
    metrics.page_cache(True)
    metrics.page_cache(False)
    metrics.page_done("m", page(generated_tokens=50, seconds=0.5, drafted=4, cached=True), None)
    assert sample(metrics, "ocr_mlx_pages_total", model="other", status="ok") == 1
    assert sample(metrics, "ocr_mlx_tokens_total", kind="generated") == 0
    assert sample(metrics, "ocr_mlx_page_seconds_count") == 0
    assert sample(metrics, "ocr_mlx_page_cache_lookups_total", result="hit") == 1
    assert sample(metrics, "ocr_mlx_page_cache_lookups_total", result="miss") == 1


def test_the_batch(metrics: Metrics) -> None:
    metrics.waiting(7)
    metrics.cache_bytes(4096)
    metrics.prefilled(3, 0.3)
    metrics.stepped(3, 5, 0.01)
    metrics.stepped(1, 1, 0.01)
    assert sample(metrics, "ocr_mlx_rows_waiting") == 7
    assert sample(metrics, "ocr_mlx_kv_cache_bytes") == 4096
    assert sample(metrics, "ocr_mlx_prefilled_rows_total") == 3
    assert sample(metrics, "ocr_mlx_prefill_seconds_count") == 1
    assert sample(metrics, "ocr_mlx_decode_step_seconds_count") == 2
    assert sample(metrics, "ocr_mlx_decoded_tokens_total") == 6
    assert sample(metrics, "ocr_mlx_batch_rows_bucket", le="1.0") == 1
    assert sample(metrics, "ocr_mlx_batch_rows_sum") == 4


def test_models_come_and_go(metrics: Metrics) -> None:
    metrics.loaded("/secret/folder/one", 100, 1.5)
    metrics.loaded("org/two", 50, 0.5)
    assert sample(metrics, "ocr_mlx_models_in_memory") == 2
    assert sample(metrics, "ocr_mlx_model_bytes", model="one") == 100
    assert sample(metrics, "ocr_mlx_model_load_seconds_sum", model="one") == 1.5
    metrics.evicted("/secret/folder/one", 100, 90)
    metrics.evicted("org/two", 50, -3)
    assert sample(metrics, "ocr_mlx_models_in_memory") == 0
    assert sample(metrics, "ocr_mlx_model_bytes", model="one") == 0
    assert sample(metrics, "ocr_mlx_model_evictions_total", model="one") == 1
    assert sample(metrics, "ocr_mlx_model_released_bytes_total", model="one") == 90
    assert sample(metrics, "ocr_mlx_model_released_bytes_total", model="org/two") == 0
    assert "secret" not in metrics.text().decode()


def test_labels_stay_few_whatever_is_named(metrics: Metrics) -> None:
    for number in range(300):
        metrics.page_done(f"anything {number}", page(), None)
        metrics.loaded(f"org/model{number}", 1, 0.1)
        metrics.request("BREW", "-", 405, 0.1)
    found = set(re.findall(r'model="([^"]*)"', metrics.text().decode()))
    assert len(found) <= 101 and not any("anything" in one for one in found)
    assert sample(metrics, "ocr_mlx_requests_total", method="other", route="-", status="405") == 300


def test_the_process_and_the_version(metrics: Metrics) -> None:
    for name in ("resident_memory_bytes", "cpu_seconds_total", "open_fds", "max_fds", "start_time_seconds"):
        value = sample(metrics, f"process_{name}")
        assert value is not None and value > 0
    assert 'ocr_mlx_build_info{version="1.2.3"} 1.0' in metrics.text().decode()


def test_the_registry_is_its_own(metrics: Metrics) -> None:
    Metrics("1.2.3")
    assert not [family for family in REGISTRY.collect() if family.name.startswith("ocr_mlx")]


def test_no_line_says_when_it_was_made(metrics: Metrics) -> None:
    metrics.document_started()
    metrics.document_done("", 0.1)
    assert "_created" not in metrics.text().decode()


def test_many_threads_lose_nothing(metrics: Metrics) -> None:
    def work() -> None:
        for _ in range(500):
            metrics.stepped(2, 2, 0.001)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sample(metrics, "ocr_mlx_decoded_tokens_total") == 4000


def client_of(settings: Settings | None = None) -> Any:
    made = context(FakeService(), settings)
    return made, TestClient(create_app(made), base_url="http://localhost", raise_server_exceptions=False)


def test_a_scrape_answers_while_the_engine_starts_and_does_not_start_it() -> None:
    made, client = client_of()
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'ocr_mlx_engine_state{state="starting"} 1.0' in answer.text
    assert made.engine.state == "starting"


def test_requests_are_counted_by_template_and_never_by_address() -> None:
    _made, client = client_of()
    client.get("/v1/models/SECRET")
    client.get("/SECRET?SECRET=SECRET")
    client.get("/docs")
    client.post("/health")
    client.get("/livez", headers={"Host": "SECRET"})
    text = client.get("/metrics").text
    assert 'ocr_mlx_requests_total{method="GET",route="/v1/models/{model:path}",status="404"} 1.0' in text
    assert 'ocr_mlx_requests_total{method="GET",route="-",status="404"} 1.0' in text
    assert 'ocr_mlx_requests_total{method="GET",route="/docs",status="200"} 1.0' in text
    assert 'ocr_mlx_requests_total{method="POST",route="/health",status="405"} 1.0' in text
    assert 'ocr_mlx_requests_total{method="GET",route="-",status="403"} 1.0' in text
    assert 'ocr_mlx_request_seconds_count{route="/docs"} 1.0' in text
    assert "SECRET" not in text


def test_who_may_scrape() -> None:
    _made, client = client_of(Settings(token="s3cret"))
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers={"Authorization": "Bearer s3cret"}).status_code == 200
    _made, client = client_of()
    for headers in ({"Origin": "tauri://localhost"}, {"Sec-Fetch-Site": "cross-site"}, {"Host": "evil.example"}):
        assert client.get("/metrics", headers=headers).status_code == 403


def test_openapi_tells_of_text() -> None:
    _made, client = client_of()
    told = client.get("/openapi.json").json()["paths"]["/metrics"]["get"]
    assert told["operationId"] == "metrics-metrics"
    assert list(told["responses"]["200"]["content"]) == ["text/plain"]
