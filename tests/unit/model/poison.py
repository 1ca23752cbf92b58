"""Model folders that somebody made to do harm. As a program: load each of them, in little memory, and tell what came of it.

    python -m tests.unit.model.poison FOLDER

makes the folders below FOLDER and prints a line of JSON for each: its name, the error's class and text (none where it
loads), the seconds, and the megabytes by which the process grew.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import shutil
import struct
import sys
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOM = 1_500_000_000
"""Bytes of address space that loading may take beyond what the program has at its start."""
MARK = "it-ran"
"""A file of this name beside the folders says that something was executed."""
SAFETENSORS, TORCH, CONFIG, TOKENIZER = "model.safetensors", "pytorch_model.bin", "config.json", "tokenizer.json"
TORCH_INDEX, INDEX = f"{TORCH}.index.json", f"{SAFETENSORS}.index.json"
Poison = Callable[[Path], None]


class Payload:
    """Unpickled, it leaves the mark."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.folder.parent / MARK}",)


def _payload(folder: Path) -> bytes:
    return pickle.dumps({"a": Payload(folder)}, protocol=2)


def _archive(table: bytes, compression: int = zipfile.ZIP_STORED, **more: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("archive/data.pkl", table)
        for name, data in more.items():
            archive.writestr(f"archive/{name}", data)
    return stream.getvalue()


def torch_file(data: Callable[[Path], bytes]) -> Poison:
    """PyTorch's file instead of the safetensors."""

    def poison(folder: Path) -> None:
        (folder / SAFETENSORS).unlink()
        (folder / TORCH).write_bytes(data(folder))

    return poison


def header(change: Callable[[dict[str, Any]], Any]) -> Poison:
    """The safetensors' header, changed; what comes may be bytes too."""

    def poison(folder: Path) -> None:
        whole = (folder / SAFETENSORS).read_bytes()
        size = struct.unpack("<Q", whole[:8])[0]
        found = change(json.loads(whole[8 : 8 + size]))
        text = found if isinstance(found, bytes) else json.dumps(found).encode()
        (folder / SAFETENSORS).write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + size :])

    return poison


def first(values: Mapping[str, Any]) -> Poison:
    """The first tensor's description in the header, changed."""

    def change(found: dict[str, Any]) -> dict[str, Any]:
        name = next(name for name in found if name != "__metadata__")
        return {**found, name: {**found[name], **values}}

    return header(change)


def config(**changes: Any) -> Poison:
    """Values of config.json, `part__name` for those of a part."""
    return json_file(CONFIG, **changes)


def json_file(file: str, **changes: Any) -> Poison:
    def poison(folder: Path) -> None:
        found = json.loads((folder / file).read_text())
        for name, value in changes.items():
            part, _, key = name.rpartition("__")
            (found[part] if part else found)[key] = value
        (folder / file).write_text(json.dumps(found))

    return poison


def written(name: str, data: bytes | Callable[[Path], bytes]) -> Poison:
    """One file with other contents."""

    def poison(folder: Path) -> None:
        (folder / name).write_bytes(data if isinstance(data, bytes) else data(folder))

    return poison


def index(**table: str) -> Poison:
    def poison(folder: Path) -> None:
        (folder / INDEX).write_text(
            json.dumps({"weight_map": {n.replace("_", "."): file for n, file in table.items()}})
        )

    return poison


def replaced(name: str, make: Callable[[Path], object]) -> Poison:
    """Something else in a file's place; `make` gets its path."""

    def poison(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return poison


def moved_out(name: str) -> Poison:
    """A link to the file, which now lies beside the folder."""

    def poison(folder: Path) -> None:
        outside = folder.parent / f"outside-{folder.name}"
        shutil.move(folder / name, outside)
        (folder / name).symlink_to(outside)

    return poison


def sparse(name: str, size: int) -> Poison:
    """A file of so many zeros, none of which takes room on the disk."""

    def poison(folder: Path) -> None:
        with (folder / name).open("wb") as file:
            file.truncate(size)

    return poison


def both(*poisons: Poison) -> Poison:
    def poison(folder: Path) -> None:
        for one in poisons:
            one(folder)

    return poison


def _twice_in_shards(folder: Path) -> None:
    shutil.copy(folder / SAFETENSORS, folder / "model-2.safetensors")
    shutil.move(folder / SAFETENSORS, folder / "model-1.safetensors")


def _nested(levels: int) -> bytes:
    """A number, and a pair of it with itself, and a pair of that ...: to look it up takes 2 ** levels steps."""
    return b"\x80\x02}K\x00" + b"q\x01h\x01\x86" * levels + b"K\x01s."


def _views(folder: Path) -> bytes:
    """A thousand tensors, each of them the same megabyte in another shape."""
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x010\x00\x00".replace(
        b"\x010\x00\x00", b"\x01\x00\x00\x000"
    )
    storage += b"X\x03\x00\x00\x00cpuK\x06tQ"
    table = b"\x80\x02}"
    for number in range(1000):
        name = b"t%d" % number
        shape = b"J" + struct.pack("<i", 262_144 - number) + b"\x85K\x01\x85\x89"
        tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00" + shape
        table += b"X" + struct.pack("<I", len(name)) + name + tensor + b"ccollections\nOrderedDict\n)RtRs"
    return _archive(table + b".", **{"data/0": bytes(1 << 20)})


def _regex(pattern: str) -> Poison:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return json_file(TOKENIZER, pre_tokenizer=split)


def _python_beside(folder: Path) -> None:
    code = f"open({str(folder.parent / MARK)!r}, 'w')\n"
    for name in ("modeling_evil.py", "configuration_evil.py", "processing_evil.py", "setup.py", "__init__.py"):
        (folder / name).write_text(code)
    auto = {
        kind: f"modeling_evil.{kind}" for kind in ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoProcessor")
    }
    config(auto_map=auto, trust_remote_code=True, custom_pipelines={"x": {"impl": "modeling_evil.X"}})(folder)


def _template(folder: Path) -> None:
    evil = "{{ cycler.__init__.__globals__.os.system('touch %s') }}" % (folder.parent / MARK)
    (folder / "chat_template.jinja").write_text(evil)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": evil}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": evil}))


DEEP = b"[" * 1_000_000
POISONS: Mapping[str, Poison] = {
    # what would run
    "pickle": torch_file(_payload),
    "pickle in an archive": torch_file(lambda folder: _archive(_payload(folder))),
    "pickle in a shard": both(
        replaced(SAFETENSORS, lambda _path: None),
        written("part.bin", lambda folder: _archive(_payload(folder))),
        written(TORCH_INDEX, json.dumps({"weight_map": {"a": "part.bin"}}).encode()),
    ),
    "pickle as an index": both(replaced(SAFETENSORS, lambda _path: None), written(TORCH_INDEX, _payload)),
    "pickle as tokenizer": written(TOKENIZER, _payload),
    "pickle as config": written(CONFIG, _payload),
    "pickle of the training": written("training_args.bin", _payload),
    "python beside": _python_beside,
    "template": _template,
    # names that lead elsewhere
    "index to above": index(a="../x.safetensors"),
    "index to anywhere": index(a="/etc/x.safetensors"),
    "index to windows": index(a="..\\x.safetensors"),
    "index to no text": index(a="\ud800.safetensors"),
    "index to nothing": index(a="a\0b.safetensors"),
    "index to a long name": index(a="a" * 5000 + ".safetensors"),
    "link out, weights": moved_out(SAFETENSORS),
    "link out, config": moved_out(CONFIG),
    "link out, tokenizer": moved_out(TOKENIZER),
    "link out, pictures": moved_out("preprocessor_config.json"),
    "link out, index": both(index(a=SAFETENSORS), moved_out(INDEX)),
    "links in a circle": replaced(SAFETENSORS, lambda path: path.symlink_to(path.name)),
    "config in a circle": replaced(CONFIG, lambda path: path.symlink_to(path.name)),
    # what is no file
    "device": replaced(SAFETENSORS, lambda path: path.symlink_to("/dev/zero")),
    "pipe, weights": replaced(SAFETENSORS, os.mkfifo),
    "pipe, torch": both(replaced(SAFETENSORS, lambda _path: None), replaced(TORCH, os.mkfifo)),
    "pipe, config": replaced(CONFIG, os.mkfifo),
    "pipe, tokenizer": replaced(TOKENIZER, os.mkfifo),
    "pipe, index": replaced(INDEX, os.mkfifo),
    "folder": replaced(SAFETENSORS, Path.mkdir),
    # headers that lie
    "shape huge": first({"shape": [2**40, 2**40]}),
    "shape of numbers without end": first({"shape": [10**4000] * 2000}),
    "shape of many sides": first({"shape": [2**60] * 100_000}),
    "shape negative": first({"shape": [-1, -64]}),
    "sides beyond an array": header(
        lambda found: {**found, "x": {"dtype": "F32", "shape": [2**40, 0], "data_offsets": [0, 0]}}
    ),
    "offsets beyond": first({"data_offsets": [0, 2**50], "shape": [2**48], "dtype": "F32"}),
    "offsets negative": first({"data_offsets": [-8, 8]}),
    "offsets beyond a word": first({"data_offsets": [2**64, 2**64 + 8], "shape": [2], "dtype": "F32"}),
    "overlap": header(lambda found: {**found, "x": {"dtype": "U8", "shape": [64], "data_offsets": [0, 64]}}),
    "header without end": written(SAFETENSORS, struct.pack("<Q", 2**63) + b"{}"),
    "header as large as the file": sparse(SAFETENSORS, 3_000_000_000),
    "header too deep": header(lambda _found: DEEP),
    "name twice": header(lambda found: json.dumps(found).encode()[:-1] + b', "__metadata__": {}, "__metadata__": {}}'),
    "remarks no text": header(lambda found: {**found, "__metadata__": {"format": 3}}),
    "header in another encoding": header(lambda found: json.dumps(found).encode("utf-16")),
    "type unknown": first({"dtype": "F8_E5M2"}),
    "type a list": first({"dtype": ["F32"]}),
    "whole numbers": first({"dtype": "I32"}),
    "tensor in two shards": _twice_in_shards,
    "tensor of control characters": header(lambda found: {**found, "\x1b[2J\u202e\ud800": 3}),
    # archives and pickles that grow
    "zip bomb": torch_file(lambda _folder: _archive(bytes(60_000_000), zipfile.ZIP_DEFLATED)),
    "zip bomb beside": torch_file(
        lambda _folder: _archive(b"\x80\x02}.", zipfile.ZIP_DEFLATED, byteorder=bytes(60_000_000))
    ),
    "memo without end": torch_file(lambda _folder: _archive(b"\x80\x02]r\xff\xff\xff\x7f.")),
    "keys without end": torch_file(lambda _folder: _archive(_nested(80))),
    "views without end": torch_file(_views),
    # numbers of no model
    "config too deep": written(CONFIG, DEEP),
    "config large": sparse(CONFIG, 3_000_000_000),
    "layers": config(decoder__decoder_layers=10**9),
    "layers in parts": config(encoder__depths=[900] * 10, encoder__num_heads=[1] * 10),
    "vocabulary": config(decoder__vocab_size=10**12),
    "width infinite": config(decoder__d_model=float("inf")),
    "share no number": config(encoder__layer_norm_eps=float("nan")),
    "digits without end": written(CONFIG, b'{"model_type": "vision-encoder-decoder", "a": ' + b"9" * 100_000 + b"}"),
    "window": config(encoder__window_size=2000, encoder__image_size=[8000, 8000]),
    "picture": config(encoder__image_size=[10**6, 10**6]),
    "architectures no list": both(config(architectures=3), config(model_type="mistral3")),
    "bits 0": config(quantization={"bits": 0, "group_size": 64}),
    "group 0": config(quantization={"bits": 4, "group_size": 0}),
    "group of a layer no number": config(
        quantization={"bits": 4, "group_size": 64, "decoder.lm_head": {"group_size": "x"}}
    ),
    "mode no name": config(quantization={"bits": 4, "group_size": 64, "mode": ["affine"]}),
    # tokenizers
    "tokenizer large": sparse(TOKENIZER, 3_000_000_000),
    "tokenizer too deep": written(TOKENIZER, DEEP),
    "tokenizer backtracks": _regex("(x+x+)+y"),
    "tokenizer of no pattern": _regex("("),
}


def _load(folder: Path) -> None:
    """Load it, and make a page ready: a template or a tokenizer may do its harm only then."""
    from PIL import Image

    from ocr_mlx.domain import ModelRef, Page, Prompt
    from ocr_mlx.model.load import expected_bytes, load_model

    ref = ModelRef(id=folder.name, path=folder)
    expected_bytes(ref)
    loaded = load_model(ref)
    page = Page(index=0, image=Image.new("RGB", (60, 80), "white"), width=60, height=80, dpi=None, origin="image")
    modes = loaded.family.modes
    loaded.processor.prepare(page, Prompt(text="x" * 2000), modes[loaded.family.default_mode])


def _try(name: str, folder: Path) -> dict[str, Any]:
    before = {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in folder.iterdir()}
    held, started = _peak(), time.monotonic()
    kind = text = ""
    try:
        _load(folder)
    except BaseException as error:
        kind, text = type(error).__name__, str(error)
    after = {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in folder.iterdir()}
    return {
        "name": name,
        "kind": kind,
        "text": text,
        "seconds": time.monotonic() - started,
        "megabytes": (_peak() - held) / 1e6,
        "untouched": before == after,
    }


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Make and try all of them."""
    from scripts.benchmark import families

    scratch = Path(sys.argv[1])
    for family in ("nougat", "lighton_ocr"):
        families.make(family, scratch / family, tiny=True)
        _load(scratch / family)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, size + ROOM))
    for number, (name, poison) in enumerate(POISONS.items()):
        chats = name in ("template", "tokenizer backtracks")
        folder = Path(shutil.copytree(scratch / ("lighton_ocr" if chats else "nougat"), scratch / f"case {number}"))
        poison(folder)
        print(json.dumps(_try(name, folder)), flush=True)


if __name__ == "__main__":
    main()
