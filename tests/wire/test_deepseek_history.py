"""Contract 5 over a real socket: what is kept, listed, downloaded, removed and expired."""

from __future__ import annotations

import base64
import dataclasses
import functools
import io
import json
import os
import re
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from ocr_mlx.domain import OcrRequest, OcrResult, Page
from ocr_mlx.server.deepseek import history
from ocr_mlx.server.deepseek.history import History
from ocr_mlx.settings import Settings
from tests.wire.fakes import FakeService, page, result, serving

GONE = {"detail": "历史记录不存在。"}


@functools.cache  # its bytes hold the time
def pdf() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (40, 30), "white").save(out, "PDF")
    return out.getvalue()


def drawn(index: int) -> Page:
    image = Image.new("RGB", (40, 30), "white")
    return Page(index=index, image=image, width=40, height=30, dpi=144.0, origin="pdf")


def two_pages(_request: OcrRequest, _cancel: threading.Event) -> OcrResult:
    return result(*(dataclasses.replace(page(i, f"clean {i}"), raw_text=f"raw {i}") for i in range(2)))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def client(runs: Path) -> Iterator[httpx.Client]:
    service = FakeService(behave=two_pages, drawn=(drawn(0), drawn(1)))
    with serving(service, Settings(history_dir=runs)) as url, httpx.Client(base_url=url) as client:
        yield client


def read(client: httpx.Client, name: str = "letter.pdf") -> dict[str, Any]:
    answer = client.post("/api/ocr", files={"image": (name, pdf(), "application/pdf")}, data={"mode": "base"})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def test_a_document_is_kept_as_it_was_answered(client: httpx.Client, runs: Path) -> None:
    body = read(client)
    kept = client.get(f"/api/history/{body['historyId']}").json()
    assert kept.pop("id") == body["historyId"]
    assert kept.pop("sourceFile") == "source.pdf"
    assert kept.pop("pageFiles") == ["page_1.jpg", "page_2.jpg"]
    assert kept == body
    folder = runs / "history" / body["historyId"]
    assert sorted(path.name for path in folder.iterdir()) == [
        "entry.json",
        "page_1.jpg",
        "page_2.jpg",
        "raw.txt",
        "result.json",
        "result.md",
        "source.pdf",
    ]
    assert (folder / "source.pdf").read_bytes() == pdf()
    assert (folder / "page_2.jpg").read_bytes() == base64.b64decode(body["pages"][1]["imageData"].partition(",")[2])
    assert (folder / "raw.txt").read_text("utf-8") == body["rawText"]


def test_nobody_else_may_look(client: httpx.Client, runs: Path) -> None:
    folder = runs / "history" / read(client)["historyId"]
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder.parent, folder, *folder.iterdir())}
    assert modes.pop("history") == modes.pop(folder.name) == 0o700
    assert set(modes.values()) == {0o600}


def test_the_list_has_the_latest_first(client: httpx.Client) -> None:
    bodies = [read(client, f"{i}.pdf") for i in range(3)]
    items = client.get("/api/history").json()["items"]
    assert [item["id"] for item in items] == [body["historyId"] for body in reversed(bodies)]
    last = bodies[-1]
    assert items[0] == {
        "id": last["historyId"],
        "createdAt": last["createdAt"],
        "fileName": "2.pdf",
        "fileSize": len(pdf()),
        "mode": "base",
        "durationMs": last["durationMs"],
        "pages": 2,
        "isPdf": True,
    }
    assert [item["fileName"] for item in client.get("/api/history?limit=2").json()["items"]] == ["2.pdf", "1.pdf"]
    assert client.get("/api/history?limit=0").status_code == 422


def test_an_empty_history_is_an_empty_list(client: httpx.Client) -> None:
    assert client.get("/api/history").json() == {"items": []}


@pytest.mark.parametrize(
    ("form", "named", "media", "holds"),
    [
        ("md", "letter.md", "text/markdown", "## 第 1 页\nclean 0\n\n## 第 2 页\nclean 1"),
        ("RAW", "letter_raw.txt", "text/plain", "[Page 1]\nraw 0\n\n[Page 2]\nraw 1"),
        ("Json", "letter.json", "application/json", None),
    ],
)
def test_downloads(client: httpx.Client, form: str, named: str, media: str, holds: str | None) -> None:
    body = read(client)
    answer = client.get(f"/api/history/{body['historyId']}/download", params={"format": form})
    assert answer.status_code == 200 and answer.headers["content-type"].startswith(media)
    assert answer.headers["content-disposition"] == f'attachment; filename="{named}"'
    if holds is None:
        bare = body | {"pages": [page | {"imageData": None} for page in body["pages"]]}
        assert answer.json() == bare
    else:
        assert answer.content.decode() == holds


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("发票 2024.pdf", "filename*=utf-8''%E5%8F%91%E7%A5%A8%202024.md"),
        ("../../etc/passwd.pdf", 'filename="passwd.md"'),
        ("C:\\secret\\a.b.pdf", 'filename="a.b.md"'),
        ("a; x=b.pdf", "filename*=utf-8''a%3B%20x%3Db.md"),
        (".pdf", 'filename="pdf.md"'),
    ],
)
def test_the_name_of_a_download_is_safe(client: httpx.Client, name: str, told: str) -> None:
    answer = client.get(f"/api/history/{read(client, name)['historyId']}/download")
    assert answer.headers["content-disposition"] == f"attachment; {told}"


def test_another_format_is_400(client: httpx.Client) -> None:
    answer = client.get(f"/api/history/{read(client)['historyId']}/download?format=docx")
    assert (answer.status_code, answer.json()) == (400, {"detail": "不支持的下载格式。"})


@pytest.mark.parametrize(
    "name", ["1-00000000", "nothing", "..", "%2e%2e", "1-0000000g", ".new-1-00000000", "١-00000000"]
)
def test_what_is_not_there_is_404(client: httpx.Client, runs: Path, name: str) -> None:
    read(client)
    for answer in (
        client.get(f"/api/history/{name}"),
        client.get(f"/api/history/{name}/download"),
        client.delete(f"/api/history/{name}"),
    ):
        assert answer.status_code in (404, 405) if ".." in name or "%2e" in name else answer.json() == GONE


def test_delete(client: httpx.Client, runs: Path) -> None:
    name = read(client)["historyId"]
    answer = client.delete(f"/api/history/{name}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert client.get(f"/api/history/{name}").json() == GONE
    assert client.delete(f"/api/history/{name}").status_code == 404
    assert list((runs / "history").iterdir()) == []


def test_no_history_leaves_nothing(runs: Path) -> None:
    with serving(FakeService(), Settings(history_dir=runs, history_ttl=0)) as url, httpx.Client(base_url=url) as client:
        assert read(client)["historyId"] is None
        assert client.get("/api/history").json() == {"items": []}
    assert not runs.exists()


def test_the_state_folder_is_the_usual_place(tmp_path: Path) -> None:
    with serving(FakeService(), Settings(state_dir=tmp_path)) as url, httpx.Client(base_url=url) as client:
        name = read(client)["historyId"]
    assert (tmp_path / "runs" / "history" / name).is_dir()


def test_a_disk_that_refuses_costs_the_history_only(tmp_path: Path) -> None:
    (tmp_path / "history").write_text("a file is in the way")
    with serving(FakeService(), Settings(history_dir=tmp_path)) as url, httpx.Client(base_url=url) as client:
        body = read(client)
    assert (body["historyId"], body["text"]) == (None, "Hello")


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "history").iterdir())


def back(folder: Path, seconds: float) -> None:
    """Make a document older than it is."""
    entry = json.loads((folder / "entry.json").read_text("utf-8"))
    (folder / "entry.json").write_text(json.dumps(entry | {"at": time.time() - seconds}), "utf-8")


def test_what_is_too_old_is_gone_at_once_and_removed_with_the_next(client: httpx.Client, runs: Path) -> None:
    name = read(client)["historyId"]
    back(runs / "history" / name, 8 * 86400)
    assert client.get("/api/history").json() == {"items": []}
    assert client.get(f"/api/history/{name}").status_code == 404
    assert client.get(f"/api/history/{name}/download").status_code == 404
    latest = read(client)["historyId"]
    assert entries(runs) == [latest]


def test_what_is_too_old_goes_also_when_nobody_asks(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ocr_mlx.server.deepseek.routes.SLACK", 0.0)
    with (
        serving(FakeService(), Settings(history_dir=runs, history_ttl=0.3)) as url,
        httpx.Client(base_url=url) as client,
    ):
        assert read(client)["historyId"]
        deadline = time.monotonic() + 10
        while entries(runs):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_the_oldest_go_when_there_are_too_many(
    client: httpx.Client, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "MOST", 2)
    names = [read(client)["historyId"] for _ in range(3)]
    assert entries(runs) == sorted(names[1:])


def test_what_a_kill_leaves_is_hidden_and_swept(client: httpx.Client, runs: Path) -> None:
    folder = runs / "history"
    read(client)
    for name in (".new-1-00000000", ".gone-1-00000000", ".new-2-00000000"):
        (folder / name).mkdir()
        (folder / name / "source.pdf").write_bytes(b"x")
    for name in (".new-1-00000000", ".gone-1-00000000"):
        os.utime(folder / name, (1, 1))
    assert len(client.get("/api/history").json()["items"]) == 1
    read(client)
    assert [name for name in entries(runs) if name.startswith(".")] == [".new-2-00000000"], "it may be at work"


def test_what_somebody_else_keeps_there_stays(runs: Path) -> None:
    """Another service's history in the same folder is not ours to remove."""
    theirs = runs / "history" / "1700000000-0123abcd"
    theirs.mkdir(parents=True)
    (theirs / "result.json").write_text("{}")
    kept = History(runs, ttl=1000.0)
    kept.sweep()
    assert theirs.is_dir() and kept.entries(10) == [] and kept.find(theirs.name) is None
    assert not kept.delete(theirs.name) and theirs.is_dir()


def test_a_damaged_entry_is_not_shown(client: httpx.Client, runs: Path) -> None:
    name = read(client)["historyId"]
    (runs / "history" / name / "result.json").write_text("{")
    assert client.get(f"/api/history/{name}").json() == GONE
    (runs / "history" / name / "entry.json").write_text('{"at": 1e400}')
    assert client.get("/api/history").json() == {"items": []}


def test_ids_begin_with_the_time(client: httpx.Client) -> None:
    before = int(time.time())
    seconds = re.fullmatch(r"([0-9]+)-[0-9a-f]{8}", read(client)["historyId"])
    assert seconds and before <= int(seconds[1]) <= time.time()


def test_an_id_leads_nowhere_else(client: httpx.Client, runs: Path) -> None:
    name, kept = read(client)["historyId"], History(runs, ttl=1000.0)
    assert kept.find(name) is not None
    (runs / "history" / name).rename(runs / "history" / f".gone-{name}")
    for other in (f".gone-{name}", f"../history/.gone-{name}", f"{runs}/history/.gone-{name}"):
        assert kept.find(other) is None and kept.download(other, "md") is None and not kept.delete(other)
