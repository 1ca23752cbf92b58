"""config.json: which family, which packing, and a graph that is never computed."""

from __future__ import annotations

from scripts.fuzzing import checkpoints
from scripts.fuzzing.parts import model_folder, typed

from ocr_mlx.model.folder import CONFIG, quantization_of, read_config
from ocr_mlx.model.load import open_checkpoint


def one(data: bytes) -> None:
    """Changes to a tiny checkpoint's config.json, or the bytes as that file."""
    name, rest = checkpoints.chosen(data)
    folder = model_folder()
    (folder / CONFIG).write_bytes(checkpoints.changed(name, CONFIG, rest))
    with typed():
        quantization_of(read_config(folder))
    with typed():
        assert open_checkpoint(folder).graph.max_positions > 0
