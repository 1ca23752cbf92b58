"""Model folders that were made to do harm: nothing of them runs, nothing is written, and what is wrong is told soon."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ocr_mlx import errors
from tests.unit.model.poison import MARK, POISONS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
_SECONDS, _MEGABYTES = 20.0, 500.0
_CODE, _OUT, _NO_JSON = "wants to run code", "leads out of the model's folder", "is not JSON"
_SHAPE, _PYTORCH, _NO_MODEL = "no proper shape and place", "no PyTorch file of tensors", "which no model has"
_TOLD = {
    "pickle": _CODE,
    "pickle in an archive": _CODE,
    "pickle in a shard": _CODE,
    "pickle as an index": _NO_JSON,
    "pickle as tokenizer": "is no tokenizer",
    "pickle as config": _NO_JSON,
    "pickle of the training": None,
    "python beside": None,
    "template": None,
    "index to above": _OUT,
    "index to anywhere": _OUT,
    "index to windows": _OUT,
    "index to no text": _OUT,
    "index to nothing": _OUT,
    "index to a long name": "The weight file a",
    "link out, weights": _OUT,
    "link out, config": _OUT,
    "link out, tokenizer": _OUT,
    "link out, pictures": _OUT,
    "link out, index": _OUT,
    "links in a circle": "",
    "config in a circle": "",
    "device": _OUT,
    "pipe, weights": "model.safetensors is missing",
    "pipe, torch": "pytorch_model.bin is missing",
    "pipe, config": "config.json is missing",
    "pipe, tokenizer": "tokenizer.json is missing",
    "pipe, index": None,
    "folder": "model.safetensors is missing",
    "shape huge": "which is not F32",
    "shape of numbers without end": _SHAPE,
    "shape of many sides": _SHAPE,
    "shape negative": _SHAPE,
    "sides beyond an array": _SHAPE,
    "offsets beyond": "overlaps another",
    "offsets negative": _SHAPE,
    "offsets beyond a word": "its tensors need 1844674407370",
    "overlap": "overlaps another",
    "header without end": "header is cut off",
    "header as large as the file": "header is no JSON",
    "header too deep": "header is no JSON",
    "name twice": "header is no JSON",
    "remarks no text": "remarks are no texts",
    "header in another encoding": "header is no JSON",
    "type unknown": "stored as F8_E5M2",
    "type a list": "stored as ['F32']",
    "whole numbers": "stored as int32, where this model has float32",
    "tensor in two shards": "is in two files",
    "tensor of control characters": "tensor ?[2J?? has no description",
    "zip bomb": _PYTORCH,
    "zip bomb beside": _PYTORCH,
    "memo without end": "holds no table of tensors",
    "keys without end": _PYTORCH,
    "views without end": "far larger than the file",
    "config too deep": _NO_JSON,
    "config large": "larger than any such file",
    "layers": "more than 1000 layers",
    "layers in parts": "more than 1000 layers",
    "vocabulary": _NO_MODEL,
    "width infinite": _NO_MODEL,
    "share no number": _NO_MODEL,
    "digits without end": _NO_JSON,
    "window": "encoder.window_size is 2000",
    "picture": _NO_MODEL,
    "architectures no list": "'mistral3' are not supported",
    "bits 0": "bits is 0",
    "group 0": "group_size is 0",
    "group of a layer no number": "group_size is 'x'",
    "mode no name": "mode is no name",
    "tokenizer large": "larger than any such file",
    "tokenizer too deep": "is no tokenizer",
    "tokenizer backtracks": "rules that cannot be followed",
    "tokenizer of no pattern": "is no tokenizer",
}
"""Words of the error; None where the folder loads, since what is poisoned in it is never looked at."""


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("poisoned")


@pytest.fixture(scope="module")
def results(scratch: Path) -> dict[str, dict[str, Any]]:
    """One process tries them all; one that hangs or is killed ends the others, and is the first without a result."""
    command = [sys.executable, "-m", "tests.unit.model.poison", str(scratch)]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, cwd=root, capture_output=True, timeout=200, check=False)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 or found, done.stderr.decode("utf-8", "replace")[-2000:]
    return {one["name"]: one for one in found}


def test_every_poison_has_its_expectation() -> None:
    assert list(_TOLD) == list(POISONS)


@pytest.mark.parametrize("name", POISONS)
def test_a_poisoned_folder_is_told_soon_and_in_little_memory(results: dict[str, dict[str, Any]], name: str) -> None:
    assert name in results, "the process hung or died here, or before"
    found, told = results[name], _TOLD[name]
    if told is None:
        assert found["kind"] == ""
    else:
        assert issubclass(getattr(errors, found["kind"], Exception), errors.ModelError), found
        assert told in found["text"]
        assert "/tmp" not in found["text"] and "poisoned" not in found["text"]
    assert found["seconds"] < _SECONDS and found["megabytes"] < _MEGABYTES
    assert found["untouched"]


def test_nothing_was_executed(results: dict[str, dict[str, Any]], scratch: Path) -> None:
    assert results
    assert not list(scratch.rglob(MARK))
