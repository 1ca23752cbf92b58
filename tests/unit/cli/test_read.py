"""`ocr_mlx read` and the earlier form of the command line, with a service that has no engine."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ocr_mlx.cli.app import Tools, main
from ocr_mlx.domain import (
    UNSET,
    FilePath,
    ModelProgress,
    OcrRequest,
    OcrResult,
    OnEvent,
    PageError,
    PageStatus,
    Upload,
)
from ocr_mlx.errors import Cancelled, DownloadFailed, InvalidOption, PdfLocked, SourceNotFound
from ocr_mlx.settings import Settings
from tests.wire.fakes import FakeService, page, result

Run = Callable[..., tuple[int, str, str]]


def names_the_file(request: OcrRequest, _cancel: threading.Event) -> OcrResult:
    assert isinstance(request.source, FilePath)
    return result(page(text=f"text of {request.source.path.name}"))


@pytest.fixture
def service() -> FakeService:
    return FakeService(behave=names_the_file)


@pytest.fixture
def run(service: FakeService, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    def call(*arguments: str, settings: Settings | None = None) -> tuple[int, str, str]:
        tools = Tools(settings=lambda: settings or Settings(), build=lambda _settings: service)
        with pytest.raises(SystemExit) as ended:
            main(arguments, tools)
        out, err = capfdbinary.readouterr()
        return int(ended.value.code or 0), out.decode(), err.decode()

    return call


def test_text_alone_on_stdout(run: Run, service: FakeService) -> None:
    assert run("read", "a.png") == (0, "text of a.png\n", "")
    assert service.closed


def test_many_inputs_come_out_in_order(run: Run) -> None:
    names = [f"{number}.png" for number in range(20)]
    status, out, _ = run("read", *names)
    assert (status, out) == (0, "\n".join(f"text of {name}\n" for name in names))


def test_options_reach_the_request(run: Run, service: FakeService) -> None:
    status, _, err = run(
        *("read", "a.pdf", "-m", "builtin", "--pages", "1-3", "--password", "p", "--temperature", "0.5", "--top_p=0.9"),
        *("--repetition_penalty", "1.2", "--padding", "-4", "--mode", "m", "--prompt", "q", "--max-tokens", "9"),
        *("--seed", "1", "--dpi", "150", "--top-k", "3", "--no_repeat_ngram", "4"),
        *("--ngram-window", "50", "--stop", "END", "--stop", "FIN", "--timeout", "2.5", "--fresh"),
    )
    assert status == 0, err
    [request] = service.requests
    assert (request.model, request.page_range, request.password, request.padding) == ("builtin", "1-3", "p", -4)
    assert (request.prompt.mode, request.prompt.text, request.dpi) == ("m", "q", 150.0)
    over = request.overrides
    assert (over.temperature, over.top_p, over.repetition_penalty) == (0.5, 0.9, 1.2)
    assert (over.max_new_tokens, over.seed, over.top_k, over.no_repeat_ngram) == (9, 1, 3, 4)
    assert (over.ngram_window, over.stop) == (50, ("END", "FIN"))
    assert (request.timeout, request.fresh) == (2.5, True)


def test_nothing_said_leaves_everything_to_the_model(run: Run, service: FakeService) -> None:
    run("read", "a.png")
    [request] = service.requests
    assert (request.model, request.overrides.temperature, request.overrides.max_new_tokens) == ("", UNSET, UNSET)


@pytest.mark.parametrize(
    "arguments",
    [
        ("read",),
        ("read", "a", "--temperature", "2"),
        ("read", "a", "--top-p", "-1"),
        ("read", "a", "--repetition-penalty", "0.5"),
        ("read", "a", "--format", "docx"),
        ("read", "a", "--no-such-option"),
        ("no-such-command",),
        ("--input",),
        ("--model", "builtin"),
        ("--input", "a", "--no-such-option"),
    ],
)
def test_wrong_usage_is_2(run: Run, service: FakeService, arguments: tuple[str, ...]) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "") and err and not service.requests


def test_standard_input(run: Run, service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    service.behave = lambda _request, _cancel: result(page(text="piped"))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"bytes")))
    assert run("read", "-")[:2] == (0, "piped\n")
    assert service.requests[0].source == Upload(data=b"bytes", name="standard input")


def test_patterns(run: Run, tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "c.txt"):
        (tmp_path / name).touch()
    assert run("read", str(tmp_path / "*.png"))[1] == "text of a.png\n\ntext of b.png\n"


def test_names_that_are_too_long_are_refused_like_others(run: Run, tmp_path: Path) -> None:
    long = "[x]" * 200
    status, _, err = run("read", long, "-q")
    assert status == 1 and "No file matches" in err
    status, _, err = run("read", "a.png", "-o", str(tmp_path / f"{long}.txt"))
    assert status == 1 and "cannot be written: File name too long" in err


def test_a_pattern_without_a_match_fails_alone(run: Run, tmp_path: Path) -> None:
    status, out, err = run("read", str(tmp_path / "*.pdf"), "a.png")
    assert (status, out) == (1, "text of a.png\n")
    assert err == f"{tmp_path / '*.pdf'}: No file matches {tmp_path / '*.pdf'}. Check the pattern.\n"


def failing(*bad: str) -> Callable[[OcrRequest, threading.Event], OcrResult]:
    def behave(request: OcrRequest, cancel: threading.Event) -> OcrResult:
        assert isinstance(request.source, FilePath)
        if request.source.path.name in bad:
            raise SourceNotFound("There is no such file.", hint="Look.")
        return names_the_file(request, cancel)

    return behave


def test_one_bad_input_does_not_spoil_the_others(run: Run, service: FakeService) -> None:
    service.behave = failing("b.png")
    status, out, err = run("read", "a.png", "b.png", "c.png")
    assert (status, out) == (1, "text of a.png\n\ntext of c.png\n")
    assert err == "b.png: There is no such file. Look.\n"
    lines = [json.loads(line) for line in run("read", "a.png", "b.png", "-f", "json")[1].splitlines()]
    assert [line["input"] for line in lines] == ["a.png", "b.png"]
    assert lines[1]["error"] == {"code": "source_not_found", "message": "There is no such file. Look."}


def test_pages_that_are_not_whole_are_told(run: Run, service: FakeService) -> None:
    bad = page(1, "", PageStatus.FAILED, error=PageError(code="bad_pdf", message="Damaged."))
    service.behave = lambda _request, _cancel: result(page(0), bad, page(2, "x", PageStatus.TRUNCATED))
    status, out, err = run("read", "a.pdf")
    assert (status, out) == (1, "Hello\n\nx\n")
    assert "a.pdf: page 2: failed: Damaged." in err and "a.pdf: page 3: truncated" in err


def test_strict_counts_what_is_cut_off(run: Run, service: FakeService) -> None:
    service.behave = lambda _request, _cancel: result(page(0, "x", PageStatus.TRUNCATED))
    assert run("read", "a.png")[0] == 0
    assert run("read", "a.png", "--strict")[0] == 1


def test_nothing_out_of_a_page_that_is_not_blank_is_a_failure(run: Run, service: FakeService) -> None:
    service.behave = lambda _request, _cancel: result(page(0, "", PageStatus.LOOP_STOPPED))
    status, out, err = run("read", "a.png")
    assert (status, out) == (1, "") and "loop_stopped" in err


def test_blank_is_good_and_empty(run: Run, service: FakeService) -> None:
    service.behave = lambda _request, _cancel: result(page(0, "", PageStatus.BLANK))
    assert run("read", "a.png", "--strict") == (0, "", "")


def test_no_model_is_3_and_ends_it(run: Run, service: FakeService) -> None:
    def behave(_request: OcrRequest, _cancel: threading.Event) -> OcrResult:
        raise DownloadFailed("Offline.", hint="`--model builtin` works now.")

    service.behave = behave
    status, out, err = run("read", "a.png", "b.png")
    assert (status, out, err) == (3, "", "a.png: Offline. `--model builtin` works now.\n")


def test_an_option_the_model_does_not_know_is_2(run: Run, service: FakeService) -> None:
    def behave(_request: OcrRequest, _cancel: threading.Event) -> OcrResult:
        raise InvalidOption("The model has no mode 'x'.")

    service.behave = behave
    assert run("read", "a.png", "--mode", "x")[0] == 2


def test_json(run: Run) -> None:
    assert json.loads(run("read", "a.png", "-f", "json")[1])["text"] == "text of a.png"
    lines = run("read", "a.png", "b.png", "--format", "json")[1].splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["text of a.png", "text of b.png"]
    assert [json.loads(line)["input"] for line in lines] == ["a.png", "b.png"]


def test_one_output_file_whose_ending_decides(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "new" / "out.json"
    assert run("read", "a.png", "-o", str(target)) == (0, "", "")
    assert json.loads(target.read_text())["text"] == "text of a.png"
    assert [path.name for path in target.parent.iterdir()] == ["out.json"]


def test_an_output_folder_for_many(run: Run, tmp_path: Path) -> None:
    status, out, _ = run("read", "x/a.png", "y/b.pdf", "-o", str(tmp_path / "out"), "-f", "md")
    assert (status, out) == (0, "")
    assert {p.name: p.read_text() for p in (tmp_path / "out").iterdir()} == {
        "a.md": "text of a.png\n",
        "b.md": "text of b.pdf\n",
    }


def test_a_file_for_many_is_refused_before_anything_is_read(run: Run, service: FakeService, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    status, _, err = run("read", "a", "b", "-o", str(tmp_path / "out"))
    assert status == 2 and "folder" in err and not service.requests
    assert (tmp_path / "out").read_text() == "mine"


def test_a_name_with_a_texts_ending_is_no_folder(run: Run, service: FakeService, tmp_path: Path) -> None:
    status, _, err = run("read", "a.png", "b.png", "-o", str(tmp_path / "single.txt"))
    assert status == 2 and "Name a folder" in err and not service.requests
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "single.txt").mkdir()
    assert run("read", "a.png", "b.png", "-o", str(tmp_path / "single.txt"))[0] == 0


def test_an_old_output_stays_when_nothing_was_read(run: Run, service: FakeService, tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    target.write_text("old")
    bad = page(0, "", PageStatus.FAILED, error=PageError(code="bad_pdf", message="Damaged."))
    service.behave = lambda _request, _cancel: result(bad)
    assert run("read", "a.pdf", "-o", str(target))[0] == 1
    assert target.read_text() == "old"


def test_an_output_that_cannot_be_written_is_told_before_anything_is_read(
    run: Run, service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    status, _, err = run("read", "a.png", "-o", str(tmp_path / "file" / "out.txt"))
    assert status == 1 and f"{tmp_path / 'file'} is not a folder" in err
    monkeypatch.setattr("os.access", lambda path, _mode: Path(path) != tmp_path)
    for name in ("out.txt", "new/out.txt", "file"):
        status, _, err = run("read", "a.png", "-o", str(tmp_path / name))
        assert status == 1 and "cannot be written" in err
    assert not service.requests and [path.name for path in tmp_path.iterdir()] == ["file"]


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_prints_what_is_done_and_ends_with_130(run: Run, service: FakeService) -> None:
    def behave(_request: OcrRequest, cancel: threading.Event) -> OcrResult:
        threading.Timer(0.15, interrupt).start()
        assert cancel.wait(10)
        return result(page(0, "done"), page(1, "", PageStatus.CANCELLED))

    service.behave = behave
    status, out, err = run("read", "a.pdf")
    assert (status, out) == (130, "done\n")
    assert err == "a.pdf: interrupted after 1 of 2 pages.\n" and service.closed


@pytest.mark.parametrize("form", ["txt", "md", "json"])
def test_ctrl_c_prints_no_half_page(run: Run, service: FakeService, form: str) -> None:
    def behave(_request: OcrRequest, cancel: threading.Event) -> OcrResult:
        threading.Timer(0.15, interrupt).start()
        assert cancel.wait(10)
        return result(page(0, "done"), page(1, "half a wo", PageStatus.CANCELLED))

    service.behave = behave
    status, out, err = run("read", "a.pdf", "-f", form)
    assert status == 130 and "done" in out and "half" not in out and "1 of 2 pages" in err


def test_ctrl_c_ends_a_download(run: Run, service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def download(_request: OcrRequest, on_event: OnEvent, cancel: threading.Event) -> OcrResult:
        on_event(ModelProgress(model="m", stage="downloading", done=1, total=2))
        threading.Timer(0.15, interrupt).start()
        assert cancel.wait(10)
        try:
            on_event(ModelProgress(model="m", stage="downloading", done=2, total=2))
        except Cancelled:
            ended.set()
            raise
        return result()

    monkeypatch.setattr(service, "run", download)
    assert run("read", "a.pdf")[:2] == (130, "")
    assert ended.wait(10)


def test_ctrl_c_leaves_no_half_file(run: Run, service: FakeService, tmp_path: Path) -> None:
    def behave(_request: OcrRequest, cancel: threading.Event) -> OcrResult:
        threading.Timer(0.15, interrupt).start()
        assert cancel.wait(10)
        return result(page(0, "done"), page(1, "", PageStatus.CANCELLED))

    service.behave = behave
    assert run("read", "a.pdf", "-o", str(tmp_path / "out.txt"))[:2] == (130, "")
    assert list(tmp_path.iterdir()) == []


def test_the_earlier_form(run: Run, service: FakeService, tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    arguments: dict[str, Any] = {
        "--input": "a.png",
        "--model": "facebook/nougat-small",
        "--output": str(target),
        "--temperature": "0.1",
        "--top_p": "0.2",
        "--repetition_penalty": "1.5",
    }
    status, out, err = run(*(word for pair in arguments.items() for word in pair))
    assert (status, out, err) == (0, "text of a.png\n", "")
    assert target.read_text() == "text of a.png\n"
    [request] = service.requests
    assert request.model == "facebook/nougat-small"
    assert (request.overrides.temperature, request.overrides.top_p) == (0.1, 0.2)
    assert request.overrides.repetition_penalty == 1.5


def test_a_bad_setting_is_2(service: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    tools = Tools(settings=lambda: Settings.from_env({"OCR_MLX_QUEUE": "x"}), build=lambda _settings: service)
    with pytest.raises(SystemExit) as ended:
        main(["read", "a.png"], tools)
    assert ended.value.code == 2 and "OCR_MLX_QUEUE" in capsys.readouterr().err


def test_a_locked_pdf_says_which_option_opens_it(run: Run, service: FakeService) -> None:
    def behave(_request: OcrRequest, _cancel: threading.Event) -> OcrResult:
        raise PdfLocked("The PDF is locked.", hint="Look.")

    service.behave = behave
    assert run("read", "a.pdf")[2] == "a.pdf: The PDF is locked. Give it with --password.\n"
    assert run("read", "a.pdf", "--password", "x")[2] == "a.pdf: The PDF is locked. Look.\n"


def test_a_full_disk_behind_stdout_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        status, _, err = run("read", "a.png", "b.png")
    assert (status, err) == (1, "ocr_mlx: Standard output cannot be written: No space left on device.\n")


def test_a_closed_stdout_is_told_before_anything_is_read(
    run: Run, service: FakeService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.stdout", None)
    status, _, err = run("read", "a.png")
    assert status == 1 and err.startswith("ocr_mlx: Standard output is closed.") and not service.requests
    assert run("read", "a.png", "-o", str(tmp_path / "a.txt"))[0] == 0


def test_a_closed_stdin_fails_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    status, out, err = run("read", "-", "a.png")
    assert (status, out) == (1, "text of a.png\n")
    assert err == "standard input: Standard input is closed. Pipe a document in, or name a file.\n"


def test_a_closed_stderr_does_not_matter(run: Run, service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    service.behave = failing("b.png")
    monkeypatch.setattr("sys.stderr", None)
    assert run("read", "a.png", "b.png")[:2] == (1, "text of a.png\n")


def test_help_names_the_exit_statuses(run: Run) -> None:
    status, out, _ = run("read", "--help")
    assert status == 0 and all(word in out for word in ("130", "--strict", "--top-p"))
    assert run("--version")[1].startswith("ocr_mlx ")


def test_with_an_engine_elsewhere_it_is_asked(capsys: pytest.CaptureFixture[str], service: FakeService) -> None:
    settings = Settings(model_source="vllm", remote_endpoint="http://gpu:8001/v1/chat/completions")
    tools = Tools(settings=lambda: settings, build=lambda _settings: service)
    for words in (["read", "a.png"], ["read", "a.png", "--model", "lighton"], ["read", "a.png", "--model", "builtin"]):
        with pytest.raises(SystemExit):
            main(words, tools)
    assert [request.model for request in service.requests] == [
        "openai+http://gpu:8001/v1#facebook/nougat-small",
        "openai+http://gpu:8001/v1#lightonai/LightOnOCR-2-1B",
        "builtin",
    ]
