"""The clients against the real server: real text from the built-in model, noise from tiny models of other families."""

from __future__ import annotations

import asyncio
import io
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import ocr_mlx
from ocr_mlx.client import (
    AsyncClient,
    Client,
    DeepSeekOCRClient,
    DeepSeekOCRError,
    Job,
    NotReachable,
    Refused,
)
from tests.process.hub import hub_with
from tests.process.program import Program, Start

pytestmark = [pytest.mark.process, pytest.mark.slow]
PAGE = Path(__file__).parents[2] / "examples" / "page.png"
BUILTIN = Path(ocr_mlx.__file__).parent / "builtin"
FIRST = "A short note on reading"
DEEPSEEK = "deepseek-ai/DeepSeek-OCR"
QWEN = "Qwen/Qwen2-VL-2B-Instruct"
WAIT = 60.0


def pdf(*kinds: str) -> bytes:
    """A PDF whose pages are the example (`page`) or empty (`blank`)."""
    made = {"page": Image.open(PAGE).convert("L"), "blank": Image.new("L", (400, 300), 255)}
    first, *others = (made[kind] for kind in kinds)
    out = io.BytesIO()
    first.save(out, "PDF", save_all=True, append_images=others, resolution=100)
    return out.getvalue()


THREE = pdf("page", "blank", "page")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that reads with the built-in model, for all tests that leave it as they found it."""
    command = [sys.executable, "-m", "ocr_mlx.endpoint", "--port", "0"]
    program = Program(command, tmp_path_factory.mktemp("state"), {"OCR_MLX_MODEL": "builtin"}, stdin=subprocess.DEVNULL)
    with program.process:
        yield str(program.ready()["url"])
        program.process.kill()


def test_the_local_server_is_found_and_reads(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = start("--port", "0", OCR_MLX_MODEL="builtin").ready()
    monkeypatch.setenv("OCR_MLX_STATE_DIR", str(tmp_path))
    with Client() as client:
        assert client.base_url == record["url"]
        for source in (PAGE, str(PAGE), PAGE.read_bytes(), io.BytesIO(PAGE.read_bytes()), PAGE.as_uri()):
            read = client.read(source)
            assert read.text.startswith(FIRST) and read.statuses == ("ok",) and read.model == "builtin"
        read = client.read(THREE)
        assert read.statuses == ("ok", "blank", "ok") and read.is_whole and read.text.count(FIRST) == 2
        assert client.read(THREE, pages="2").counts == {"blank": 1}
        with pytest.raises(Refused) as caught:
            client.read(THREE, pages="9")
        assert caught.value.code == "page_out_of_range" and "9" in caught.value.message
        assert client.read(PAGE, max_tokens=1).counts == {"truncated": 1}


def test_chat_and_streams(url: str) -> None:
    with Client(url) as client:
        with client.stream(THREE) as stream:
            pieces = list(stream)
        whole = client.ask(THREE)  # from the page cache: it would not come in pieces
        assert whole.statuses == ("ok", "blank", "ok") and whole.finish_reason == "stop"
        assert whole.confidence is not None and whole.confidence > 0.9 and whole.usage["completion_tokens"] > 200
        assert len(pieces) > 10 and "".join(pieces) == whole.text
        assert stream.outcome.statuses == whole.statuses and stream.outcome.usage == whole.usage
        with pytest.raises(Refused, match="JSON") as caught:
            client.extract(PAGE, {"type": "object"})
        assert (caught.value.status, caught.value.code) == (400, "invalid_option")


@pytest.mark.slow
def test_closing_a_stream_cancels_the_reading(url: str) -> None:
    with Client(url) as client:
        with client.stream(pdf(*["page"] * 12)) as stream:
            assert next(stream)
        deadline = time.monotonic() + WAIT
        while any(model["leases"] for model in client.health()["models"]):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert client.read(PAGE).statuses == ("ok",)


def test_jobs(url: str) -> None:
    seen: list[Job] = []
    with Client(url) as client:
        submitted = client.submit(THREE, pages="1,2")
        ended = client.wait(submitted.id, WAIT, seen.append)
        assert (ended.state, ended.done, ended.total, ended.statuses) == ("completed", 2, 2, ("ok", "blank"))
        assert ended.text.startswith(FIRST) and ended.model == "builtin" and seen[-1].is_final
        events = list(client.events(submitted.id))
        assert [event.kind for event in events] == ["progress", "page", "page", "done"]
        assert [job.id for job in client.jobs(limit=5)] == [submitted.id] and client.jobs(state="failed") == []
        assert client.cancel(submitted.id).state == "completed"
        client.delete(submitted.id)
        with pytest.raises(Refused) as caught:
            client.job(submitted.id)
        assert caught.value.status == 404
        long = client.submit(pdf(*["page"] * 30))
        assert client.cancel(long.id).state == "cancelled"
        assert client.wait(long.id, WAIT).state == "cancelled"
        client.delete(long.id)
        assert client.jobs() == []


def test_pages(url: str) -> None:
    with Client(url) as client:
        found = client.pages(THREE)
        assert [(page.number, page.status) for page in found] == [(1, "ok"), (2, "blank"), (3, "ok")]
        assert found[0].text == found[2].text and found[0].text.startswith(FIRST) and found[1].text == ""
        assert found[0].confidence and found[0].tokens and found[1].confidence is None
        assert client.jobs() == []


def test_models(url: str) -> None:
    with Client(url) as client:
        found = client.models()
        assert found.current is None and found.default == "builtin"
        assert "builtin" in [model.name for model in found.models]
        assert client.switch_model("builtin") == "builtin" and client.models().current == "builtin"
        with pytest.raises(Refused):
            client.switch_model("zzz")
        assert client.health()["status"] == "ok"


@pytest.mark.slow
def test_asyncio(url: str) -> None:
    async def run() -> None:
        async with AsyncClient(url, model="builtin") as client:
            three, one, asked = await asyncio.gather(client.read(THREE), client.read(PAGE), client.ask(PAGE))
            assert three.statuses == ("ok", "blank", "ok") and one.text == asked.text
            async with client.stream(PAGE) as stream:
                assert "".join([piece async for piece in stream]) == one.text
            job = await client.submit(THREE)
            assert (await client.wait(job.id, WAIT)).state == "completed"
            assert [event.kind async for event in client.events(job.id)].count("page") == 3
            await client.delete(job.id)
            assert [page.status for page in await client.pages(THREE)] == ["ok", "blank", "ok"]
            await gives_up(client)

    asyncio.run(run())


async def gives_up(client: AsyncClient) -> None:
    """A cancelled task leaves no job and no reading behind."""
    long = pdf(*["page"] * 30)
    for work in (client.pages(long), client.read(long)):
        task = asyncio.create_task(work)
        await until_reading(client, True)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await client.jobs() == []
        await until_reading(client, False)


async def until_reading(client: AsyncClient, wanted: bool) -> None:
    async with asyncio.timeout(WAIT):
        while True:
            if wanted == any(model["leases"] for model in (await client.health())["models"]):
                return
            await asyncio.sleep(0.02)


def test_a_token(start: Start) -> None:
    url = start("--port", "0", OCR_MLX_MODEL="builtin", API_KEY="open-sesame").ready()["url"]
    for token in (None, "wrong"):
        with Client(url, token) as client, pytest.raises(Refused) as caught:
            client.models()
        assert caught.value.status == 401
    with Client(url, "open-sesame") as client:
        assert client.read(PAGE).text.startswith(FIRST)
    assert DeepSeekOCRClient(url, "open-sesame", model="builtin").extract_text(PAGE)["text"].startswith(FIRST)
    with pytest.raises(DeepSeekOCRError, match="token"):
        DeepSeekOCRClient(url, "wrong", model="builtin").extract_text(PAGE)


@pytest.mark.slow
def test_waiting_and_listening_survive_a_killed_server(start: Start) -> None:
    first = start("--port", "0", OCR_MLX_MODEL="builtin")
    record = first.ready()
    found: dict[str, Any] = {}
    with Client(record["url"]) as client:
        job = client.submit(pdf(*["page"] * 6))
        threads = [
            threading.Thread(target=lambda: found.update(job=client.wait(job.id, WAIT))),
            threading.Thread(target=lambda: found.update(events=list(client.events(job.id)))),
        ]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + WAIT
        while not client.job(job.id).done:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        first.process.kill()
        first.process.wait()
        with pytest.raises(NotReachable):
            client.health()
        assert start("--port", str(record["port"]), OCR_MLX_MODEL="builtin").ready()["port"] == record["port"]
        for thread in threads:
            thread.join(WAIT)
    assert found["job"].state == "completed" and found["job"].statuses == ("ok",) * 6
    pages = [event.page.number for event in found["events"] if event.page]
    assert sorted(pages) == list(range(1, 7))


SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["letter", "bill"]}, "name": {"type": "string", "maxLength": 12}},
    "required": ["kind", "name"],
    "additionalProperties": False,
}


@pytest.mark.slow
def test_a_general_model_is_held_to_a_schema(start: Start, tmp_path: Path) -> None:
    """Random weights: the words are noise, and the form is right."""
    url = start("--port", "0", **hub_with(tmp_path / "hub", QWEN)).ready()["url"]
    with Client(url, model=QWEN) as client:
        found = client.extract(PAGE, SCHEMA, prompt="What is it?", max_tokens=300)
    assert set(found) == {"kind", "name"} and found["kind"] in ("letter", "bill") and len(found["name"]) <= 12

    async def run() -> dict[str, Any]:
        async with AsyncClient(url) as client:
            return await client.extract(THREE, SCHEMA, model=QWEN, max_tokens=300)

    assert set(asyncio.run(run())) == {"kind", "name"}


@pytest.mark.slow
def test_the_drop_in_as_its_users_have_it(start: Start, tmp_path: Path) -> None:
    """Under DeepSeek-OCR's name the built-in model reads, so that the text is a real one."""
    url = start("--port", "0", "--contract", "nuno", OCR_MLX_DEEPSEEK_MODEL=str(BUILTIN)).ready()["url"]
    client = DeepSeekOCRClient(base_url=url)
    assert client.health_check()
    three = tmp_path / "three.pdf"
    three.write_bytes(THREE)
    for file, file_type, times in ((PAGE, "image", 1), (three, "pdf", 2)):
        with file.open("rb") as opened:
            for preserve in (True, False):
                found = client.extract_text(opened, file_type=file_type, preserve_formatting=preserve)
                assert found["text"].count(FIRST) == times and 0.9 < found["confidence"] < 1
                assert found["metadata"]["tokens_used"] > 100 and found["metadata"]["model"] in (DEEPSEEK, "builtin")
    pages = client.extract_text_multi_page(str(three))
    assert pages["total_pages"] == 3 and pages["full_text"].count("--- Page Break ---") == 2
    assert [page["metadata"]["status"] for page in pages["pages"]] == ["ok", "blank", "ok"]
    assert pages["pages"][2]["page_number"] == 3 and pages["pages"][2]["text"].startswith(FIRST)
    with pytest.raises(DeepSeekOCRError, match="no JSON object"):
        client.extract_prescription_data(three.read_bytes())
    assert not DeepSeekOCRClient("http://127.0.0.1:1").health_check()


def test_the_script(url: str) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ocr_mlx.client", "--url", url, "--model", "builtin", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert run("--health-check").returncode == 0
    done = run(str(PAGE))
    assert done.returncode == 0 and done.stdout.startswith(FIRST), done.stderr
    done = run("--multi-page", str(PAGE), "--extract-data", str(PAGE))
    assert done.returncode == 1 and "--- Page 1 of 1 ---" in done.stdout and "no JSON" in done.stderr
    assert json.dumps(done.stderr).count("Traceback") == 0


@pytest.mark.slow
def test_the_documentations_examples_run(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All but those that need the weights of a general model."""
    start("--port", "0", OCR_MLX_MODEL="builtin").ready()
    monkeypatch.setenv("OCR_MLX_STATE_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.png").write_bytes(PAGE.read_bytes())
    (tmp_path / "scan.pdf").write_bytes(THREE)
    text = (Path(__file__).parents[2] / "docs" / "client.md").read_text(encoding="utf-8")
    examples = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "qwen2-vl" not in block]
    assert len(examples) >= 6
    for example in examples:
        exec(compile(example, "client.md", "exec"), {"__name__": "__main__"})
        out = capsys.readouterr().out
        assert FIRST in out, example
