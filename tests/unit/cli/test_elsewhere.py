"""`ocr_mlx models openai+http://...`: what an engine on another machine serves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ocr_mlx.cli.app import Tools, main
from ocr_mlx.settings import Settings
from tests.unit.engine.fake_engine import Answer, FakeEngine, engine, lists, refuses, says
from tests.wire.fakes import FakeService

LIGHTON = "lightonai/LightOnOCR-2-1B"
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    def run(*words: str, **settings: str) -> tuple[int, str, str]:
        made = Settings.from_env({"OCR_MLX_STATE_DIR": str(tmp_path), **settings})
        service = FakeService()
        with pytest.raises(SystemExit) as ended:
            main(words, Tools(settings=lambda: made, build=lambda _settings: service))
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out, told.err

    return run


def about(fake: FakeEngine, model: str = "") -> str:
    return f"openai+{fake.url}" + (f"#{model}" if model else "")


def test_an_engine_lists_what_it_serves_under_the_names_to_read_with(call: Call) -> None:
    with engine() as fake:
        status, out, err = call("models", about(fake))
        assert (status, err) == (0, "")
        assert out.splitlines() == [
            f"{fake.url} serves:",
            f"  openai+{fake.url}#org/first",
            f"  openai+{fake.url}#second",
            "",
            "`ocr_mlx read FILE --model NAME` reads with one of them.",
        ]
        assert [path for path, _headers in fake.looked] == ["/v1/models"]
        fake.lists = lists()
        assert "no model" in call("models", about(fake))[1]


def test_a_model_of_a_family_here_is_told_with_its_modes(call: Call) -> None:
    with engine() as fake:
        fake.lists = lists(LIGHTON)
        status, out, _err = call("models", about(fake, LIGHTON))
    assert status == 0
    assert out.startswith(f"{LIGHTON}\n  engine     {fake.url}, which serves it\n  family     lighton_ocr\n")
    assert "Modes of lighton_ocr (--mode NAME):" in out and "max-tokens 4096" in out


def test_a_model_that_is_not_there_and_of_no_family(call: Call) -> None:
    with engine() as fake:
        status, out, _err = call("models", about(fake, "smol"))
    words = " ".join(out.split())
    assert status == 0 and "which does not list it, but org/first, second" in words
    assert "none that is known here" in words and "Modes" not in words


def test_as_json(call: Call) -> None:
    with engine() as fake:
        one = json.loads(call("models", "--json", about(fake, LIGHTON))[1])
        whole = json.loads(call("models", "--json", about(fake))[1])
    assert one["family"]["name"] == "lighton_ocr" and one["model"] == LIGHTON and one["problem"] is None
    assert whole == {
        "engine": fake.url,
        "models": [f"openai+{fake.url}#org/first", f"openai+{fake.url}#second"],
        "problem": None,
        "model": None,
        "family": None,
    }


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (refuses(401), "OCR_MLX_REMOTE_KEY"),
        (refuses(404), "ends in /v1"),
        (says(b"<html>", "text/html"), "no list of models"),
        (says(b'{"data": 3}', "application/json"), "no list of models"),
        (says(b'{"data": [{"name": "x"}]}', "application/json"), "no list of models"),
        (says(b"[" * 100_000, "application/json"), "no list of models"),
        (says(b" " * 3_000_000, "application/json"), "no list of models"),
    ],
)
def test_an_engine_that_does_not_tell(call: Call, answer: Answer, words: str) -> None:
    with engine() as fake:
        fake.lists = answer
        status, out, err = call("models", about(fake))
        assert (status, out) == (1, "") and words in err
        status, out, err = call("models", about(fake, LIGHTON))
    assert (status, err) == (0, "") and "does not tell its models" in out and words in " ".join(out.split())
    assert "Modes of lighton_ocr" in out


def test_nobody_there(call: Call) -> None:
    with engine() as fake:
        pass
    status, out, err = call("models", about(fake))
    assert (status, out) == (1, "") and "could not be reached" in err


@pytest.mark.parametrize("name", ["openai+", "openai+host", "openai+http://a:b@host/v1", "OpenAI+ftp://host/v1#m"])
def test_an_address_that_is_none(call: Call, name: str) -> None:
    status, out, err = call("models", name)
    assert (status, out) == (2, "") and "malformed" in err and "a:b" not in err


def test_the_key_goes_to_the_configured_engine_alone(call: Call) -> None:
    with engine() as fake, engine() as other:
        for one in (fake, other):
            call("models", about(one), OCR_MLX_REMOTE_ENDPOINT=fake.url, OCR_MLX_REMOTE_KEY="sk-own")
    assert fake.looked[0][1]["Authorization"] == "Bearer sk-own"
    assert "Authorization" not in other.looked[0][1]


def test_the_list_says_where_models_are_read(call: Call) -> None:
    out = call("models", MODEL_SOURCE="vllm", VLLM_ENDPOINT="http://gpu:8001/v1")[1]
    assert "built-in model are read at http://gpu:8001/v1 (MODEL_SOURCE)" in " ".join(out.split())
    one = call("models", "lighton", MODEL_SOURCE="vllm", VLLM_ENDPOINT="http://gpu:8001/v1")[1]
    assert "read at    http://gpu:8001/v1" in one
    assert "read at" not in call("models", "builtin", MODEL_SOURCE="vllm")[1]
    default = call("models", OCR_MLX_MODEL="openai+http://gpu:8001/v1#m")[1]
    assert "The default model is openai+http://gpu:8001/v1#m" in " ".join(default.split())


def test_doctor_looks_at_the_engine_that_reads(call: Call) -> None:
    with engine() as fake:
        source = call("doctor", MODEL_SOURCE="vllm", VLLM_ENDPOINT=f"{fake.url}/chat/completions")[1]
        default = call("doctor", OCR_MLX_MODEL=about(fake, "second"))[1]
        fake.lists = refuses(403)
        refused = call("doctor", OCR_MLX_MODEL=about(fake, "second"))[1]
    told = f"engine elsewhere: http://{fake.host} serves org/first, second"
    assert told in source and told in default and "OCR_MLX_REMOTE_KEY" in refused
    assert "is not here" not in source + default


def test_with_an_engine_that_reads_everything_another_may_still_be_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = Settings(model_source="vllm", remote_endpoint="http://gpu:8001/v1", remote_hosts=())
    service = FakeService()
    with pytest.raises(SystemExit) as ended:
        main(
            ["read", "a.png", "--model", "openai+http://other:9/v1#m"],
            Tools(settings=lambda: settings, build=lambda _settings: service),
        )
    assert (ended.value.code or 0) == 0, capsys.readouterr().err
    assert service.requests[0].model == "openai+http://other:9/v1#m"
