"""`convert`, `doctor`, the bars, and the way to the server."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ocr_mlx import __main__ as program
from ocr_mlx.cli import __main__ as module
from ocr_mlx.cli import doctor, progress
from ocr_mlx.cli.app import Tools, main, module_main
from ocr_mlx.domain import (
    DocumentStarted,
    ModelProgress,
    ModelRef,
    OcrRequest,
    OcrResult,
    PageDone,
    PageStatus,
    TextDelta,
)
from ocr_mlx.domain import Upload as Bytes
from ocr_mlx.errors import DownloadFailed, UnknownModel
from ocr_mlx.model import hub, registry
from ocr_mlx.settings import Settings
from tests.wire.fakes import FakeService, page, result


def call(*arguments: str, service: FakeService | None = None, settings: Settings | None = None) -> int:
    made = settings or Settings()
    tools = Tools(settings=lambda: made, build=lambda _settings: service or FakeService())
    with pytest.raises(SystemExit) as ended:
        main(arguments, tools)
    return int(ended.value.code or 0)


# --- convert ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """Finding and converting without a checkpoint: what was asked for."""
    asked: list[dict[str, Any]] = []

    def find(name: str, **more: Any) -> ModelRef:
        more["on_download"](replace(registry.family_for({"model_type": "vision-encoder-decoder"}), licence="CC"), name)
        more["on_progress"](1, 2)
        asked.append({"name": name, "offline": more["offline"], "cache_dir": more["cache_dir"]})
        return ModelRef(id=name, path=tmp_path)

    def convert(source: ModelRef, out: Path, **more: Any) -> Path:
        more.pop("on_progress")(5, 5)
        asked.append({"source": source.id, **more})
        out.mkdir()
        (out / "model.safetensors").write_bytes(b"x" * 100_000)
        return out

    monkeypatch.setattr(hub, "find", find)
    monkeypatch.setattr("ocr_mlx.quantize.convert.convert", convert)
    return asked


def test_convert_passes_its_options(
    converted: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    settings = Settings(offline=True, models_dir=tmp_path)
    arguments = ("convert", "org/m", "--out", str(out), "--bits", "4", "--group_size", "32", "--mixed")
    assert call(*arguments, "--dtype", "float16", settings=settings) == 0
    assert converted == [
        {"name": "org/m", "offline": True, "cache_dir": tmp_path},
        {"source": "org/m", "bits": 4, "group_size": 32, "mixed": True, "dtype": "float16"},
    ]
    assert capsys.readouterr().out.startswith(f"{out}: 0.1 MB in ")


def test_convert_tells_the_licence_of_what_it_downloads(
    converted: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("convert", "org/m", "--out", str(tmp_path / "out"), "--quiet") == 0
    assert "Downloading org/m. Licence of its weights: CC" in capsys.readouterr().err


def test_convert_says_nothing_of_what_was_not_said(converted: list[dict[str, Any]], tmp_path: Path) -> None:
    assert call("convert", "org/m", "--out", str(tmp_path / "out")) == 0
    assert converted[1] == {"source": "org/m", "bits": None, "group_size": 64, "mixed": False, "dtype": None}


def test_convert_looks_at_the_output_before_it_downloads(
    converted: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").touch()
    assert call("convert", "org/m", "--out", str(tmp_path)) == 3
    assert "exists already" in capsys.readouterr().err and not converted


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--bits", "0"), "2, 3, 4, 5, 6, 8"),
        (("--bits", "4", "--group-size", "48"), "32, 64, 128"),
        (("--dtype", "int8"), "float16"),
        (("--mixed",), "--bits"),
    ],
)
def test_convert_with_an_option_no_model_has_is_2_before_anything_else(
    converted: list[dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    said: str,
) -> None:
    assert call("convert", "org/m", "--out", str(tmp_path / "out"), *options) == 2
    assert said in capsys.readouterr().err and not converted


def test_convert_without_out_is_2() -> None:
    assert call("convert", "org/m") == 2


def test_convert_of_a_model_that_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("convert", "no-such-model", "--out", str(tmp_path / "out")) == 3
    assert "no-such-model" in capsys.readouterr().err


@pytest.fixture
def two_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def downloaded(_cache: Path | None) -> list[hub.Downloaded]:
        return [
            hub.Downloaded(
                ref=ModelRef(id=name, path=tmp_path), family="nougat", bytes=5_000_000, complete=name != "me/tuned"
            )
            for name in ("facebook/nougat-base", "me/tuned")
        ]

    monkeypatch.setattr(hub, "downloaded", downloaded)


# --- doctor ----------------------------------------------------------------------------------------------------------


def reads(text: str, status: PageStatus = PageStatus.OK) -> FakeService:
    return FakeService(behave=lambda _request, _cancel: result(page(0, text, status)))


@pytest.mark.parametrize(
    ("text", "good"),
    [("Hello 123", True), ("Hello 128\n", True), ("Hallo", False), ("", False), ("Hello 123" * 3, False)],
)
def test_the_self_test_measures(text: str, good: bool) -> None:
    service = reads(text)
    passed, line = doctor.self_test(Settings(), lambda _settings: service)
    assert passed is good and ("passed" in line) is good
    [request] = service.requests
    assert request.model == "builtin" and isinstance(request.source, Bytes) and service.closed
    with Image.open(io.BytesIO(request.source.data)) as picture:
        assert picture.getextrema()[0][0] < 50


def test_the_self_test_without_its_model_says_why() -> None:
    def behave(_request: OcrRequest, _cancel: object) -> OcrResult:
        raise UnknownModel("No built-in model here.")

    assert doctor.self_test(Settings(), lambda _s: FakeService(behave=behave)) == (False, "No built-in model here.")


def test_doctor_says_everything_and_its_status_is_the_self_tests(
    two_here: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(state_dir=tmp_path)
    assert call("doctor", service=reads("Hello 123"), settings=settings) == 0
    said = capsys.readouterr().out
    for word in (
        "ocr_mlx 0",
        "mlx",
        "device:",
        "memory:",
        "facebook/nougat-base",
        str(tmp_path),
        "running: none",
        "passed",
    ):
        assert word in said
    assert "the default model facebook/nougat-small is not here" in said
    assert call("doctor", service=reads("nothing"), settings=settings) == 1


def test_doctor_looks_at_what_the_server_would_need(
    two_here: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCR_MLX_MODLE", "x")
    settings = Settings(
        state_dir=tmp_path,
        redis_url="redis://:secret@127.0.0.1:1/0",
        model_source="vllm",
        remote_endpoint="http://127.0.0.1:9/v1",
    )
    assert call("doctor", service=reads("Hello 123"), settings=settings) == 0
    said = capsys.readouterr().out
    assert "jobs: in Redis, which does not answer" in said and "secret" not in said
    assert "http://127.0.0.1:9 does not answer" in said and "OCR_MLX_MODLE is no setting" in said


def test_the_slow_blas_comes_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "blas_in_use", lambda: "the reference BLAS that mlx brings (slow)")
    monkeypatch.setattr("sys.platform", "linux")
    assert "libopenblas" in "\n".join(doctor._blas())
    monkeypatch.setattr(doctor, "blas_in_use", lambda: "/usr/lib/libopenblas.so.0")
    assert "Install" not in "\n".join(doctor._blas())


# --- bars ------------------------------------------------------------------------------------------------------------


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_bars_and_they_go(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with progress.reporter(quiet=False) as seen:
        assert isinstance(seen, progress.Terminal)
        seen.event(ModelProgress(model="org/m", stage="downloading", done=1_000_000, total=3_000_000))
        seen._bars.refresh()
        assert "downloading org/m" in screen.getvalue() and "1 of 3 MB" in screen.getvalue()
        seen.event(ModelProgress(model="org/m", stage="ready"))
        seen.event(DocumentStarted(model="org/m", pages=(0, 1)))
        seen.event(TextDelta(page=0, text="x", tokens=5))
        seen.event(PageDone(result=page()))
        seen.note("a [red] note")
        seen._bars.refresh()
        assert "1 of 2 pages" in screen.getvalue() and "a [red] note" in screen.getvalue()
        seen.aside()()


def test_pipes_and_quiet_see_notes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)
    with progress.reporter(quiet=True) as seen:
        seen.event(DocumentStarted(model="m", pages=(0,)))
        seen.progress("writing", 1, 2)
        seen.note("note")
    assert screen.getvalue() == "note\n"


# --- the way to the server -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "passed"), [([], []), (["serve"], []), (["serve", "--port", "0"], ["--port", "0"])]
)
def test_no_command_and_serve_serve(monkeypatch: pytest.MonkeyPatch, arguments: list[str], passed: list[str]) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr("sys.argv", ["ocr_mlx", *arguments])
    monkeypatch.setattr("ocr_mlx.endpoint.main", lambda argv: seen.append(list(argv)) or 7)
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert (seen, ended.value.code) == ([passed], 7)


def test_everything_else_is_a_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["ocr_mlx", "--version"])
    with pytest.raises(SystemExit):
        program.main()
    assert capsys.readouterr().out.startswith("ocr_mlx ")


@pytest.mark.parametrize("arguments", [[], ["serve"], ["read", "a.png"]])
def test_ctrl_c_at_any_time_is_130_and_quiet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    def interrupted(_argv: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.argv", ["ocr_mlx", *arguments])
    monkeypatch.setattr("ocr_mlx.endpoint.main", interrupted)
    monkeypatch.setattr("ocr_mlx.cli.app.main", interrupted)
    monkeypatch.setattr("ocr_mlx.cli.app.module_main", interrupted)
    for start in (program.main, module.main):
        with pytest.raises(SystemExit) as ended:
            start()
        assert ended.value.code == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("command", [(), ("read",), ("convert",), ("models",), ("doctor",)])
def test_h_is_help_and_nothing_is_cut(capsys: pytest.CaptureFixture[str], command: tuple[str, ...]) -> None:
    assert call(*command, "-h") == 0
    said = capsys.readouterr().out
    assert "-h, --help" in said
    assert not any(line.endswith("...") for line in said.splitlines() if not line.startswith("Usage"))
    assert "{" not in said and "list[" not in said


def test_the_modules_help_is_about_the_earlier_form(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        module_main(["--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0
    for word in ("--input", "--output", "--model", "--temperature", "--top-p", "--repetition-penalty", "models"):
        assert word in said


@pytest.mark.parametrize("arguments", [(), ("--input", "a", "--nonsense"), ("--model", "m")])
def test_usage_errors_name_no_hidden_command(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as ended:
        module_main(arguments)
    said = capsys.readouterr().err
    assert ended.value.code == 2 and "python -m ocr_mlx.cli [OPTIONS]" in said and "read-input" not in said


@pytest.mark.parametrize("arguments", [("--version",), ("models",), ("models", "--json"), ("doctor",)])
def test_a_full_disk_behind_stdout_is_one_line_and_1(
    two_here: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: tuple[str, ...],
) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert call(*arguments, settings=Settings(state_dir=tmp_path)) == 1
    assert capsys.readouterr().err == "ocr_mlx: Standard output cannot be written: No space left on device.\n"


def test_serve_is_a_command_too(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr("ocr_mlx.endpoint.main", lambda argv: seen.append(list(argv)) or 0)
    assert call("serve", "--port", "0", "--stdin-watch") == 0
    assert seen == [["--port", "0", "--stdin-watch"]]


def test_a_download_that_fails_is_3(capsys: pytest.CaptureFixture[str]) -> None:
    def behave(_request: OcrRequest, _cancel: object) -> OcrResult:
        raise DownloadFailed("Offline.")

    assert call("read", "a.png", service=FakeService(behave=behave)) == 3
    assert capsys.readouterr().err == "a.png: Offline.\n"
