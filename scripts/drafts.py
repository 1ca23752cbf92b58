"""Shows that drafts change no page and how much they save: every page is read with and without them, in turn, in one run.

    python scripts/drafts.py                          200 pages that the script draws, and those of a corpus if there is one
    python scripts/drafts.py --pages 20               fewer
    python scripts/drafts.py --model FOLDER           another model than the built-in one
    python scripts/drafts.py --corpus FOLDER          PDFs of this folder that have a text layer

Each class of pages is one kind of text layer, right or wrong. For each class: whether every page's tokens and text are the
same with and without drafts, how many passes through the model a token takes, how many drafted tokens were right, and the
medians of the pages' times, and of the processor's times, without drafts over those with them. Exits with 1 where any page
differs. Times mean something only on a machine that does nothing else; the processor's are less easily disturbed.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [path for path in (str(REPO), str(REPO / "src")) if path not in sys.path]

from scripts.drafting import pages  # noqa: E402

from ocr_mlx.domain import OcrRequest, PageResult, Upload  # noqa: E402 - after the path
from ocr_mlx.errors import OcrMlxError  # noqa: E402
from ocr_mlx.pages.load import PageLimits, open_document  # noqa: E402
from ocr_mlx.pages.pool import PageProcesses  # noqa: E402
from ocr_mlx.settings import Settings  # noqa: E402

if TYPE_CHECKING:
    from ocr_mlx.engine.service import OcrService

_WARM_UP = 3
"""Pages that are read before anything is counted: the first drafts of a model also measure how it rounds."""
Sample = tuple[str, bytes, str]
"""The class, the document, and the page to read, from 1."""


@dataclass(slots=True)
class Tally:
    """One class of pages."""

    same: int = 0
    different: list[str] = field(default_factory=list)
    tokens: int = 0
    plain_steps: int = 0
    steps: int = 0
    drafted: int = 0
    accepted: int = 0
    plain_seconds: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    work: list[float] = field(default_factory=list)
    """Processor time without drafts over that with them, page by page."""

    def add(self, name: str, plain: PageResult, drafted: PageResult, work: float) -> None:
        """Count one page, read both ways."""
        self.work.append(work)
        self.tokens += plain.generated_tokens
        self.plain_steps += plain.decode_steps
        self.steps += drafted.decode_steps
        self.drafted += drafted.drafted
        self.accepted += drafted.accepted
        self.plain_seconds.append(plain.seconds)
        self.seconds.append(drafted.seconds)
        if (plain.token_ids, plain.text, plain.status) == (drafted.token_ids, drafted.text, drafted.status):
            self.same += 1
        else:
            self.different.append(name)

    @classmethod
    def all_of(cls, tallies: Iterable[Tally]) -> Tally:
        """Several classes as one."""
        whole = cls()
        for tally in tallies:
            for part in fields(cls):
                setattr(whole, part.name, getattr(whole, part.name) + getattr(tally, part.name))
        return whole

    def line(self, name: str) -> str:
        """A row of the table."""
        pages = len(self.work)
        ratios = [plain / drafted for plain, drafted in zip(self.plain_seconds, self.seconds, strict=True)]
        cells = (
            name,
            f"{self.same}/{pages}",
            f"{self.tokens / pages:.0f}",
            f"{self.plain_steps / max(self.tokens, 1):.2f}",
            f"{self.steps / max(self.tokens, 1):.2f}",
            f"{self.plain_steps / max(self.steps, 1):.2f}",
            f"{self.drafted / max(self.tokens, 1):.2f}",
            f"{self.accepted / max(self.drafted, 1):.2f}",
            f"{statistics.median(self.plain_seconds):.2f}",
            f"{statistics.median(self.seconds):.2f}",
            f"{statistics.median(ratios):.2f}",
            f"{statistics.median(self.work):.2f}",
        )
        return "| " + " | ".join(cells) + " |"


HEAD = (
    "| text layer | same | tokens/page | passes/token, plain | with drafts | fewer | drafted/token | right | s/page, plain"
    " | with drafts | faster | less work |\n|---|---|---|---|---|---|---|---|---|---|---|---|"
)


def main() -> int:
    """Read everything both ways and print the table."""
    options = parse()
    rng = random.Random(options.seed)
    with PageProcesses() as renderer:
        samples = [*drawn(options.pages, rng, renderer), *found(options.corpus, options.most, renderer)]
    tallies = measure(options.model, samples)
    print(HEAD)
    for name, tally in tallies.items():
        print(tally.line(name))
    print(Tally.all_of(tallies.values()).line("all"))
    differing = [name for tally in tallies.values() for name in tally.different]
    read_both_ways = sum(len(tally.work) for tally in tallies.values())
    print(f"\n{read_both_ways} pages; {len(differing)} differ" + "".join(f"\n  {name}" for name in differing))
    return 1 if differing else 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=200, help="how many to draw")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--corpus", type=Path, default=REPO.parent / "shared" / "corpus")
    parser.add_argument("--most", type=int, default=20, help="pages of the corpus")
    return parser.parse_args()


def drawn(count: int, rng: random.Random, renderer: PageProcesses) -> Iterator[Sample]:
    """Pages of all classes in turn."""
    texts = pages.paragraphs()
    changes: dict[str, tuple[int, Callable[[pages.Words], pages.Words] | None]] = {
        "right": (1, None),
        "right, two columns": (2, None),
        "ligatures, hyphens": (1, pages.ligatures),
        "2% wrong letters": (1, pages.wrong_letters(0.02, rng)),
        "10% wrong letters": (1, pages.wrong_letters(0.1, rng)),
        "30% wrong letters": (1, pages.wrong_letters(0.3, rng)),
        "5% wrong words": (1, pages.wrong_words(0.05, rng)),
        "20% wrong words": (1, pages.wrong_words(0.2, rng)),
        "lines shuffled": (1, pages.shuffled(rng)),
        "columns read across": (2, pages.read_across),
        "another page's": (1, pages.of_another_page(rng, texts)),
        "misplaced": (1, pages.misplaced),
        "none": (1, pages.nothing),
    }
    for number in range(count):
        name = list(changes)[number % len(changes)]
        columns, change = changes[name]
        data = pages.draw_page(rng, texts, columns=columns, hyphens=name.startswith("ligatures"))
        yield name, data if change is None else pages.spoil(data, change, renderer), "1"


def found(folder: Path, most: int, renderer: PageProcesses) -> Iterator[Sample]:
    """The first page of each PDF in a folder that has a text layer and is not very large, as far as `most`."""
    count = 0
    for path in sorted(folder.rglob("*.pdf")) if folder.is_dir() else ():
        if count == most:
            return
        data = path.read_bytes()
        if len(data) < 5_000_000 and has_words(data, renderer):
            count += 1
            yield "corpus", data, "1"


def has_words(data: bytes, renderer: PageProcesses) -> bool:
    """Whether the first page can be drawn and has at least 30 words."""
    try:
        with open_document(data, limits=PageLimits(), renderer=renderer) as document:
            return len(document.page(0, dpi=72).text_layer or ()) >= 30
    except OcrMlxError:
        return False


def measure(model: str, samples: list[Sample]) -> dict[str, Tally]:
    """Read each page with both engines, which takes turns being first."""
    options = replace(Settings.from_env().engine_options(), default_model=model, keep_alive=-1.0, page_cache_bytes=0)
    from ocr_mlx.engine.build import build_service  # the settings have settled the BLAS by now

    plain, drafted = (build_service(replace(options, drafts=drafts)) for drafts in (False, True))
    tallies: dict[str, Tally] = {}
    try:
        for sample in samples[:_WARM_UP]:
            for service in (plain, drafted):
                read(service, sample)
        began = time.monotonic()
        for number, sample in enumerate(samples):
            order = (plain, drafted) if number % 2 else (drafted, plain)
            results, work = {}, {}
            for service in order:
                started = time.process_time()
                results[id(service)] = read(service, sample)
                work[id(service)] = time.process_time() - started
            tally = tallies.setdefault(sample[0], Tally())
            less = work[id(plain)] / work[id(drafted)]
            tally.add(f"{sample[0]}, sample {number}", results[id(plain)], results[id(drafted)], less)
            spent = time.monotonic() - began
            print(f"\r{number + 1}/{len(samples)} pages, {spent:.0f} s", end="", file=sys.stderr, flush=True)
    except KeyboardInterrupt:  # what was read until now is worth a table
        pass
    finally:
        print(file=sys.stderr)
        for service in (plain, drafted):
            service.close()
    return tallies


def read(service: OcrService, sample: Sample) -> PageResult:
    """One page's result."""
    _, data, page = sample
    return service.run(OcrRequest(source=Upload(data=data), page_range=page, fresh=True)).pages[0]


if __name__ == "__main__":
    sys.exit(main())
