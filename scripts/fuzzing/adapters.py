"""adapter_config.json, and where it says its base is."""

from __future__ import annotations

from scripts.fuzzing.parts import model_folder, typed

from ocr_mlx.model.adapter import base_folder, read_adapter


def one(data: bytes) -> None:
    """What can be read has a rank and a scale, and no base outside the roots."""
    folder = model_folder()
    (folder / "adapter_config.json").write_bytes(data)
    with typed():
        adapter = read_adapter(folder)
        assert adapter.rank > 0 and adapter.scale > 0
        found = base_folder(adapter, adapter.base, [folder.parent])
        assert found is None or found.resolve().is_relative_to(folder.parent.resolve())
