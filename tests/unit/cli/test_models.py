"""`ocr_mlx models`: what is known, what is here, what it takes, who holds it."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ocr_mlx.cli import listing, models
from ocr_mlx.cli.app import Tools, main
from ocr_mlx.cli.listing import WIDTH, table
from ocr_mlx.cli.models import entries, narrowed, overview
from ocr_mlx.cli.servers import servers
from ocr_mlx.domain import DecodeOverrides, DecodeParams, ModelRef, Quantization
from ocr_mlx.engine.device import Device
from ocr_mlx.errors import InvalidOption, UnknownModel
from ocr_mlx.model import hub, load, registry
from ocr_mlx.model.base import Mode
from ocr_mlx.model.load import load_model
from ocr_mlx.settings import Settings
from ocr_mlx.utils import records
from tests.unit.model.adapters import write_adapter
from tests.unit.model.tiny import TINY, checkpoint_tensors, write_folder
from tests.wire.fakes import FakeService

_BOX = Mode(
    name="box",
    description="A region",
    prompt="Read the region.",
    overrides=DecodeOverrides(temperature=0.2, top_p=0.9),
    pages_together=4,
)
SMALL = replace(
    TINY,
    checkpoints=("someone/tiny", "someone/unknown", "someone/half"),
    aliases={"tiny": "someone/tiny", "small-one": "someone/tiny", "half": "someone/half"},
    sizes={"someone/tiny": 2_000_000_000, "someone/half": 3_000_000},
    modes={"plain": Mode(name="plain", description="Plain text"), "box": _BOX},
    defaults=DecodeParams(max_new_tokens=77, no_repeat_ngram=9, stop=("END",)),
)
OTHER = replace(
    TINY, name="other", model_types=("other",), checkpoints=("org/other",), aliases={}, licence="MIT", sizes={}
)


@pytest.fixture(autouse=True)
def families(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(registry, "families", lambda: (OTHER, SMALL))
    monkeypatch.setattr(registry, "builtin_folder", lambda: write_folder(tmp_path / "builtin"))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Two downloads: one of them whole, in half precision; its folder."""
    folder = write_folder(tmp_path / "half", checkpoint_tensors(np.float16))

    def downloaded(_cache: Path | None) -> list[hub.Downloaded]:
        def one(name: str, complete: bool, path: Path = folder) -> hub.Downloaded:
            return hub.Downloaded(
                ref=ModelRef(id=name, path=path, revision="abc"), family="tiny", bytes=5_000_000, complete=complete
            )

        return [one("me/tuned", True), one("someone/half", True), one("someone/half", False, tmp_path / "older")]

    monkeypatch.setattr(hub, "downloaded", downloaded)
    return folder


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(model="someone/tiny", state_dir=tmp_path / "state", models_dir=tmp_path / "cache")


@dataclass
class Health:
    """A server that tells its state; what it was asked."""

    state: bytes
    url: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)


@contextmanager
def serving(state: bytes) -> Iterator[Health]:
    health = Health(state)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            health.asked.append((self.path, self.headers["Accept"]))
            self.send_response(200)
            self.send_header("Content-Length", str(len(health.state)))
            self.end_headers()
            self.wfile.write(health.state)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        health.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        try:
            yield health
        finally:
            server.shutdown()


def held(name: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "family": "tiny", "bytes": 9_000_000, "leases": 0, "idleSeconds": 3.2, "pinned": False} | more


def note(settings: Settings, url: str, port: int, pid: int | None = None) -> None:
    assert settings.state_dir is not None
    records.write(settings.state_dir, {"port": port, "pid": pid or os.getpid(), "url": url})


def call(settings: Settings, *arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(("models", *arguments), Tools(settings=lambda: settings, build=lambda _settings: FakeService()))
    return int(ended.value.code or 0)


# --- what is here ----------------------------------------------------------------------------------------------------


def test_known_and_downloaded_checkpoints_are_listed(here: Path, settings: Settings) -> None:
    found = {entry.checkpoint: entry for entry in entries(settings)}
    assert list(found) == ["builtin", "org/other", "someone/tiny", "someone/unknown", "someone/half", "me/tuned"]
    assert (found["someone/tiny"].bytes, found["someone/tiny"].complete) == (None, False)
    assert (found["someone/half"].bytes, found["someone/half"].complete) == (5_000_000, True)
    assert found["someone/tiny"].names == ("small-one", "tiny")
    assert (found["builtin"].family, found["builtin"].complete) == ("tiny", True)
    assert (found["me/tuned"].family, found["me/tuned"].licence) == ("tiny", TINY.licence)


def test_memory_is_what_loading_holds(here: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = 16 * 8

    def memory() -> dict[str, int | None]:
        return {entry.checkpoint: entry.memory for entry in overview(settings).models}

    found = memory()
    assert found["someone/half"] == load_model(ModelRef(id="x", path=here)).bytes + buffer
    assert (found["someone/tiny"], found["someone/unknown"]) == (4_000_000_000, None)
    assert overview(settings).held == "cpu, float32"
    monkeypatch.setattr(load, "on_cpu", lambda: False)
    monkeypatch.setattr("ocr_mlx.engine.device.default_device", lambda: Device(name="gpu", detail="", memory=None))
    on_gpu = memory()
    assert on_gpu["someone/half"] == load_model(ModelRef(id="x", path=here)).bytes + buffer
    assert on_gpu["someone/tiny"] == 2_000_000_000
    assert overview(settings).held == "gpu, as stored"
    settings = replace(settings, dtype="float32")
    assert memory()["someone/tiny"] == 4_000_000_000


def test_a_damaged_download_takes_nobody_down(here: Path, settings: Settings) -> None:
    (here / "model.safetensors").write_bytes(b"cut off")
    assert {entry.checkpoint: entry.memory for entry in overview(settings).models}["someone/half"] is None


# --- servers ---------------------------------------------------------------------------------------------------------


def test_servers_tell_what_they_hold(here: Path, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    state = {"version": "1", "models": [held("someone/half"), held("/a/folder", leases=2)]}
    with serving(json.dumps(state).encode()) as health:
        note(settings, health.url, 1)
        [server] = servers(settings)
        assert (server.url, server.pid, [model.id for model in server.models]) == (
            health.url,
            os.getpid(),
            ["someone/half", "/a/folder"],
        )
        assert call(settings) == 0
        assert {path for path, _ in health.asked} == {"/health"} and health.asked[0][1] == "application/json"
    said = capsys.readouterr().out
    flat = " ".join(said.split())
    assert "someone/half, 9 MB, idle for 3 s" in flat and "/a/folder, 9 MB, in use" in flat
    [row] = [line for line in said.splitlines() if line.startswith("  someone/half")]
    assert row.endswith("loaded")


@pytest.mark.parametrize("state", [b"OK!!!", b"[]", b"{}", b'{"version": "1", "models": [{}]}', b"\xff"])
def test_what_is_no_server_of_ours_is_passed_over(settings: Settings, state: bytes) -> None:
    with serving(state) as health:
        note(settings, health.url, 1)
        assert servers(settings) == []


def test_another_server_at_its_port_is_passed_over(settings: Settings) -> None:
    assert settings.state_dir is not None
    with serving(b'{"version": "1", "models": []}') as health:
        record = {"port": 1, "pid": os.getpid(), "url": health.url}
        records.write(settings.state_dir, record)
        assert len(servers(settings)) == 1
        records.write(settings.state_dir, record | {"instance": "gone"})
        assert servers(settings) == []


def test_dead_records_are_passed_over(settings: Settings) -> None:
    note(settings, "http://127.0.0.1:9", 1)
    note(settings, "no address", 2)
    note(settings, "http://127.0.0.1:9", 3, pid=2**22 + 5)
    assert servers(settings) == []
    assert servers(replace(settings, state_dir=Path("/nowhere"))) == []


# --- one model, one family -------------------------------------------------------------------------------------------


def chosen(settings: Settings, model: str = "", family: str = "") -> tuple[str, list[str]]:
    found = narrowed(overview(settings), settings, model, family)
    return found.families[0].name, [entry.checkpoint for entry in found.models]


def test_a_model_is_found_by_any_of_its_names(here: Path, settings: Settings, tmp_path: Path) -> None:
    for name in ("tiny", "Small-One", "someone/tiny", "someone/tiny@main"):
        assert chosen(settings, name) == ("tiny", ["someone/tiny"])
    assert chosen(settings, "me/tuned") == ("tiny", ["me/tuned"])
    assert chosen(settings, "builtin") == ("tiny", ["builtin"])
    assert chosen(settings, str(here)) == ("tiny", [str(here)])
    assert chosen(settings, family="tiny")[1][0] == "builtin"
    assert chosen(settings, "other") == chosen(settings, family="other") == ("other", ["org/other"])


def test_a_folders_entry_is_as_full_as_the_others(tmp_path: Path, settings: Settings) -> None:
    base = write_folder(tmp_path / "tiny")
    adapter = write_adapter(tmp_path / "adapter")
    [entry] = narrowed(overview(settings), settings, str(adapter), "").models
    assert entry.ref is not None and (entry.ref.path, entry.ref.adapter) == (base, adapter)
    assert entry.memory is not None and entry.bytes is not None and entry.record()["adapter"] == str(adapter)


def test_names_that_mean_nothing(settings: Settings) -> None:
    whole = overview(settings)
    with pytest.raises(UnknownModel, match="neither known nor downloaded"):
        narrowed(whole, settings, "org/else", "")
    with pytest.raises(UnknownModel, match="Did you mean tiny"):
        narrowed(whole, settings, "tinny", "")
    with pytest.raises(InvalidOption, match=r"no family 'x'.*other, tiny"):
        narrowed(whole, settings, "", "x")
    with pytest.raises(InvalidOption, match="both given"):
        narrowed(whole, settings, "tiny", "tiny")


def test_modes_prompts_and_defaults_are_told(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(settings, "tiny") == 0
    said = capsys.readouterr().out.replace("\n  'END'", " 'END'")
    for words in (
        "someone/tiny (the default model)",
        "CC-BY-NC-4.0",
        "plain (default): Plain text",
        "box: A region",
        "prompt: 'Read the region.'",
        "up to 4 pages in one prompt",
        "      temperature 0.2, top-p 0.9",
        "unless a mode says otherwise: max-tokens 77, temperature 0.0, no-repeat-ngram 9, stop 'END'",
    ):
        assert words in said, words


def test_a_quantized_folder_says_so(tmp_path: Path, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(tmp_path / "packed", quantization={"bits": 4, "group_size": 32})
    assert call(settings, str(folder)) == 0
    assert "quantized  4 bits in groups of 32" in capsys.readouterr().out
    entry = models.Entry(
        checkpoint="x",
        names=(),
        family="tiny",
        licence="",
        bytes=None,
        complete=False,
        ref=ModelRef(id="x", path=folder, quantization=Quantization(bits=4, group_size=32)),
    )
    assert entry.record()["quantization"] == {"bits": 4, "group_size": 32}


# --- the table and JSON ----------------------------------------------------------------------------------------------


def test_the_table_groups_by_family(here: Path, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(settings) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["MODEL", "ALSO", "SIZE", "MEMORY", "STATE"]
    assert lines.index("other: MIT") < lines.index("tiny: CC-BY-NC-4.0")
    [default] = [line for line in lines if "someone/tiny" in line]
    assert default.split() == ["someone/tiny", "*", "small-one,", "tiny", "2.0", "GB", "4.0", "GB", "-"]
    assert any(line.split()[:1] == ["someone/half"] and line.endswith("here") for line in lines)
    assert "    licence: part of ocr_mlx" in lines


def test_columns_line_up_and_names_wrap() -> None:
    entry = models.Entry(
        checkpoint="org/" + "m" * 50,
        names=("first-name", "second-name", "third-name-that-is-long"),
        family="tiny",
        licence=TINY.licence,
        bytes=7,
        complete=False,
    )
    whole = models.Overview(default="x", held="cpu", models=(entry,), families=(SMALL,), servers=())
    head, _, _, row, second, *_ = table(whole)
    assert head.index("STATE") == row.index("incomplete")
    assert head.index("ALSO") == row.index("first-name") == len(second) - len(second.lstrip())


def test_the_real_families_fit_a_hundred_columns(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    monkeypatch.undo()
    lines = table(overview(settings))
    assert max(map(len, lines)) <= WIDTH
    for family in registry.families():
        whole = narrowed(overview(settings), settings, "", family.name)
        assert max(map(len, listing.details(whole))) <= WIDTH


def test_json_has_everything(here: Path, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(settings, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {"default", "held", "engine", "models", "families", "servers"}
    by_name = {model["checkpoint"]: model for model in found["models"]}
    assert by_name["someone/half"] | {"memory": 0} == {
        "checkpoint": "someone/half",
        "names": ["half"],
        "family": "tiny",
        "licence": "CC-BY-NC-4.0",
        "bytes": 5_000_000,
        "complete": True,
        "published": 3_000_000,
        "memory": 0,
        "loaded": [],
        "path": str(here),
        "adapter": None,
        "revision": "abc",
        "quantization": None,
    }
    tiny = next(family for family in found["families"] if family["name"] == "tiny")
    box = next(mode for mode in tiny["modes"] if mode["name"] == "box")
    assert (box["decode"]["temperature"], box["decode"]["max_new_tokens"], box["pages_together"]) == (0.2, 77, 4)
    assert call(settings, "--family", "other", "--json") == 0
    assert [model["checkpoint"] for model in json.loads(capsys.readouterr().out)["models"]] == ["org/other"]


@pytest.mark.parametrize(("arguments", "status"), [(("--family", "x"), 2), (("org/else",), 3), (("nonsense",), 3)])
def test_what_is_wrong_ends_with_its_status(
    settings: Settings, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], status: int
) -> None:
    assert call(settings, *arguments) == status
    assert capsys.readouterr().err.startswith("ocr_mlx: ")
