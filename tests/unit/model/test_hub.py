from __future__ import annotations

import json
import shutil
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocr_mlx.domain import Quantization
from ocr_mlx.errors import CheckpointIncomplete, DownloadFailed, ModelNotHere, UnknownModel, UnsupportedArchitecture
from ocr_mlx.model import hub as hub_module
from ocr_mlx.model import hub_files
from ocr_mlx.model.base import Family
from ocr_mlx.model.hub import Hub, downloaded, find
from ocr_mlx.model.load import load_model
from tests.unit.model.fake_hub import COMMIT, FakeHub, serve
from tests.unit.model.tiny import write_folder

ONE_MORE = "b" * 40


@pytest.fixture(autouse=True)
def _every_file_counts_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(hub_files, "_LARGE", 1000)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FakeHub]:
    folder = write_folder(tmp_path / "upstream")
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())} | {"pytorch_model.bin": b"older"}
    with serve(FakeHub(files=files)) as hub:
        yield hub


@pytest.fixture
def local(tmp_path: Path, server: FakeHub) -> Hub:
    return Hub(cache_dir=tmp_path / "cache", endpoint=server.url, sleep=lambda _: None)


def gone(local: Hub) -> Hub:
    """The same cache behind a network that does not answer."""
    return Hub(cache_dir=local.cache_dir, endpoint="http://127.0.0.1:9", sleep=lambda _: None)


# --- what is on this machine -----------------------------------------------------------------------------------------


def test_a_folder_is_found_as_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = find(str(folder))
    assert (ref.id, ref.path, ref.revision, ref.quantization) == (str(folder), folder, None, None)
    monkeypatch.chdir(folder.parent)
    assert find("./tiny").path == find("tiny/").path == folder


def test_an_alias_wins_over_a_folder_of_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    with pytest.raises(DownloadFailed, match="someone/tiny"):
        find("tiny", offline=True, cache_dir=folder.parent / "cache")


def test_a_folders_quantization_is_told(folder: Path) -> None:
    write_folder(folder, quantization={"bits": 4, "group_size": 64})
    assert find(str(folder)).quantization == Quantization(bits=4, group_size=64)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere-at-all", "a/b/c"])
def test_a_folder_that_is_not_there(name: str) -> None:
    with pytest.raises(UnknownModel, match="There is no folder"):
        find(name)


def test_a_folder_without_config_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointIncomplete, match=r"config\.json is missing"):
        find(str(tmp_path))


def test_the_builtin_model_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "builtin")
    monkeypatch.setattr(hub_module.registry, "builtin_folder", lambda: tmp_path / "builtin")
    ref = find("Builtin")
    assert (ref.id, ref.path) == ("builtin", tmp_path / "builtin")


# --- downloads -------------------------------------------------------------------------------------------------------


def test_a_download_brings_what_the_family_needs_and_loads(local: Hub, server: FakeHub) -> None:
    seen: list[tuple[int, int]] = []
    told: list[tuple[str, str]] = []

    def on_download(family: Family, repo: str) -> None:
        told.append((family.licence, repo))
        assert not any("model.safetensors" in request for request in server.requests)

    ref = local.find("tiny", on_progress=lambda *step: seen.append(step), on_download=on_download)
    assert (ref.id, ref.revision) == ("someone/tiny", COMMIT)
    assert sorted(path.name for path in ref.path.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    total = sum(len(server.files[name]) for name in ("config.json", "model.safetensors", "tokenizer.json"))
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)
    assert told == [("CC-BY-NC-4.0", "someone/tiny")]
    assert load_model(ref).bytes > 0
    got = [request.rpartition("/")[2] for request in server.requests if request.startswith("GET /someone")]
    assert got == ["config.json", "tokenizer.json", "model.safetensors"]


def test_what_is_cached_whole_is_used_without_the_network(local: Hub, server: FakeHub) -> None:
    first = local.find("someone/tiny")
    server.requests.clear()
    told: list[str] = []
    again = local.find("someone/tiny", on_download=lambda _, repo: told.append(repo))
    assert again == first
    assert not server.requests and not told
    assert gone(local).find(f"someone/tiny@{COMMIT}") == first


def test_an_interrupted_download_is_no_model_yet(local: Hub, server: FakeHub) -> None:
    class Stop(Exception): ...

    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise Stop

    server.cut_after = [len(server.files["model.safetensors"]) * 2 // 3]
    with pytest.raises(Stop):
        local.find("tiny", on_progress=stop)
    with pytest.raises(DownloadFailed):
        gone(local).find("tiny")
    server.requests.clear()
    steps: list[int] = []
    local.find("tiny", on_progress=lambda done, _: steps.append(done))
    asked = [request for request in server.requests if request.startswith("GET") and "model.safetensors" in request]
    assert len(asked) == 1 and "bytes=" in asked[0]
    assert min(steps) > 0
    assert (local.find("tiny").path / "model.safetensors").read_bytes() == server.files["model.safetensors"]


def test_a_cut_connection_goes_on_where_it_was(local: Hub, server: FakeHub) -> None:
    server.cut_after = [10_000, 5_000, 0, 1]
    ref = local.find("tiny")
    asked = [request for request in server.requests if request.startswith("GET") and "model.safetensors" in request]
    ranges = [request.partition("bytes=")[2] for request in asked]
    assert ranges == ["", "10000-", "15000-", "15000-", "15001-"]
    assert (ref.path / "model.safetensors").read_bytes() == server.files["model.safetensors"]


def test_a_server_that_cannot_resume_begins_anew(local: Hub, server: FakeHub) -> None:
    server.cut_after, server.resumes = [10_000], False
    ref = local.find("tiny")
    assert (ref.path / "model.safetensors").read_bytes() == server.files["model.safetensors"]


def test_a_connection_that_brings_nothing_ends_after_five_tries(local: Hub, server: FakeHub) -> None:
    server.cut_after = [0] * 20
    with pytest.raises(DownloadFailed, match="cannot be reached"):
        local.find("tiny")
    assert len(server.cut_after) == 15


def test_bytes_that_are_not_what_was_announced_are_thrown_away(local: Hub, server: FakeHub) -> None:
    server.corrupt = True
    with pytest.raises(DownloadFailed, match="not what the hub announced"):
        local.find("tiny")
    server.corrupt = False
    assert (local.find("tiny").path / "model.safetensors").read_bytes() == server.files["model.safetensors"]


def test_a_branch_is_asked_again_and_a_commit_is_not(local: Hub, server: FakeHub) -> None:
    first = local.find("tiny", revision="main")
    server.files["tokenizer.json"] = b'{"newer": true}'
    server.commit = ONE_MORE
    assert local.find("tiny").revision == COMMIT
    moved = local.find("tiny", revision="main")
    assert moved.revision == ONE_MORE
    assert json.loads((moved.path / "tokenizer.json").read_bytes()) == {"newer": True}
    assert local.find("tiny").revision == ONE_MORE
    assert local.find(f"someone/tiny@{COMMIT}") == first
    assert gone(local).find("tiny", revision="main").revision == ONE_MORE


def test_a_pinned_commit_is_fetched(local: Hub, server: FakeHub) -> None:
    assert local.find(f"someone/tiny@{COMMIT}").revision == COMMIT
    with pytest.raises(DownloadFailed, match="has no revision v9"):
        local.find("someone/tiny@v9")


def test_pytorch_files_are_taken_where_there_is_nothing_better(local: Hub, server: FakeHub) -> None:
    del server.files["model.safetensors"]
    ref = local.find("tiny")
    assert sorted(path.name for path in ref.path.iterdir()) == ["config.json", "pytorch_model.bin", "tokenizer.json"]


def test_a_cache_filled_by_another_program_is_completed(local: Hub, server: FakeHub) -> None:
    import huggingface_hub

    for name in ("config.json", "model.safetensors"):
        huggingface_hub.hf_hub_download("someone/tiny", name, cache_dir=local.cache_dir, endpoint=server.url)
    told: list[str] = []
    assert gone(local).find("tiny").revision == COMMIT
    ref = local.find("tiny", on_download=lambda _, repo: told.append(repo))
    assert (ref.path / "tokenizer.json").exists()


# --- what can go wrong -----------------------------------------------------------------------------------------------


def test_without_a_network_the_hint_says_how_to_go_on(local: Hub) -> None:
    with pytest.raises(DownloadFailed) as caught:
        gone(local).find("tiny")
    assert "someone/tiny could not be fetched: the hub cannot be reached" in caught.value.message
    assert "hf download someone/tiny --local-dir tiny" in caught.value.hint
    assert "model `builtin` works" in caught.value.hint


def test_offline_asks_nothing(local: Hub, server: FakeHub) -> None:
    offline = Hub(cache_dir=local.cache_dir, endpoint=server.url, offline=True)
    with pytest.raises(ModelNotHere, match="downloads are switched off"):
        offline.find("tiny")
    assert not server.requests
    ref = local.find("tiny")
    server.requests.clear()
    assert offline.find("tiny", revision="main") == ref
    assert not server.requests


def test_the_hubs_own_offline_switch_counts(local: Hub, server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotHere, match="downloads are switched off"):
        local.find("tiny")
    assert not server.requests


@pytest.mark.parametrize(
    ("denied", "message"),
    [
        ((401, "RepoNotFound"), "has no model someone/tiny, or it is private"),
        ((404, "RepoNotFound"), "has no model someone/tiny"),
        ((403, "GatedRepo"), "is gated"),
        ((401, "GatedRepo"), "is gated"),
        ((503, ""), "the hub answered 503"),
        ((429, ""), "the hub answered 429"),
    ],
)
def test_what_the_hub_refuses_is_told_apart(local: Hub, server: FakeHub, denied: tuple[int, str], message: str) -> None:
    server.denied = denied
    with pytest.raises(DownloadFailed, match=message) as caught:
        local.find("tiny")
    assert "model `builtin` works" in caught.value.hint


def test_a_refusal_does_not_take_away_what_is_cached(local: Hub, server: FakeHub) -> None:
    ref = local.find("tiny")
    server.denied = (404, "RepoNotFound")
    assert local.find("tiny", revision="main") == ref


def test_a_name_that_the_hub_cannot_have(local: Hub) -> None:
    with pytest.raises(UnknownModel, match="some one/tiny is no hub id"):
        local.find("some one/tiny")


def test_a_foreign_model_is_refused_before_its_weights_are_fetched(local: Hub, server: FakeHub) -> None:
    server.files["config.json"] = b'{"model_type": "bert"}'
    with pytest.raises(UnsupportedArchitecture, match="bert"):
        local.find("tiny")
    del server.files["config.json"]
    with pytest.raises(UnsupportedArchitecture, match=r"has no config\.json"):
        local.find("tiny")
    assert not any("model.safetensors" in request for request in server.requests)


def test_a_full_disk_is_seen_before_the_download(local: Hub, server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10_000, 0, 10_000))
    with pytest.raises(DownloadFailed, match=r"needs 0\.0 GB more on the disk"):
        local.find("tiny")
    assert not any("model.safetensors" in request for request in server.requests)


def test_what_has_arrived_needs_no_room_again(local: Hub, server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(server.files["model.safetensors"])
    server.cut_after = [size - 5000] + [0] * 5
    with pytest.raises(DownloadFailed):
        local.find("tiny")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10_000, 0, 10_000))
    assert local.find("tiny").revision == COMMIT


def test_a_repository_without_weights_is_told_before_the_download(local: Hub, server: FakeHub) -> None:
    del server.files["model.safetensors"], server.files["pytorch_model.bin"]
    with pytest.raises(CheckpointIncomplete, match=r"has no weights that can be read.*README\.md, config\.json"):
        local.find("tiny")


def test_a_cache_that_cannot_be_written_is_told_without_its_place(local: Hub, server: FakeHub) -> None:
    assert local.cache_dir is not None
    local.cache_dir.write_text("a file")
    with pytest.raises(DownloadFailed, match="could not be stored") as caught:
        local.find("tiny")
    assert "OCR_MLX_MODELS_DIR" in caught.value.hint and str(local.cache_dir) not in str(caught.value)


# --- the list --------------------------------------------------------------------------------------------------------


def test_the_list_has_what_can_be_read_with_size_and_state(local: Hub, server: FakeHub, tmp_path: Path) -> None:
    assert local.downloaded() == []
    assert downloaded(tmp_path / "nothing") == []
    ref = local.find("tiny")
    (one,) = local.downloaded()
    assert (one.ref, one.family, one.complete) == (ref, "tiny", True)
    assert one.bytes == sum(path.stat().st_size for path in ref.path.iterdir())
    (ref.path / "model.safetensors").unlink()
    assert [one.complete for one in local.downloaded()] == [False]
    (ref.path / "config.json").unlink()
    assert local.downloaded() == []
