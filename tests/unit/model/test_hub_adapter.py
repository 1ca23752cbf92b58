"""Finding a LoRA adapter finds its base as well: folders, downloads, the cache, and no network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ocr_mlx.errors import CheckpointIncomplete, DownloadFailed, ModelError, UnknownModel
from ocr_mlx.model import hub_files, registry
from ocr_mlx.model.hub import Hub, find
from ocr_mlx.model.load import load_model, parameters
from tests.unit.model.adapters import CONFIG, RENAMING, merged, write_adapter
from tests.unit.model.fake_hub import COMMIT, FakeHub, serve
from tests.unit.model.tiny import write_folder

ADAPTER = "someone/adapter"


@pytest.fixture(autouse=True)
def _as_here(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(hub_files, "_LARGE", 1000)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(registry, "families", lambda: (RENAMING,))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FakeHub]:
    def files(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}

    base = files(write_folder(tmp_path / "upstream"))
    adapter = files(write_adapter(tmp_path / "upstream-adapter")) | {"checkpoint-5/trainer_state.json": b"{}"}
    with serve(FakeHub(files=base, others={ADAPTER: adapter})) as hub:
        yield hub


@pytest.fixture
def local(tmp_path: Path, server: FakeHub) -> Hub:
    return Hub(cache_dir=tmp_path / "cache", endpoint=server.url, sleep=lambda _: None)


def offline(local: Hub) -> Hub:
    return Hub(cache_dir=local.cache_dir, endpoint=local.endpoint, offline=True)


def declare(server: FakeHub, **change: object) -> None:
    server.others[ADAPTER]["adapter_config.json"] = json.dumps(CONFIG | change).encode()


# --- downloads -------------------------------------------------------------------------------------------------------


def test_adapter_and_base_are_downloaded_and_load_merged(local: Hub, server: FakeHub) -> None:
    seen: list[tuple[int, int]] = []
    told: list[tuple[str, str]] = []
    ref = local.find(
        ADAPTER,
        on_progress=lambda *step: seen.append(step),
        on_download=lambda family, repo: told.append((family.licence, repo)),
    )
    assert (ref.id, ref.revision, ref.quantization) == (ADAPTER, COMMIT, None)
    assert ref.adapter is not None and ref.adapter != ref.path
    assert sorted(p.name for p in ref.path.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert sorted(p.name for p in ref.adapter.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert told == [("CC-BY-NC-4.0", "someone/tiny"), ("CC-BY-NC-4.0", ADAPTER)]
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1]
    assert seen[-1][1] > len(server.files["model.safetensors"]) + len(
        server.others[ADAPTER]["adapter_model.safetensors"]
    )
    head = parameters(load_model(ref).graph)["head.weight"]
    np.testing.assert_allclose(np.array(head), merged()["head.weight"], atol=1e-6)


def test_what_is_cached_whole_needs_no_network(local: Hub, server: FakeHub) -> None:
    first = local.find(ADAPTER)
    server.requests.clear()
    assert local.find(ADAPTER) == local.find(f"{ADAPTER}@{COMMIT}") == offline(local).find(ADAPTER) == first
    assert not server.requests


def test_the_adapters_tokenizer_comes_along(local: Hub, server: FakeHub) -> None:
    server.others[ADAPTER]["tokenizer.json"] = b'"adapter"'
    ref = local.find(ADAPTER)
    assert ref.adapter is not None and (ref.adapter / "tokenizer.json").read_bytes() == b'"adapter"'


def test_a_tokenizer_that_is_still_missing_is_fetched(local: Hub, server: FakeHub) -> None:
    import huggingface_hub

    server.others[ADAPTER]["tokenizer.json"] = b'"adapter"'
    local.find("someone/tiny")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        huggingface_hub.hf_hub_download(ADAPTER, name, cache_dir=local.cache_dir, endpoint=server.url)
    ref = local.find(ADAPTER)
    assert ref.adapter is not None and (ref.adapter / "tokenizer.json").exists()


def test_a_known_quantized_base_is_replaced_by_its_original(local: Hub, server: FakeHub) -> None:
    declare(server, base_model_name_or_path="Other/tiny-bnb-4bit", revision="gone")
    assert local.find(ADAPTER).path == local.find("someone/tiny").path


def test_another_quantized_base_is_refused_before_its_weights_are_fetched(local: Hub, server: FakeHub) -> None:
    packed = dict(server.files)
    config = json.loads(packed["config.json"]) | {"quantization_config": {"quant_method": "bitsandbytes"}}
    packed["config.json"] = json.dumps(config).encode()
    server.others["other/packed"] = packed
    declare(server, base_model_name_or_path="other/packed")
    with pytest.raises(ModelError, match=r"other/packed of the adapter .* is quantized"):
        local.find(ADAPTER)
    assert not any("model.safetensors" in request for request in server.requests)


def test_the_declared_revision_of_the_base_counts(local: Hub, server: FakeHub) -> None:
    declare(server, revision="v9")
    with pytest.raises(DownloadFailed, match="someone/tiny has no revision v9"):
        local.find(ADAPTER)
    server.commit = "c" * 40
    declare(server, revision=server.commit)
    assert local.find(ADAPTER).path.name == server.commit


def test_an_adapter_over_an_adapter_is_refused(local: Hub, server: FakeHub) -> None:
    declare(server, base_model_name_or_path=ADAPTER)
    with pytest.raises(ModelError, match="is an adapter itself"):
        local.find(ADAPTER)


@pytest.mark.parametrize("base", ["/home/someone/base", "./base", "base", "../x/base", "~/base", "a/b/c"])
def test_a_downloaded_adapter_may_not_name_a_folder(
    local: Hub, server: FakeHub, folder: Path, monkeypatch: pytest.MonkeyPatch, base: str
) -> None:
    monkeypatch.chdir(folder.parent)
    write_folder(folder.parent / "base")
    declare(server, base_model_name_or_path=base)
    with pytest.raises(UnknownModel, match="no model on this machine"):
        local.find(ADAPTER)


def test_a_foreign_adapter_is_refused_before_anything_large(local: Hub, server: FakeHub) -> None:
    declare(server, use_dora=True)
    with pytest.raises(ModelError, match="use_dora"):
        local.find(ADAPTER)
    assert not any(".safetensors" in request for request in server.requests)


def test_an_adapter_without_weights_is_told(local: Hub, server: FakeHub) -> None:
    del server.others[ADAPTER]["adapter_model.safetensors"]
    with pytest.raises(CheckpointIncomplete, match=f"{ADAPTER} has no weights"):
        local.find(ADAPTER)


# --- no network ------------------------------------------------------------------------------------------------------


def test_offline_names_what_is_lacking(local: Hub, server: FakeHub) -> None:
    import huggingface_hub

    with pytest.raises(DownloadFailed, match=f"{ADAPTER} is not on this machine"):
        offline(local).find(ADAPTER)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        huggingface_hub.hf_hub_download(ADAPTER, name, cache_dir=local.cache_dir, endpoint=server.url)
    with pytest.raises(DownloadFailed, match="someone/tiny is not on this machine") as caught:
        offline(local).find(ADAPTER)
    assert "side by side" in caught.value.hint
    assert not any("someone/tiny" in request for request in server.requests)


def test_an_interrupted_adapter_is_no_model_yet(local: Hub, server: FakeHub) -> None:
    local.find("someone/tiny")
    server.cut_after = [1500] + [0] * 5
    with pytest.raises(DownloadFailed, match=f"{ADAPTER} could not be fetched"):
        local.find(ADAPTER)
    with pytest.raises(DownloadFailed, match=f"{ADAPTER} is not on this machine"):
        offline(local).find(ADAPTER)
    server.requests.clear()
    assert local.find(ADAPTER).adapter is not None
    assert any("bytes=1500-" in request for request in server.requests)


# --- folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny", "./tiny", "../tiny", "{folder}", "someone/tiny", "Other/tiny-bnb-4bit"])
def test_a_folders_base_is_found_beside_it(tmp_path: Path, folder: Path, name: str) -> None:
    adapter = write_adapter(tmp_path / "adapter", base_model_name_or_path=name.format(folder=folder))
    ref = find(str(adapter), offline=True, cache_dir=tmp_path / "cache")
    assert (ref.id, ref.path.resolve(), ref.adapter, ref.revision) == (str(adapter), folder, adapter, None)


def test_a_folders_base_comes_from_the_hub_where_there_is_none_beside_it(
    tmp_path: Path, local: Hub, server: FakeHub
) -> None:
    adapter = write_adapter(tmp_path / "here" / "adapter")
    ref = local.find(str(adapter))
    assert (ref.path, ref.adapter) == (local.find("someone/tiny").path, adapter)
    server.requests.clear()
    assert offline(local).find(str(adapter)) == ref and not server.requests


def test_a_base_outside_the_roots_is_none(tmp_path: Path, folder: Path) -> None:
    inside = tmp_path / "roots"
    adapter = write_adapter(inside / "adapter", base_model_name_or_path=str(folder))
    hub = Hub(cache_dir=tmp_path / "cache", offline=True)
    assert hub.find(str(adapter)).path == folder
    assert hub.find(str(adapter), roots=(tmp_path,)).path == folder
    with pytest.raises(UnknownModel, match="no model on this machine"):
        hub.find(str(adapter), roots=(inside,))
    (inside / "link").symlink_to(folder)
    write_adapter(adapter, base_model_name_or_path="link")
    with pytest.raises(UnknownModel):
        hub.find(str(adapter), roots=(inside,))


def test_a_folder_that_is_its_own_base_and_one_without_weights(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", base_model_name_or_path=".")
    (adapter / "config.json").write_text("{}")
    with pytest.raises(UnknownModel):
        find(str(adapter), offline=True, cache_dir=tmp_path / "cache")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointIncomplete, match="no weights in adapter"):
        find(str(adapter), offline=True, cache_dir=tmp_path / "cache")


# --- the list --------------------------------------------------------------------------------------------------------


def test_the_list_has_adapters_with_their_family(local: Hub, server: FakeHub) -> None:
    import huggingface_hub

    for name in ("adapter_config.json", "adapter_model.safetensors"):
        huggingface_hub.hf_hub_download(ADAPTER, name, cache_dir=local.cache_dir, endpoint=server.url)
    (one,) = local.downloaded()
    assert (one.ref.id, one.family, one.complete) == (ADAPTER, "tiny", False)
    ref = local.find(ADAPTER)
    found = {one.ref.id: one for one in local.downloaded()}
    assert found.keys() == {ADAPTER, "someone/tiny"} and all(one.complete for one in found.values())
    assert found[ADAPTER].ref == ref and found[ADAPTER].bytes < found["someone/tiny"].bytes
