"""From the tower's patches to the decoder's tokens.

Source: transformers 5.23, `models/lighton_ocr/modeling_lighton_ocr.py`.
"""

from __future__ import annotations

import mlx.core as mx
from mlx import nn

from ocr_mlx.model.families.lighton_ocr.config import LightOnConfig
from ocr_mlx.model.layers.activations import activation

_GELU = activation("gelu")


class PatchMerger(nn.Module):
    """Squares of neighbouring patches become one vector."""

    def __init__(self, config: LightOnConfig) -> None:
        super().__init__()
        width = config.vision.hidden_size
        self.side = config.spatial_merge_size
        self.merging_layer = nn.Linear(width * self.side**2, width, bias=False)

    def __call__(self, patches: mx.array) -> mx.array:
        """Patches [pictures, rows, columns, width] to [pictures, tokens, width], tokens row-major.

        A last row or column that fills no square is dropped. A square's numbers lie channel by channel (as
        `torch.nn.functional.unfold` lays them out), not patch by patch.
        """
        pictures, rows, columns, width = patches.shape
        side = self.side
        down, across = rows // side, columns // side
        whole = patches[:, : down * side, : across * side]
        squares = whole.reshape(pictures, down, side, across, side, width).transpose(0, 1, 3, 5, 2, 4)
        out: mx.array = self.merging_layer(squares.reshape(pictures, down * across, width * side * side))
        return out


class Projector(nn.Module):
    """Norm, merger, two linear layers with an exact GELU between them."""

    def __init__(self, config: LightOnConfig) -> None:
        super().__init__()
        width, out = config.vision.hidden_size, config.text.hidden_size
        self.norm = nn.RMSNorm(width, eps=config.text.rms_norm_eps)
        self.patch_merger = PatchMerger(config)
        self.linear_1 = nn.Linear(width, out, bias=False)
        self.linear_2 = nn.Linear(out, out, bias=False)

    def __call__(self, patches: mx.array) -> mx.array:
        """Patches [pictures, rows, columns, width] to [pictures, tokens, the decoder's width]."""
        merged = self.patch_merger(self.norm(patches))
        out: mx.array = self.linear_2(_GELU(self.linear_1(merged)))
        return out
