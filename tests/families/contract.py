"""What every family must keep, run over a tiny checkpoint of it.

@pytest.mark.parametrize("check", contract.CHECKS, ids=contract.name)
def test_contract(check, subject): check(subject)
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ocr_mlx.domain import ModelRef, Quantization
from ocr_mlx.model.base import DecodeState, Graph, LoadedModel, ModelInputs
from ocr_mlx.model.load import load_model
from ocr_mlx.quantize.convert import convert

Logits = NDArray[np.float32]
STEPS = 9
LIGHT = ("mlx", "PIL", "tokenizers", "huggingface_hub")
"""What importing a family's declaration must not import."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A tiny checkpoint, at least three different rows of one shape for it, and room for what is written.

    `declaration` is the module that holds FAMILY; `group_size` divides some of the checkpoint's layers;
    `tolerance` is allowed between two ways to the same float32 logits.
    """

    ref: ModelRef
    rows: Sequence[ModelInputs]
    declaration: str
    scratch: Path
    group_size: int = 32
    tolerance: float = 1e-4

    def load(self, **options: Any) -> LoadedModel:
        """The checkpoint, read anew in float32."""
        return load_model(self.ref, dtype="float32", **options)


def check_family(subject: Subject) -> None:
    """Run all checks."""
    for check in CHECKS:
        check(subject)


def name(check: Callable[[Subject], None]) -> str:
    """A check's name for test ids."""
    return check.__name__.removeprefix("check_")


def check_steps_equal_one_pass(subject: Subject) -> None:
    """One token at a time, several at once, and the rest in one pass give the same logits and the same ids."""
    graph = subject.load().graph
    ids, stepwise = greedy(graph, subject.rows)
    first, state = graph.prefill(subject.rows)
    whole = joined(first, graph.decode(mx.array(ids[:, :-1]), state))
    close(whole, stepwise, subject)
    first, state = graph.prefill(subject.rows)
    parts = [graph.decode(mx.array(ids[:, a:b]), state) for a, b in ((0, 3), (3, 4), (4, STEPS - 1))]
    close(joined(first, *parts), stepwise, subject)
    assert (whole.argmax(-1) == ids).all()


def check_states_do_not_disturb_each_other(subject: Subject) -> None:
    """Two batches that take turns say what each says alone."""
    graph = subject.load().graph
    groups = (subject.rows[:1], subject.rows[1:])
    alone = [greedy(graph, rows) for rows in groups]
    started = [graph.prefill(rows) for rows in groups]
    found = [[numbers(first)[:, None]] for first, _ in started]
    for step in range(STEPS - 1):
        for (ids, _), (_, state), steps in zip(alone, started, found, strict=True):
            steps.append(numbers(graph.decode(mx.array(ids[:, step : step + 1]), state)))
    for (_, expected), steps in zip(alone, found, strict=True):
        close(np.concatenate(steps, axis=1), expected, subject)


def check_rows_join_and_leave(subject: Subject) -> None:
    """A row that joins later, and rows that stay when others leave or change places, go on as if alone."""
    graph = subject.load().graph
    ids, expected = greedy(graph, subject.rows)
    last = len(subject.rows) - 1
    _, state = graph.prefill(subject.rows[:last])
    advance(graph, state, ids[:last], [0] * last, 4)
    _, late = graph.prefill(subject.rows[last:])
    state.merge(late)
    assert state.rows == len(subject.rows)
    at = [4] * last + [0]
    follow(graph, state, ids, expected, at, 2, subject)
    order = [last, 0]
    state.keep(order)
    assert state.rows == 2
    at = [at[row] + 2 for row in order]
    follow(graph, state, ids[order], expected[order], at, 2, subject)
    state.keep([0])
    follow(graph, state, ids[order[:1]], expected[order[:1]], [at[0] + 2], 2, subject)


def check_shorter_state_takes_longer_one(subject: Subject) -> None:
    """Merging works in both directions, and again after it."""
    graph = subject.load().graph
    ids, expected = greedy(graph, subject.rows)
    _, state = graph.prefill(subject.rows[:1])
    for row in range(1, len(subject.rows)):
        _, other = graph.prefill(subject.rows[row : row + 1])
        advance(graph, other, ids[row : row + 1], [0], 2 + row)
        state.merge(other)
    at = [0] + [2 + row for row in range(1, len(subject.rows))]
    follow(graph, state, ids, expected, at, 3, subject)


def check_trimmed_tokens_are_forgotten(subject: Subject) -> None:
    """After a row has been given wrong tokens and they were trimmed, it goes on as if nothing had been."""
    graph = subject.load().graph
    ids, expected = greedy(graph, subject.rows)
    count = len(subject.rows)
    _, state = graph.prefill(subject.rows)
    advance(graph, state, ids, [0] * count, 4)
    state.trim([1] * count)
    graph.decode(mx.array(ids[:, :3]), state)
    counts = [3 + min(row, 2) for row in range(count)]
    state.trim(counts)
    at = [3 + 3 - cut for cut in counts]
    follow(graph, state, ids, expected, at, 2, subject)
    follow(graph, state, ids, expected, [start + 2 for start in at], 2, subject)


def check_drafts_are_verified_row_by_row(subject: Subject) -> None:
    """Rows of different lengths verify drafts that are wrong from different places on, again and again."""
    graph = subject.load().graph
    ids, expected = greedy(graph, subject.rows, 2 * STEPS)
    state, at = ragged(graph, subject.rows, ids)
    for turn in range(3):
        draft = np.stack([row[start : start + 4] for row, start in zip(ids, at, strict=True)])
        right = [1 + (turn + row) % 4 for row in range(len(at))]
        for row, count in enumerate(right):
            draft[row, count:] = (draft[row, count:] + 1) % expected.shape[-1]
        found = numbers(graph.decode(mx.array(draft), state))
        for row, count in enumerate(right):
            close(found[row, :count], expected[row, at[row] + 1 : at[row] + 1 + count], subject)
        state.trim([4 - count for count in right])
        at = [start + count for start, count in zip(at, right, strict=True)]
    follow(graph, state, ids, expected, at, 2, subject)


def check_trim_right_after_merge_and_keep(subject: Subject) -> None:
    """What was just merged or kept can be trimmed at once, row by row, and goes on."""
    graph = subject.load().graph
    ids, expected = greedy(graph, subject.rows, 2 * STEPS)
    state, at = ragged(graph, subject.rows, ids)
    cuts = [min(row + 1, start) for row, start in enumerate(at)]
    state.trim(cuts)
    at = [start - cut for start, cut in zip(at, cuts, strict=True)]
    follow(graph, state, ids, expected, at, 2, subject)
    order = [len(at) - 1, 0]
    state.keep(order)
    state.trim([2, 1])
    at = [at[order[0]], at[order[1]] + 1]
    follow(graph, state, ids[order], expected[order], at, 2, subject)
    _, late = graph.prefill(subject.rows[1:2])
    state.merge(late)
    state.trim([0, 1, 0])
    order, at = [*order, 1], [at[0] + 2, at[1] + 1, 0]
    follow(graph, state, ids[order], expected[order], at, 2, subject)


def check_copies_of_a_row_go_their_own_way(subject: Subject) -> None:
    """A row that is kept twice is two rows."""
    graph = subject.load().graph
    ids, expected = greedy(graph, subject.rows, 2 * STEPS)
    state, at = ragged(graph, subject.rows, ids)
    order = [1, 0, 1]
    state.keep(order)
    at = [at[row] for row in order]
    tokens = np.stack([ids[row, start : start + 2] for row, start in zip(order, at, strict=True)])
    tokens[0] = (tokens[0] + 1) % expected.shape[-1]
    graph.decode(mx.array(tokens), state)
    state.trim([2, 0, 0])
    follow(graph, state, ids[order], expected[order], [at[0], at[1] + 2, at[2] + 2], 2, subject)


def check_passes_of_one_width_are_exact(subject: Subject) -> None:
    """Where every pass has the same number of rows, a row's logits are to the bit the same among any others."""
    graph, width = subject.load().graph, 4
    ids, _ = greedy(graph, subject.rows, 2 * STEPS)
    alone = []
    for row in range(len(subject.rows)):
        _, state = graph.prefill(subject.rows[row : row + 1])
        state.stand_apart()
        state.keep([0] * width)
        alone.append([advance(graph, state, ids[[row] * width], [step] * width, 1)[0, 0] for step in range(STEPS)])
    order = [*range(len(subject.rows))][::-1]
    _, state = graph.prefill(subject.rows[order[0] : order[0] + 1])
    state.stand_apart()
    for place, row in enumerate(order):
        if place:
            _, late = graph.prefill(subject.rows[row : row + 1])
            state.merge(late)
    state.keep([*range(len(order)), *[0] * (width - len(order))])
    rows = [*order, *[order[0]] * (width - len(order))]
    ahead = [2 * (row % 2) for row in rows]
    for step in range(2):
        advance(graph, state, ids[rows], [min(step, start) for start in ahead], 1)
        state.trim([1 - start // 2 for start in ahead])
    for step in range(STEPS - 2):
        found = advance(graph, state, ids[rows], [start + step for start in ahead], 1)[:, 0]
        for place, row in enumerate(order):
            np.testing.assert_array_equal(found[place], alone[row][ahead[place] + step])


def check_bytes_are_counted(subject: Subject) -> None:
    """The state tells its size, its arrays make it up, and one row less is less."""
    graph = subject.load().graph
    _, state = graph.prefill(subject.rows)
    mx.eval(state.arrays())
    assert state.nbytes == sum(array.nbytes for array in state.arrays()) > 0
    before = state.nbytes
    state.keep([0])
    assert 0 < state.nbytes < before


def check_positions_are_declared(subject: Subject) -> None:
    """The graph says how many positions it has, and the test's own steps fit."""
    assert subject.load().graph.max_positions >= STEPS + max(row.prompt_tokens for row in subject.rows)


def check_sanitize_twice_is_once(subject: Subject) -> None:
    """A second `sanitize` changes nothing, and what it leaves is exactly what the graph has."""
    graph: Any = subject.load().graph
    raw: dict[str, mx.array] = {}
    for file in sorted(subject.ref.path.glob("*.safetensors")):
        raw |= mx.load(str(file))
    once = graph.sanitize(dict(raw))
    twice = graph.sanitize(dict(once))
    assert once.keys() == twice.keys()
    assert all(mx.array_equal(once[key], twice[key]).item() for key in once)
    graph.load_weights(list(once.items()), strict=True)


def check_declaration_is_light(subject: Subject) -> None:
    """Importing FAMILY brings in no array, picture or tokenizer library."""
    code = (
        f"import sys; from {subject.declaration} import FAMILY;"
        f" print([name for name in {LIGHT!r} if name in sys.modules], FAMILY.name)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[] "), done.stdout


def check_conversion_equals_memory(subject: Subject) -> None:
    """Converting, saving and loading gives what quantizing in memory gives, and plain conversion gives the original."""
    for bits in (8, 4):
        packed = Quantization(bits=bits, group_size=subject.group_size)
        in_memory = subject.load(quantize=packed)
        folder = convert(subject.ref, subject.scratch / f"q{bits}", bits=bits, group_size=subject.group_size)
        converted = load_model(ModelRef(id="converted", path=folder), dtype="float32")
        assert converted.bytes < subject.load().bytes
        same(greedy(in_memory.graph, subject.rows), greedy(converted.graph, subject.rows))
    folder = convert(subject.ref, subject.scratch / "plain", bits=None)
    plain = load_model(ModelRef(id="plain", path=folder), dtype="float32")
    same(greedy(subject.load().graph, subject.rows), greedy(plain.graph, subject.rows))


def check_mixed_conversion_loads(subject: Subject) -> None:
    """A mixed conversion fits the graph and decodes."""
    folder = convert(subject.ref, subject.scratch / "mixed", bits=4, group_size=subject.group_size, mixed=True)
    ids, logits = greedy(load_model(ModelRef(id="mixed", path=folder), dtype="float32").graph, subject.rows)
    assert ids.shape == (len(subject.rows), STEPS)
    assert np.isfinite(logits).all()


CHECKS: tuple[Callable[[Subject], None], ...] = (
    check_steps_equal_one_pass,
    check_states_do_not_disturb_each_other,
    check_rows_join_and_leave,
    check_shorter_state_takes_longer_one,
    check_trimmed_tokens_are_forgotten,
    check_drafts_are_verified_row_by_row,
    check_trim_right_after_merge_and_keep,
    check_copies_of_a_row_go_their_own_way,
    check_passes_of_one_width_are_exact,
    check_bytes_are_counted,
    check_positions_are_declared,
    check_sanitize_twice_is_once,
    check_declaration_is_light,
    check_conversion_equals_memory,
    check_mixed_conversion_loads,
)


def greedy(
    graph: Graph, rows: Sequence[ModelInputs], steps: int = STEPS, never: Sequence[int] = ()
) -> tuple[NDArray[np.int64], Logits]:
    """Ids [rows, steps] and the logits [rows, steps, vocabulary] that they were taken from, end tokens ignored."""
    logits, state = graph.prefill(rows)
    seen, ids = [numbers(logits)], []
    for step in range(steps):
        choice = seen[-1].copy()
        choice[:, list(never)] = -np.inf
        ids.append(choice.argmax(-1))
        if step + 1 < steps:
            seen.append(numbers(graph.decode(mx.array(ids[-1][:, None]), state)[:, -1]))
    return np.stack(ids, 1), np.stack(seen, 1)


def ragged(graph: Graph, rows: Sequence[ModelInputs], ids: NDArray[np.int64]) -> tuple[DecodeState, list[int]]:
    """All rows in one state, each one token further than the one before it, and how far each is."""
    _, state = graph.prefill(rows[:1])
    for row in range(1, len(rows)):
        _, other = graph.prefill(rows[row : row + 1])
        advance(graph, other, ids[row : row + 1], [0], row)
        state.merge(other)
    return state, list(range(len(rows)))


def advance(graph: Graph, state: DecodeState, ids: NDArray[np.int64], at: Sequence[int], count: int) -> Logits:
    """Give each row the `count` tokens of `ids` from its own place on: logits [rows, count, vocabulary]."""
    tokens = np.stack([row[start : start + count] for row, start in zip(ids, at, strict=True)])
    return numbers(graph.decode(mx.array(tokens), state))


def follow(
    graph: Graph,
    state: DecodeState,
    ids: NDArray[np.int64],
    expected: Logits,
    at: Sequence[int],
    count: int,
    subject: Subject,
) -> None:
    """Advance token by token and compare with what each row says alone."""
    for step in range(count):
        places = [start + step for start in at]
        found = advance(graph, state, ids, places, 1)[:, 0]
        wanted = np.stack([row[place + 1] for row, place in zip(expected, places, strict=True)])
        close(found, wanted, subject)
        assert (found.argmax(-1) == wanted.argmax(-1)).all()


def joined(first: mx.array, *rest: mx.array) -> Logits:
    """Logits of a prefill [rows, vocabulary] and of decodes [rows, count, vocabulary] as one."""
    return np.concatenate([numbers(first)[:, None], *(numbers(part) for part in rest)], axis=1)


def close(found: Logits, expected: Logits, subject: Subject) -> None:
    """Equal within the subject's tolerance."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=subject.tolerance)


def same(one: tuple[NDArray[np.int64], Logits], other: tuple[NDArray[np.int64], Logits]) -> None:
    """The same ids from the same logits, to the bit."""
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1], other[1])


def numbers(array: mx.array) -> Logits:
    """As numpy, float32."""
    return np.array(array.astype(mx.float32))
