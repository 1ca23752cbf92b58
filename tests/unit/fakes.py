"""A family without weights: every row says exactly what its script says, so logic can be tested to the letter.

A page's script is its list of rows, a row its list of token ids; id 0 ends. The vocabulary is bytes: token 3 + b is byte b.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

import mlx.core as mx
import numpy as np
from PIL import Image
from tokenizers import Tokenizer, decoders, models

from ocr_mlx.domain import DecodeOverrides, DecodeParams, ModelRef, OcrRequest, Page, Prompt, Upload
from ocr_mlx.errors import InvalidOption, OcrMlxError
from ocr_mlx.model.base import Family, LoadedModel, Mode, ModelInputs, PageText, PreparedPage, RepetitionTest

EOS = 0
VOCABULARY = 3 + 256


def byte_tokenizer() -> Tokenizer:
    """Ids 0..2 are special, id 3 + b is byte b."""
    vocabulary = {"</s>": 0, "<pad>": 1, "<unk>": 2} | {f"<0x{b:02X}>": 3 + b for b in range(256)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(["</s>", "<pad>", "<unk>"])
    return tokenizer


def ids(text: str) -> list[int]:
    """The script that says `text`, without its end."""
    return [3 + b for b in text.encode()]


class ScriptState:
    def __init__(self, scripts: list[list[int]]) -> None:
        self.scripts = scripts
        self.at = [0] * len(scripts)

    @property
    def rows(self) -> int:
        return len(self.scripts)

    @property
    def nbytes(self) -> int:
        return sum(self.at) + len(self.at)

    def arrays(self) -> list[mx.array]:
        return []

    def merge(self, other: ScriptState) -> None:
        self.scripts += other.scripts
        self.at += other.at

    def keep(self, rows: Sequence[int]) -> None:
        self.scripts = [self.scripts[i] for i in rows]
        self.at = [self.at[i] for i in rows]

    def trim(self, counts: Sequence[int]) -> None:
        self.at = [at - n for at, n in zip(self.at, counts, strict=True)]

    def stand_apart(self) -> None:
        pass


class ScriptGraph:
    """Logits 10 for the script's next token, 0 elsewhere. `widths` records every decode step's number of rows."""

    max_positions = 4096

    def __init__(self) -> None:
        self.widths: list[int] = []
        self.prefills: list[int] = []
        self.gate: Callable[[], None] = lambda: None

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        return weights

    def prefill(self, inputs: Sequence[ModelInputs]) -> tuple[mx.array, ScriptState]:
        self.gate()
        if any(row.extras.get("poison") for row in inputs):
            raise RuntimeError("poisoned picture")
        self.prefills.append(len(inputs))
        state = ScriptState([list(row.extras["script"]) for row in inputs])
        return self._logits(state), state

    def decode(self, tokens: mx.array, state: ScriptState) -> mx.array:
        self.gate()
        self.widths.append(state.rows)
        steps = []
        for _ in range(tokens.shape[1]):
            state.at = [at + 1 for at in state.at]
            steps.append(self._logits(state))
        return mx.stack(steps, axis=1)

    @staticmethod
    def _logits(state: ScriptState) -> mx.array:
        logits = np.zeros((state.rows, VOCABULARY), dtype=np.float32)
        for i, (script, at) in enumerate(zip(state.scripts, state.at, strict=True)):
            logits[i, script[at] if at < len(script) else EOS] = 10.0
        return mx.array(logits)


class ScriptProcessor:
    """The page's pixel (0, 0) red value picks its rows from `scripts`."""

    dpi = 96.0
    eos_token_ids = frozenset({EOS})
    suppress_token_ids: tuple[int, ...] = ()

    def __init__(self, scripts: list[list[list[int]]], max_rows: int = 8) -> None:
        self.scripts = scripts
        self.max_rows = max_rows
        self.tokenizer = byte_tokenizer()
        self.make_test: Callable[[], RepetitionTest | None] = lambda: None

    def prepare(self, page: Page, prompt: Prompt, mode: Mode) -> PreparedPage:
        key = page.image.getpixel((0, 0))[0]
        if key == 255:
            raise OcrMlxError("prepare failed", hint="as told")
        if prompt.text == f"not {key}":
            raise InvalidOption("This cannot be asked.", hint="Ask something else.")
        rows = tuple(self._row(script) for script in self.scripts[key])
        return PreparedPage(rows=rows, glue=("", *("\n" for _ in rows[1:])))

    @staticmethod
    def _row(script: list[int]) -> ModelInputs:
        pixels = np.zeros((1, 1, 1), dtype=np.float32)
        return ModelInputs(
            token_ids=(1,), pixels=pixels, extras={"script": script}, prompt_tokens=1, effective_size=(1, 1)
        )

    def postprocess(self, raw_text: str, page: Page, prepared: PreparedPage, mode: Mode) -> PageText:
        return PageText(text=raw_text.strip())

    def repetition_test(self) -> RepetitionTest | None:
        return self.make_test()


def fake_model(scripts: list[list[list[int]]], *, max_rows: int = 8, name: str = "fake") -> LoadedModel:
    """A loaded model that reads page k as `scripts[k]`."""
    family = Family(
        name="fake",
        model_types=("fake",),
        checkpoints=(),
        aliases={},
        licence="none",
        files=("*.json",),
        modes={
            "plain": Mode(name="plain"),
            "short": Mode(name="short", overrides=DecodeOverrides(max_new_tokens=5)),
            "together": Mode(name="together", pages_together=2),
        },
        default_mode="plain",
        defaults=DecodeParams(),
        build=lambda config: ScriptGraph(),
        processor=lambda folder, config: ScriptProcessor(scripts),
        recipe=lambda path, mixed: False,
    )
    return LoadedModel(
        ref=ModelRef(id=name, path=Path("fake")),
        family=family,
        graph=ScriptGraph(),
        processor=ScriptProcessor(scripts, max_rows),
        bytes=1000,
    )


def page(index: int, key: int) -> Page:
    """A page that is not blank and whose script is number `key`."""
    image = Image.new("RGB", (16, 16), "white")
    image.paste((0, 0, 0), (4, 4, 12, 12))
    image.putpixel((0, 0), (key, 0, 0))
    return Page(index=index, image=image, width=16, height=16, dpi=None, origin="image")


class FakeDocument:
    """Pages by script number; a negative number is a page that cannot be read, None a blank one."""

    def __init__(self, keys: Sequence[int | None]) -> None:
        self.keys = list(keys)
        self.closed = False
        self.opened: list[int] = []
        self.asked: list[tuple[float, int]] = []

    @property
    def indices(self) -> tuple[int, ...]:
        return tuple(range(len(self.keys)))

    def page(self, index: int, *, dpi: float, padding: int = 0) -> Page:
        self.opened.append(index)
        self.asked.append((dpi, padding))
        key = self.keys[index]
        if key is None:
            image = Image.new("RGB", (16, 16), "white")
            return Page(index=index, image=image, width=16, height=16, dpi=None, origin="image")
        if key < 0:
            raise OcrMlxError("This page is broken.", hint="Repair it.")
        return page(index, key)

    def close(self) -> None:
        self.closed = True


class FakeClock:
    """Time that moves when told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self.jobs: dict[str, tuple[float, Callable[[], None]]] = {}

    def start(self, key: str, seconds: float, function: Callable[[], None]) -> None:
        self.jobs[key] = (self.now + seconds, function)

    def stop(self, key: str) -> None:
        self.jobs.pop(key, None)

    def close(self) -> None:
        self.jobs.clear()

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for key, (due, function) in list(self.jobs.items()):
            if due <= self.now:
                del self.jobs[key]
                function()


def run_now(function: Callable[[], None]) -> Future[None]:
    """Stands in for the worker: runs at once."""
    future: Future[None] = Future()
    future.set_result(function())
    return future


def request(**fields: object) -> OcrRequest:
    """A request whose source nobody looks at."""
    return OcrRequest(source=Upload(data=b"x"), **fields)  # type: ignore[arg-type]


def never() -> threading.Event:
    """A cancel flag that nobody sets."""
    return threading.Event()
