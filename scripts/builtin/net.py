"""The Nougat graph (DonutSwin encoder, MBart decoder) in lean torch, and its Hugging Face tensor names.

It computes what transformers' `VisionEncoderDecoderModel` computes, with q, k and v in one product and the strip's
width free. export.py splits them again and can compare the logits.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PAD, START, END = 1, 0, 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """The hyper-parameters. Pictures are [planes, height, width]; the stride of the encoder's output is 8 pixels."""

    vocabulary: int
    planes: int
    height: int = 24
    width: int = 256
    patch: int = 4
    window: int = 2
    embed: int = 64
    depths: tuple[int, int] = (2, 6)
    head: int = 32
    decoder_layers: int = 3
    positions: int = 96

    @property
    def hidden(self) -> int:
        """The width of the encoder's last stage, which is the decoder's width too."""
        return 2 * self.embed


class WindowAttention(nn.Module):
    """Attention inside `window` x `window` cells with a learned bias by relative position."""

    def __init__(self, width: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("bias_index", relative_index(window), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mix [batch, rows, columns, width] inside windows, padded with zeros at the right and below as upstream."""
        batch, rows, columns, width = x.shape
        size = self.window
        x = F.pad(x, (0, 0, 0, -columns % size, 0, -rows % size))
        full_rows, full_columns = x.shape[1:3]
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
        x = x.view(batch, full_rows // size, size, full_columns // size, size, width)
        x = x.transpose(2, 3).reshape(batch, -1, size * size, width)
        qkv = self.qkv(x).view(*x.shape[:3], 3, self.heads, -1).permute(3, 0, 1, 4, 2, 5)
        bias = self.bias_table[self.bias_index].permute(2, 0, 1)[None]
        if self.shift:
            bias = bias + shift_mask(full_rows, full_columns, size, self.shift).to(bias.device)[:, None]
        x = attend(qkv[0], qkv[1], qkv[2], bias)
        x = self.out(x.transpose(2, 3).flatten(3))
        x = x.view(batch, full_rows // size, full_columns // size, size, size, width)
        x = x.transpose(2, 3).reshape(batch, full_rows, full_columns, width)
        if self.shift:
            x = torch.roll(x, (self.shift, self.shift), (1, 2))
        return x[:, :rows, :columns]


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Softmax attention over [..., cells, head] with `bias` [..., cells, cells]; small sizes run faster so."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + bias.to(q.dtype)
    return torch.softmax(scores, -1) @ v


def relative_index(window: int) -> Tensor:
    """Row of the bias table for every pair of cells of a window, [cells, cells]."""
    cells = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
    offset = cells[:, :, None] - cells[:, None, :] + window - 1
    return offset[0] * (2 * window - 1) + offset[1]


def shift_mask(rows: int, columns: int, window: int, shift: int) -> Tensor:
    """-100 between cells that only the cyclic shift brought together, [windows, cells, cells]."""
    region = axis_regions(rows, window, shift)[:, None] * 3 + axis_regions(columns, window, shift)[None]
    region = region.view(rows // window, window, columns // window, window).transpose(1, 2).flatten(0, 1).flatten(1)
    return (region[:, :, None] != region[:, None, :]).float() * -100.0


def axis_regions(length: int, window: int, shift: int) -> Tensor:
    """0, 1 or 2 for each cell of one axis: before, in, or rolled into the last window."""
    index = torch.arange(length)
    return (index >= length - window).long() + (index >= length - shift).long()


class SwinBlock(nn.Module):
    """Window attention and a GELU layer, each behind a norm and added to its input."""

    def __init__(self, width: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-5), nn.LayerNorm(width, eps=1e-5)
        self.attention = WindowAttention(width, heads, window, shift)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, rows, columns, width] to the same shape."""
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Encoder(nn.Module):
    """Two Swin stages with a patch merging between them."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.patch = shape.patch
        self.project = nn.Conv2d(shape.planes, shape.embed, shape.patch, shape.patch)
        self.norm = nn.LayerNorm(shape.embed)
        self.merge_norm = nn.LayerNorm(4 * shape.embed)
        self.merge = nn.Linear(4 * shape.embed, shape.hidden, bias=False)
        self.stages = nn.ModuleList(
            nn.ModuleList(
                SwinBlock(width, width // shape.head, shape.window, shape.window // 2 * (index % 2))
                for index in range(depth)
            )
            for width, depth in zip((shape.embed, shape.hidden), shape.depths, strict=True)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Read [batch, planes, height, width] into [batch, height / 8, width / 8, hidden]."""
        x = self.norm(self.project(pixels).permute(0, 2, 3, 1))
        for block in self.stages[0]:
            x = block(x)
        x = torch.cat([x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)], -1)
        x = self.merge(self.merge_norm(x))
        for block in self.stages[1]:
            x = block(x)
        return x


class DecoderLayer(nn.Module):
    """Causal attention over the text, attention to the picture, and a GELU layer, each behind a norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.self_norm, self.cross_norm, self.mlp_norm = (nn.LayerNorm(width) for _ in range(3))
        self.qkv, self.self_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.cross_out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def split(self, x: Tensor, parts: int) -> list[Tensor]:
        """[batch, length, parts * width] as `parts` tensors [batch, heads, length, head]."""
        return list(x.unflatten(-1, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4))

    def forward(self, x: Tensor, picture: Tensor, past: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Map text [batch, length, width]; `past` holds keys and values of earlier text, then of the picture."""
        q, k, v = self.split(self.qkv(self.self_norm(x)), 3)
        if past:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
            memory = past[2:]
        else:
            memory = self.split(self.key_value(picture), 2)
        later = torch.full((q.shape[2], k.shape[2]), -100.0, device=q.device).triu(1 + k.shape[2] - q.shape[2])
        mixed = attend(q, k, v, later)
        x = x + self.self_out(mixed.transpose(1, 2).flatten(2))
        (query,) = self.split(self.query(self.cross_norm(x)), 1)
        mixed = attend(query, *memory, later.new_zeros(1))
        x = x + self.cross_out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x)))), [k, v, *memory]


class Decoder(nn.Module):
    """MBart's decoder over characters."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.scale = math.sqrt(shape.hidden)
        self.tokens = nn.Embedding(shape.vocabulary, shape.hidden, padding_idx=PAD)
        self.places = nn.Embedding(shape.positions + 2, shape.hidden)
        self.norm_in, self.norm_out = nn.LayerNorm(shape.hidden), nn.LayerNorm(shape.hidden)
        self.layers = nn.ModuleList(
            DecoderLayer(shape.hidden, shape.hidden // shape.head) for _ in range(shape.decoder_layers)
        )
        self.head = nn.Linear(shape.hidden, shape.vocabulary, bias=False)

    def forward(
        self, ids: Tensor, picture: Tensor, past: list[list[Tensor]] | None = None, at: int = 0
    ) -> tuple[Tensor, list[list[Tensor]]]:
        """Logits [batch, length, vocabulary] after `ids` [batch, length], whose first stands at place `at`."""
        places = torch.arange(at, at + ids.shape[1], device=ids.device) + 2
        x = self.norm_in(self.tokens(ids) * self.scale + self.places(places))
        kept: list[list[Tensor]] = []
        for index, layer in enumerate(self.layers):
            x, own = layer(x, picture, past[index] if past else None)
            kept.append(own)
        return self.head(self.norm_out(x)), kept


class Reader(nn.Module):
    """Encoder and decoder, and the CTC head that helps the encoder to learn and is left behind at export."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.encoder, self.decoder = Encoder(shape), Decoder(shape)
        self.frames = nn.Linear(shape.height // (2 * shape.patch) * shape.hidden, 2 * shape.vocabulary)
        self.apply(start_small)

    def forward(self, pixels: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Decoder logits [batch, length, vocabulary] and CTC logits [batch, 2 * columns, vocabulary]."""
        cells = self.encoder(pixels)
        columns = self.frames(cells.transpose(1, 2).flatten(2))
        logits, _ = self.decoder(ids, cells.flatten(1, 2))
        return logits, columns.unflatten(-1, (2, -1)).flatten(1, 2)

    @torch.no_grad()
    def read(self, pixels: Tensor, limit: int = 80) -> list[list[int]]:
        """Greedy ids of each picture, without the start and the end."""
        picture = self.encoder(pixels).flatten(1, 2)
        ids = torch.full((len(pixels), 1), START, device=pixels.device)
        done = torch.zeros(len(pixels), dtype=torch.bool, device=pixels.device)
        past: list[list[Tensor]] | None = None
        rows: list[Tensor] = []
        for at in range(limit):
            logits, past = self.decoder(ids, picture, past, at)
            ids = logits[:, -1:].argmax(-1).masked_fill(done[:, None], END)
            done |= ids[:, 0] == END
            rows.append(ids[:, 0])
            if bool(done.all()):
                break
        table = torch.stack(rows, 1).tolist()
        return [row[: row.index(END)] if END in row else row for row in table]


def start_small(module: nn.Module) -> None:
    """Normal weights of deviation 0.02, no biases: the start of Swin and MBart."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
