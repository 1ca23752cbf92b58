"""Writes the PyTorch files beside it and what torch says is in them. Run it with torch: `python make.py`."""

from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent


def main() -> None:
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6) / 7
    layer = torch.nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(base[:2, :3])
        layer.bias.copy_(base[0, :2])
    tensors = OrderedDict(
        base=base,
        transposed=base.t(),
        tail=base[1:, 2:],
        every_second=base.flatten()[::2],
        half=base.half(),
        bfloat=base.bfloat16(),
        double=base.double(),
        long=torch.tensor([-5, 2**40]),
        int=torch.tensor([1, -2], dtype=torch.int32),
        short=torch.tensor([1, -2], dtype=torch.int16),
        char=torch.tensor([-1], dtype=torch.int8),
        byte=torch.tensor([255], dtype=torch.uint8),
        bool=torch.tensor([True, False]),
        scalar=torch.tensor(2.5),
        empty=torch.zeros(0, 3),
        parameter=layer.weight,
    )
    expected = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    expected["double"] = expected["double"].float()
    save_file(expected, HERE / "tensors.safetensors")
    torch.save(tensors, HERE / "zip.bin")
    torch.save(tensors, HERE / "legacy.bin", _use_new_zipfile_serialization=False)
    torch.save(layer.state_dict(), HERE / "module.bin")
    torch.save({"state_dict": layer.state_dict(), "epoch": 3, "name": "x"}, HERE / "training.bin")
    torch.save({"a": torch.zeros(2).to_sparse()}, HERE / "sparse.bin")
    torch.save({"a": torch.zeros(2, dtype=torch.float8_e4m3fn)}, HERE / "float8.bin")


if __name__ == "__main__":
    main()
