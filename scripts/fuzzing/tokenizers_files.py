"""tokenizer.json, and the first words through it."""

from __future__ import annotations

from scripts.fuzzing.parts import model_folder, typed

from ocr_mlx.model.tokenizer import read_tokenizer


def one(data: bytes) -> None:
    """Whatever can be read encodes and decodes."""
    folder = model_folder()
    (folder / "tokenizer.json").write_bytes(data)
    with typed():
        tokenizer = read_tokenizer(folder, {})
        tokenizer.decode(list(range(min(tokenizer.get_vocab_size(), 8))))
