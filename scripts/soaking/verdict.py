"""Whether all was well: the answers counted, and whether memory, threads and descriptors stayed flat."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scripts.soaking.mix import Outcome
from scripts.soaking.watch import Sample, share

SHOWN = 20
_BINS = 30
"""Means of so many stretches are fitted, not single looks: neighbouring looks say the same thing twice."""
_LEAST = 5


class Ledger:
    """What came of everything. Any thread may write."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.problems: list[str] = []
        self._lock = threading.Lock()

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Count them."""
        with self._lock:
            for one in outcomes:
                self.counts[(one.kind, one.status)] += 1
                if one.problem:
                    self.problems.append(f"{one.kind}: {one.problem}")

    def statuses(self) -> Counter[str]:
        """Answers by status."""
        with self._lock:
            return sum((Counter({status: n}) for (_, status), n in self.counts.items()), Counter[str]())

    def kinds(self) -> dict[str, Counter[str]]:
        """Statuses by what was done."""
        with self._lock:
            kinds: dict[str, Counter[str]] = {}
            for (kind, status), count in sorted(self.counts.items()):
                kinds.setdefault(kind, Counter())[status] += count
            return kinds


@dataclass(frozen=True, kw_only=True, slots=True)
class Trend:
    """A straight line through what was seen: `growth` over the whole stretch, and the `error` of that, in the same unit."""

    growth: float
    error: float
    mean: float

    def is_flat(self, margin: float) -> bool:
        """Whether it grew by less than `margin`, as far as the noise allows to say."""
        return self.growth - 2 * self.error < margin


def trend(times: Sequence[float], values: Sequence[float]) -> Trend | None:
    """Least squares through the means of stretches; None for too few."""
    if len(times) < 2 * _LEAST:
        return None
    bins = min(_BINS, len(times) // 2)
    x = np.array([part.mean() for part in np.array_split(np.asarray(times, float), bins)])
    y = np.array([part.mean() for part in np.array_split(np.asarray(values, float), bins)])
    across = ((x - x.mean()) ** 2).sum()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / across
    rest = y - y.mean() - slope * (x - x.mean())
    error = math.sqrt((rest**2).sum() / (bins - 2) / across)
    span = times[-1] - times[0]
    return Trend(growth=float(slope * span), error=float(error * span), mean=float(y.mean()))


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """What must stay flat over the second half: how it is called, where it stands, and by how much it may grow."""

    name: str
    margin: float
    value: Callable[[Sample], float]


MEASURES = (
    Measure(name="memory of the server, MB", margin=32, value=lambda one: one.server / 1e6),
    Measure(name="memory of its children, MB", margin=64, value=lambda one: one.children / 1e6),
    Measure(name="descriptors", margin=3, value=lambda one: one.descriptors),
    Measure(name="threads", margin=8, value=lambda one: one.threads),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """All that was seen. `left` is what /metrics still counts at the end, `status` the server's exit status."""

    ledger: Ledger
    samples: Sequence[Sample]
    livez: Sequence[float]
    late: Sequence[float]
    before: Sample
    after: Sample | None
    left: dict[str, float]
    status: int
    seconds: float


def judge(seen: Evidence) -> tuple[bool, str]:
    """Whether all was well, and the table that says why."""
    lines = [
        f"{seen.seconds:.0f} s, {sum(seen.ledger.counts.values())} answers",
        "",
        "| done | answers by status |",
        "|---|---|",
    ]
    for kind, statuses in seen.ledger.kinds().items():
        lines.append(f"| {kind} | {', '.join(f'{status}: {count}' for status, count in sorted(statuses.items()))} |")
    fine, flat = _flatness(seen.samples)
    lines += ["", *flat, "", *_figures(seen), ""]
    findings = list(_findings(seen)) + ([] if fine else ["something grew"])
    lines += [
        *(f"- {problem}" for problem in seen.ledger.problems[:SHOWN]),
        "" if seen.ledger.problems else "all answers right",
    ]
    lines.append("NOT WELL: " + "; ".join(findings) if findings else "WELL")
    return not findings, "\n".join(lines)


def _flatness(samples: Sequence[Sample]) -> tuple[bool, list[str]]:
    half = samples[len(samples) // 2 :]
    lines = ["| over the second half | mean | growth | may grow | |", "|---|---|---|---|---|"]
    fine = True
    for one in MEASURES:
        found = trend([sample.at for sample in half], [one.value(sample) for sample in half])
        if found is None:
            lines.append(f"| {one.name} | - | - | {one.margin:g} | too short to say |")
            continue
        flat = found.is_flat(one.margin)
        fine = fine and flat
        grown = f"{found.growth:+.1f} ± {found.error:.1f}"
        lines.append(f"| {one.name} | {found.mean:.1f} | {grown} | {one.margin:g} | {'flat' if flat else 'GROWS'} |")
    return fine, lines


def _figures(seen: Evidence) -> list[str]:
    lines = [livez(seen.livez, seen.late)]
    if seen.samples:
        server, largest = max(one.server for one in seen.samples), max(one.largest for one in seen.samples)
        lines.append(f"most memory: server {server / 1e6:.0f} MB, one child {largest / 1e6:.0f} MB")
    lines.append(f"before: {state(seen.before)}")
    if seen.after is not None:
        lines.append(f"after:  {state(seen.after)}")
    return lines


def _findings(seen: Evidence) -> Iterable[str]:
    if seen.ledger.problems:
        yield f"{len(seen.ledger.problems)} wrong answers"
    if unanswered := sum(math.isnan(one) for one in seen.livez):
        yield f"/livez did not answer {unanswered} times"
    if kept := {name: value for name, value in seen.left.items() if value}:
        yield f"not idle at the end: {kept}"
    bursts = seen.ledger.kinds().get("burst", Counter())
    if bursts and not bursts["429"]:
        yield "no burst was refused: the queue has no end"
    if seen.after is None:
        yield "the server was gone at the end"
    if seen.status:
        yield f"the server ended with status {seen.status}"


def state(one: Sample) -> str:
    """A look on one line."""
    return (
        f"server {one.server / 1e6:.0f} MB, {one.processes} children {one.children / 1e6:.0f} MB, "
        f"{one.threads} threads, {one.descriptors} descriptors"
    )


def livez(answers: Sequence[float], late: Sequence[float]) -> str:
    """How soon `/livez` answered, on one line."""
    parts = (("p50", 0.5), ("p99", 0.99), ("most", 1.0))
    told = ", ".join(f"{name} {share(answers, part):.1f} ms" for name, part in parts)
    return f"/livez: {len(answers)} answers, {told}; asked late: p99 {share(late, 0.99):.1f} ms"
