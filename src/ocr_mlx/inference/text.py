"""Tokens to text, one token at a time: only whole characters come out, and never a part of a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from ocr_mlx.model.tokenizer import unbroken


class TextStream:
    """One row's text as it grows. `text` is what has been let out; a possible start of a stop string is held back."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._stop = tuple(s for s in stop if s)
        self._held = ""
        self.text = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """Take a token; return the text it lets out. Sets `stopped` when a stop string is complete."""
        with unbroken():
            piece = self._stream.step(self._tokenizer, token)
        return self._release(piece) if piece else ""

    def finish(self, tokens: Sequence[int]) -> str:
        """The text that was held back. `tokens` are all of the row's tokens; `text` is then exactly their decoding."""
        if self.stopped:
            return ""
        with unbroken():
            whole = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        rest = whole[len(self.text) :] if whole.startswith(self.text) else ""
        self.text = whole
        self._held = ""
        return rest

    def rewind(self, tokens: Sequence[int]) -> None:
        """Start again as if only these tokens had come; the text is then the beginning of what it was."""
        self._stream = DecodeStream(skip_special_tokens=True)
        self._held = self.text = ""
        self.stopped = False
        for token in tokens:
            self.add(token)

    def _release(self, piece: str) -> str:
        pending = self._held + piece
        cut = min((at for s in self._stop if (at := pending.find(s)) >= 0), default=-1)
        if cut >= 0:
            self.stopped = True
            out, self._held = pending[:cut], ""
        else:
            keep = max((_overlap(pending, s) for s in self._stop), default=0)
            out, self._held = pending[: len(pending) - keep], pending[len(pending) - keep :]
        self.text += out
        return out


def alike(one: str, other: str) -> int:
    """How many characters, from the first on, are the same."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
