"""Contract 2 as its users have it: the real program with `--contract nuno`, the requests of that service's README, the
`openai` package."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from PIL import Image
from scripts.builtin.score import error_rate

from ocr_mlx.client import DeepSeekOCRClient, DeepSeekOCRError
from tests.process.curl import own_port
from tests.process.hub import hub_with
from tests.process.program import Program, Start

pytestmark = pytest.mark.process
EXAMPLES = Path(__file__).parents[2] / "examples"
TEXT = (EXAMPLES / "page.txt").read_text(encoding="utf-8").strip()
PAGE = base64.b64encode((EXAMPLES / "page.png").read_bytes()).decode()
DEEPSEEK = "deepseek-ai/DeepSeek-OCR"
OTHERS = ("lightonai/LightOnOCR-2-1B", "stepfun-ai/GOT-OCR-2.0-hf", "NAMAA-Space/Qari-OCR-v0.3-VL-2B-Instruct")
PORT = 8765


def messages(address: str = f"data:image/png;base64,{PAGE}") -> list[Any]:
    parts = [
        {"type": "input_text", "text": "Extract all text from this document."},
        {"type": "input_image", "image_url": address},
    ]
    return [{"role": "system", "content": "You are an OCR assistant."}, {"role": "user", "content": parts}]


def pdf(pages: int) -> str:
    page = Image.open(EXAMPLES / "page.png").convert("L")
    out = io.BytesIO()
    page.save(out, "PDF", save_all=True, append_images=[page] * (pages - 1), resolution=100)
    return f"data:application/pdf;base64,{base64.b64encode(out.getvalue()).decode()}"


def small() -> str:
    """A picture that DeepSeek-OCR looks at in one piece: the test is about the request, and random weights read noise."""
    out = io.BytesIO()
    Image.open(EXAMPLES / "page.png").convert("L").resize((300, 300)).save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


def curl(url: str, body: dict[str, Any], folder: Path) -> dict[str, Any]:
    program = shutil.which("curl")
    if program is None:
        pytest.skip("curl is not installed: apt-get install curl")
    file = folder / "request.json"
    file.write_text(json.dumps(body), "utf-8")
    command = [program, "-sS", "-X", "POST", url, "-H", "Content-Type: application/json", "-d", f"@{file}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer


@pytest.mark.slow
def test_the_requests_of_the_readme_for_every_family(start: Start, tmp_path: Path) -> None:
    hub = hub_with(tmp_path / "hub", DEEPSEEK, *OTHERS)
    port = own_port(PORT)
    ready = start("serve", "--contract", "nuno", "--port", port, command=("-m", "ocr_mlx"), **hub).ready()
    url = ready["url"].rstrip("/")
    assert port == "0" or ready["port"] == PORT
    health = httpx.get(f"{url}/health").json()
    assert (health["status"], health["model"]) == ("ok", DEEPSEEK)
    listed = {model["id"]: model for model in httpx.get(f"{url}/v1/models").json()["data"]}
    assert listed[DEEPSEEK]["owned_by"] == "deepseek-ai" and listed[DEEPSEEK]["created"] > 0
    assert {DEEPSEEK, *OTHERS} <= listed.keys() and "facebook/nougat-small" not in listed

    body = {"model": DEEPSEEK, "messages": messages(small()), "temperature": 0.0, "max_tokens": 100}
    answer = curl(f"{url}/v1/chat/completions", body, tmp_path)
    assert answer["object"] == "chat.completion" and answer["model"] == DEEPSEEK, answer
    assert set(answer) >= {"id", "object", "created", "model", "choices", "usage"}
    [choice] = answer["choices"]
    assert choice["message"]["role"] == "assistant" and choice["message"]["content"]
    assert choice["finish_reason"] in ("stop", "length")
    assert answer["usage"]["completion_tokens"] > 0 and answer["usage"]["prompt_tokens"] > 0
    varied = body | {"temperature": 1.0, "seed": 1, "max_tokens": 32}
    for name in (*OTHERS, "builtin"):
        answer = curl(f"{url}/v1/chat/completions", varied | {"model": name}, tmp_path)
        assert "choices" in answer and answer["choices"][0]["message"]["content"], (name, answer)
    refused = curl(f"{url}/v1/chat/completions", body | {"response_format": {"type": "json_object"}}, tmp_path)
    assert refused["error"]["code"] == "invalid_option"
    wanted = {"type": "object", "properties": {"total": {"type": "integer"}}, "required": ["total"]}
    form = {"type": "json_schema", "json_schema": {"name": "bill", "schema": wanted}}
    bill = curl(
        f"{url}/v1/chat/completions", varied | {"model": "qari", "max_tokens": 200, "response_format": form}, tmp_path
    )
    assert isinstance(json.loads(bill["choices"][0]["message"]["content"])["total"], int), bill
    missing = curl(f"{url}/v1/chat/completions", body | {"model": "facebook/nougat-base"}, tmp_path)
    assert missing["error"]["code"] == "model_not_found" and str(tmp_path) not in json.dumps(missing)


def is_the_page(text: str | None) -> bool:
    rate = error_rate([TEXT], [(text or "").strip()])
    assert rate <= 0.02, (rate, text)
    return True


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server without any other model than the built-in one, for all tests that leave it as they found it."""
    command = [sys.executable, "-m", "ocr_mlx", "serve", "--contract", "nuno", "--port", "0"]
    nothing = {"OCR_MLX_MODELS_DIR": str(tmp_path_factory.mktemp("hub")), "OCR_MLX_OFFLINE": "1"}
    program = Program(command, tmp_path_factory.mktemp("state"), nothing, stdin=subprocess.DEVNULL)
    with program.process:
        yield str(program.ready()["url"]).rstrip("/")
        program.process.kill()


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        yield client


def of_three() -> list[Any]:
    said = messages()
    said[1]["content"][1] = {"type": "file", "file": {"file_data": pdf(3), "filename": "three.pdf"}}
    return said


def test_real_text_through_the_package(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="builtin", messages=messages(), stream=True, stream_options={"include_usage": True}
        )
    )
    whole = client.chat.completions.create(model="builtin", messages=messages())  # from the page cache
    assert is_the_page(whole.choices[0].message.content) and whole.choices[0].finish_reason == "stop"
    assert whole.model == "builtin" and whole.usage is not None and whole.usage.completion_tokens > 50
    assert whole.ocr["confidence"] > 0.9  # type: ignore[attr-defined]

    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content and len([piece for piece in pieces if piece]) > 5
    assert chunks[-1].usage == whole.usage

    answer = client.chat.completions.create(model="builtin", messages=of_three())
    pages = (answer.choices[0].message.content or "").split("\n\nA short note")
    assert len(pages) == 3 and is_the_page(pages[0])
    stream = client.chat.completions.create(model="builtin", messages=of_three(), stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == answer.choices[0].message.content

    asked: Any = messages()
    response = client.responses.create(model="builtin", input=asked)
    assert is_the_page(response.output_text) and response.usage is not None and response.usage.output_tokens > 50


def test_the_packages_asynchronous_client(url: str) -> None:
    async def go() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
            asked: Any = messages()
            whole = await client.chat.completions.create(model="builtin", messages=asked)
            stream = await client.chat.completions.create(model="builtin", messages=asked, stream=True)
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
            response = await client.responses.create(model="builtin", input=asked)
            events = await client.responses.create(model="builtin", input=asked, stream=True)
            said = [event.delta async for event in events if event.type == "response.output_text.delta"]
            assert "builtin" in [model.id async for model in client.models.list()]
            return [whole.choices[0].message.content or "", "".join(pieces), response.output_text, "".join(said)]

    whole, *others = asyncio.run(go())
    assert is_the_page(whole) and others == [whole] * 3


def test_options_have_their_effect(client: openai.OpenAI) -> None:
    def read(**more: Any) -> Any:
        return client.chat.completions.create(model="builtin", messages=messages(), **more)

    def said(**more: Any) -> str:
        return str(read(**more).choices[0].message.content)

    whole = read()
    cut = read(max_tokens=5)
    assert cut.choices[0].finish_reason == "length" and cut.ocr["status"] == "truncated"
    assert cut.usage.completion_tokens < whole.usage.completion_tokens
    stopped = read(stop="reading")
    assert stopped.choices[0].message.content == "A short note on" and stopped.choices[0].finish_reason == "stop"
    warm: dict[str, Any] = {"temperature": 2.0, "extra_body": {"fresh": True}}
    first = said(seed=1, **warm)
    assert first == said(seed=1, **warm) != said(seed=2, **warm)
    assert said(temperature=0, top_p=1.0) == whole.choices[0].message.content == said(seed=1, top_p=0.01, **warm)
    assert said(extra_body={"pages": "1"}) == whole.choices[0].message.content


@pytest.mark.parametrize(
    ("asked", "kind", "code", "words"),
    [
        ({"model": "gpt-4o"}, openai.NotFoundError, "model_not_found", "builtin"),
        ({"model": DEEPSEEK}, openai.NotFoundError, "model_not_found", "switched off"),
        ({"response_format": {"type": "json_object"}}, openai.BadRequestError, "invalid_option", "qwen2-vl"),
        ({"extra_body": {"pages": "9"}}, openai.BadRequestError, "page_out_of_range", "9"),
        ({"extra_body": {"mode": "gundam"}}, openai.BadRequestError, "invalid_option", "gundam"),
        ({"messages": messages("data:image/png;base64,eA==")}, openai.BadRequestError, "unsupported_media", "PDF"),
        ({"messages": messages("http://127.0.0.1:1/a.png")}, openai.BadRequestError, "source_forbidden", "private"),
        ({"messages": messages("file:///etc/hostname")}, openai.BadRequestError, "source_error", "data:"),
        ({"n": 2}, openai.BadRequestError, "unsupported_parameter", "one text"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_refused(
    client: openai.OpenAI, asked: dict[str, Any], kind: type[openai.APIStatusError], code: str, words: str, stream: bool
) -> None:
    with pytest.raises(kind, match=words) as caught:
        client.chat.completions.create(**{"model": "builtin", "messages": messages(), "stream": stream} | asked)
    assert caught.value.code == code and "/site-packages" not in caught.value.message
    assert set(caught.value.body) == {"message", "type", "param", "code"}  # type: ignore[arg-type]


def test_the_drop_in(url: str, tmp_path: Path) -> None:
    drop_in = DeepSeekOCRClient(url, model="builtin")
    assert drop_in.health_check()
    with (EXAMPLES / "page.png").open("rb") as file:
        found = drop_in.extract_text(file, file_type="image")
    assert is_the_page(found["text"]) and 0.9 < found["confidence"] < 1 and found["metadata"]["tokens_used"] > 50
    (tmp_path / "two.pdf").write_bytes(base64.b64decode(pdf(2).partition(",")[2]))
    pages = drop_in.extract_text_multi_page(tmp_path / "two.pdf")
    assert pages["total_pages"] == 2 and all(is_the_page(page["text"]) for page in pages["pages"])
    assert pages["full_text"] == pages["pages"][0]["text"] + "\n\n--- Page Break ---\n\n" + pages["pages"][1]["text"]
    with pytest.raises(DeepSeekOCRError, match="OCR API request failed: "):
        DeepSeekOCRClient(url, model="builtin").extract_prescription_data(b"no picture")


@pytest.mark.slow
def test_a_key(start: Start) -> None:
    program = start("serve", "--contract", "nuno", "--port", "0", command=("-m", "ocr_mlx"), API_KEY="sesame")
    url = program.ready()["url"].rstrip("/")
    assert httpx.get(f"{url}/health").json()["status"] == "ok"
    with openai.OpenAI(base_url=f"{url}/v1", api_key="sesame", max_retries=0) as client:
        assert is_the_page(
            client.chat.completions.create(model="builtin", messages=messages()).choices[0].message.content
        )
    with openai.OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError):
            client.chat.completions.create(model="builtin", messages=messages())
