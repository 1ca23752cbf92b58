"""Contract 1 over a real socket: health, root, OpenAPI, shutdown, logs; and who is let in."""

from __future__ import annotations

import gc
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ocr_mlx import endpoint
from ocr_mlx.observer import Observer
from ocr_mlx.settings import Settings
from tests.wire.fake_jobs import FakeJobs
from tests.wire.fakes import FakeService, serving

DATA = {"filename": "data:image/png;base64,eA=="}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(FakeService(), Settings(allowed_origins=("tauri://localhost",))) as url:
        yield url


@pytest.fixture(scope="module")
def guarded() -> Iterator[str]:
    with serving(FakeService(), Settings(token="s3cret", health="json")) as url:
        yield url


def test_health_is_five_bytes_of_text(url: str) -> None:
    answer = httpx.get(f"{url}/health")
    assert (answer.status_code, answer.content) == (200, b"OK!!!")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


def test_health_is_json_for_who_asks(url: str) -> None:
    answer = httpx.get(f"{url}/health", headers={"Accept": "application/json, text/plain, */*"})
    assert answer.headers["content-type"] == "application/json"
    state = answer.json()
    assert state["status"] == "ok" and state["modelLoaded"] is False and state["model"] == "facebook/nougat-small"


def test_the_setting_turns_health_round(guarded: str) -> None:
    assert httpx.get(f"{guarded}/health").json()["status"] == "ok"
    assert httpx.get(f"{guarded}/health", headers={"Accept": "text/plain"}).text == "OK!!!"


def test_head_of_health_is_405(url: str) -> None:
    assert httpx.head(f"{url}/health").status_code == 405


def test_answers_are_not_held_back(url: str) -> None:
    """Nagle's delay would cost 40 ms each on a connection that stays open."""
    with httpx.Client(base_url=url) as client:
        seconds = sorted(client.get("/livez").elapsed.total_seconds() for _ in range(21))
    assert seconds[5] < 0.03


def test_livez_and_readyz(url: str) -> None:
    assert httpx.get(f"{url}/livez").status_code == 200
    assert httpx.post(f"{url}/ocr", json=DATA).status_code == 200
    assert (httpx.get(f"{url}/readyz").status_code, httpx.get(f"{url}/readyz").json()) == (200, {"status": "ready"})


def test_the_root_names_the_server(url: str) -> None:
    found = httpx.get(url).json()
    assert found["docs"] == "/docs" and found["health"] == "/health" and found["name"] == "OCR MLX API"


def test_openapi_is_at_both_addresses(url: str) -> None:
    first, second = httpx.get(f"{url}/openapi.json").json(), httpx.get(f"{url}/api/v1/openapi.json").json()
    assert first == second and first["info"]["title"] == "OCR MLX API"
    for path in ("/openapi.json", "/api/v1/openapi.json"):
        assert httpx.head(f"{url}{path}").status_code == 200
    assert {"OCRRequest", "HTTPValidationError", "ValidationError"} <= first["components"]["schemas"].keys()


def test_docs_are_there(url: str) -> None:
    for path in ("/docs", "/redoc"):
        assert (httpx.get(f"{url}{path}").status_code, httpx.head(f"{url}{path}").status_code) == (200, 200)
        page = httpx.get(f"{url}{path}").text
        foreign = re.findall(r'<(?:script|link)[^>]*"(https?://[^"]+)"([^>]*)', page)
        assert foreign and all("@" in address and 'integrity="sha384-' in rest for address, rest in foreign)
        assert page.count("https://") == len(foreign)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_shutdown_ends_the_server(method: str) -> None:
    with serving(FakeService()) as url:
        answer = httpx.request(method, f"{url}/shutdown")
        assert (answer.status_code, answer.text) == (200, "Shutting down...")
        host, port = url.removeprefix("http://").split(":")
        with pytest.raises(OSError):
            while True:
                socket.create_connection((host, int(port)), timeout=5).close()


@pytest.mark.parametrize("path", ["/shutdown", "/logs"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "tauri://localhost"},
        {"Host": "evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_web_pages_cannot_shut_down_or_read_logs(url: str, path: str, headers: dict[str, str]) -> None:
    assert httpx.get(f"{url}{path}", headers=headers).status_code == 403
    assert httpx.get(f"{url}/livez").status_code == 200


def test_a_foreign_page_cannot_post_shutdown(url: str) -> None:
    assert httpx.post(f"{url}/shutdown", headers={"Origin": "https://evil.example"}).status_code == 403


def test_a_post_that_hides_where_it_comes_from_shuts_nothing_down(url: str) -> None:
    assert httpx.post(f"{url}/shutdown", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert httpx.get(f"{url}/livez").status_code == 200


def test_the_older_health_address(guarded: str) -> None:
    assert httpx.get(f"{guarded}/v1/health").text == "ok"


def test_logs_are_text(url: str) -> None:
    answer = httpx.get(f"{url}/logs")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")


@pytest.mark.parametrize("host", ["evil.example", "localhost", "localhost:1", "127.0.0.1.evil.example", ""])
def test_a_foreign_host_is_refused_everywhere(url: str, host: str) -> None:
    assert httpx.get(f"{url}/livez", headers={"Host": host}).status_code == 403
    refused = httpx.post(f"{url}/ocr", headers={"Host": host}, json=DATA)
    assert refused.status_code == 403 and refused.headers["content-type"].startswith("text/plain")


def test_loopback_names_are_let_in(url: str) -> None:
    port = url.rpartition(":")[2]
    for name in ("127.0.0.1", "localhost", "LOCALHOST", "[::1]"):
        assert httpx.get(f"{url}/livez", headers={"Host": f"{name}:{port}"}).status_code == 200


def test_configured_hosts_are_let_in() -> None:
    with serving(FakeService(), Settings(allowed_hosts=("ocr.example", "other.example:8443"))) as url:
        for host in ("ocr.example", "ocr.example:99", "OTHER.example:8443"):
            assert httpx.get(f"{url}/livez", headers={"Host": host}).status_code == 200
        assert httpx.get(f"{url}/livez", headers={"Host": "other.example:1"}).status_code == 403


def test_a_foreign_origin_is_refused_and_never_reflected(url: str) -> None:
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://["}):
        answer = httpx.post(f"{url}/ocr", headers=headers | {"Cookie": "a=b"}, json=DATA)
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers
        assert "access-control-allow-credentials" not in answer.headers


APP = {"Origin": "null", "User-Agent": "tauri-plugin-http/2.4.3"}
"""What Tauri's HTTP client says for an app whose pages are at tauri://localhost."""


def test_the_client_of_a_tauri_app_may_call(url: str) -> None:
    assert httpx.post(f"{url}/ocr", headers=APP, json=DATA).status_code == 200
    assert httpx.get(f"{url}/health", headers=APP).text == "OK!!!"


@pytest.mark.parametrize(
    "also",
    [
        {"User-Agent": "Mozilla/5.0 tauri-plugin-http/2.4.3"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-origin"},
        {"Origin": "https://evil.example"},
    ],
)
def test_who_is_not_that_client_is_refused(url: str, also: dict[str, str]) -> None:
    assert httpx.post(f"{url}/ocr", headers=APP | also, json=DATA).status_code == 403


def test_no_page_may_pass_for_that_client(url: str) -> None:
    """A page that would choose its User-Agent makes the browser ask first, and the browser then says who it is."""
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,user-agent"}
    refused = httpx.options(f"{url}/ocr", headers={"Origin": "null", "User-Agent": "Mozilla/5.0"} | asked)
    assert refused.status_code == 403 and "access-control-allow-origin" not in refused.headers
    for path in ("/shutdown", "/logs"):
        assert httpx.get(f"{url}{path}", headers=APP).status_code == 403


def test_where_tauris_origins_are_not_allowed_its_client_is_not_either() -> None:
    with serving(FakeService(), Settings(allowed_origins=("https://app.example",))) as url:
        assert httpx.post(f"{url}/ocr", headers=APP, json=DATA).status_code == 403


def test_an_allowed_origin_may_call_and_read(url: str) -> None:
    answer = httpx.post(f"{url}/ocr", headers={"Origin": "tauri://localhost"}, json=DATA)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "tauri://localhost")
    assert "x-ocr-mlx-status" in answer.headers["access-control-expose-headers"].lower()


def test_an_allowed_origin_may_read_refusals_too(url: str) -> None:
    answer = httpx.post(f"{url}/ocr", headers={"Origin": "tauri://localhost", "Content-Type": "text/xml"}, content=b"x")
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (415, "tauri://localhost")


def test_the_servers_own_pages_may_call(url: str) -> None:
    assert httpx.post(f"{url}/ocr", headers={"Origin": url}, json=DATA).status_code == 200


def test_preflight(url: str) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,authorization"}
    allowed = httpx.options(f"{url}/ocr", headers={"Origin": "tauri://localhost"} | asked)
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, "tauri://localhost")
    assert httpx.options(f"{url}/ocr", headers={"Origin": "https://evil.example"} | asked).status_code == 403


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/ocr"])
def test_an_allowed_origin_may_send_what_its_client_adds(url: str, path: str) -> None:
    """OpenAI's package for browsers tells the system that it runs on in header fields of its own."""
    names = "authorization,content-type,x-stainless-lang,x-stainless-runtime-version,x-stainless-retry-count"
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": names}
    answer = httpx.options(f"{url}{path}", headers={"Origin": "tauri://localhost"} | asked)
    assert answer.status_code == 200
    assert set(names.split(",")) <= set(answer.headers["access-control-allow-headers"].lower().split(","))
    for origin in ("null", "https://evil.example"):
        assert httpx.options(f"{url}{path}", headers={"Origin": origin} | asked).status_code == 403


def test_the_token_is_asked_for_everywhere_but_at_health(guarded: str) -> None:
    for path in ("/health", "/livez", "/readyz"):
        assert httpx.get(f"{guarded}{path}").status_code in (200, 503)
    for path in ("/", "/logs", "/shutdown", "/openapi.json", "/docs"):
        answer = httpx.get(f"{guarded}{path}")
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert httpx.post(f"{guarded}/ocr", json=DATA).status_code == 401


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("Bearer s3cret", 200),
        ("bearer s3cret", 200),
        ("Bearer s3cre", 401),
        ("Bearer wrong", 401),
        ("Basic s3cret", 401),
        ("s3cret", 401),
        ("Bearer gr\xfc\xdfe", 401),
    ],
)
def test_the_token_must_be_right(guarded: str, header: str, status: int) -> None:
    headers = {b"Authorization": header.encode("latin-1")}
    assert httpx.post(f"{guarded}/ocr", json=DATA, headers=headers).status_code == status


def test_a_preflight_needs_no_token() -> None:
    with serving(FakeService(), Settings(token="t")) as url:
        asked = {"Origin": "tauri://localhost", "Access-Control-Request-Method": "POST"}
        assert httpx.options(f"{url}/ocr", headers=asked).status_code == 200


def test_request_ids_come_back(url: str) -> None:
    assert httpx.get(f"{url}/livez", headers={"X-Request-ID": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert httpx.get(f"{url}/livez", headers={"X-Request-ID": "a b"}).headers["x-request-id"] != "a b"


def test_a_wrong_token_is_told_from_a_missing_one(guarded: str) -> None:
    assert "needed" in httpx.get(f"{guarded}/models").json()["detail"]
    wrong = httpx.get(f"{guarded}/models", headers={"Authorization": "Bearer no"})
    assert (wrong.status_code, wrong.json()["detail"]) == (401, "The token is wrong.")


def test_a_post_of_another_site_without_an_origin_is_refused(url: str) -> None:
    answer = httpx.post(f"{url}/ocr", json=DATA, headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403
    assert httpx.post(f"{url}/ocr", json=DATA, headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200


@pytest.mark.parametrize(("up", "status"), [(True, 200), (False, 503)])
def test_without_its_redis_a_server_is_not_ready(up: bool, status: int) -> None:
    with serving(FakeService(), jobs=FakeJobs(is_remote=True, up=up)) as url:
        httpx.post(f"{url}/ocr", json=DATA)
        answer = httpx.get(f"{url}/readyz")
        assert answer.status_code == status and answer.json()["redis"] == ("healthy" if up else "unhealthy")
        assert httpx.get(f"{url}/livez").status_code == 200


@pytest.mark.parametrize(
    ("contract", "key", "value"),
    [
        ("nuno", "service", "DeepSeek-OCR API"),
        ("jobs", "name", "OCR API"),
        ("lighton", "message", "Welcome to LightOnOCR Service"),
    ],
)
def test_the_root_under_a_contract(contract: str, key: str, value: str) -> None:
    settings = Settings.from_env({}, contract=contract)
    with serving(FakeService(), settings) as url:
        about = httpx.get(url).json()
        assert (about[key], about["docs"], about["health"]) == (value, "/docs", "/health")
        health = httpx.get(f"{url}/health").json()
        assert health["status"] == ("healthy" if contract == "jobs" else "ok")
    named = Settings.from_env({"PROJECT_NAME": "Scans"}, contract=contract)
    with serving(FakeService(), named) as url:
        assert httpx.get(url).json()["name"] == "Scans"


def test_health_under_the_deepseek_contract() -> None:
    with serving(FakeService(), Settings.from_env({}, contract="deepseek")) as url:
        health = httpx.get(f"{url}/health").json()
    assert (health["status"], health["modelLoaded"]) == ("ok", False)
    assert health["modes"] == ["gundam", "base", "small", "tiny", "large"]


def test_health_under_the_oldest_contract() -> None:
    with serving(FakeService(), Settings.from_env({}, contract="ocr_mlx")) as url:
        assert httpx.get(f"{url}/health").content == b"OK!!!"


def test_models_that_are_none_are_told_as_the_server_starts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gone = tmp_path / "gone"
    endpoint._check_model(Settings(model="nuogat", model_name="builtin", deepseek_model=gone))
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2 and "nougat" in told[0] and "'gone'" in told[1] and str(tmp_path) not in told[1]
    caplog.clear()
    endpoint._check_model(Settings(deepseek_model=gone, redis_url="redis://queue"))
    endpoint._check_model(Settings(model="openai+http://gpu:8000/v1#m", deepseek_model=tmp_path))
    assert not caplog.records, "workers have the folder, an engine elsewhere the model"


def test_the_program_itself_is_out_of_the_collectors_sight(tmp_path: Path) -> None:
    service = endpoint._build(Settings(history_dir=tmp_path), Observer())
    try:
        assert gc.get_freeze_count() > len(gc.get_objects())
    finally:
        gc.unfreeze()
        service.close()
