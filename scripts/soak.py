"""Half an hour of everything at once against the real server, and whether it comes through unharmed.

    python scripts/soak.py [--minutes 30] [--clients 6] [--seed 1] [--deterministic] [--page-cache-mb 0]

Starts the server with three models, of which two fit its memory: the built-in one, and tiny ones of two other families with
random numbers. Clients read pictures and PDFs by every service and stream, as jobs and at once; they cancel, leave without a
word, give too little time, send what is broken or makes no sense, come in bursts beyond the queue, evict and switch models.

Every answer is judged. A text must be what the same document gave in the first, quiet reading; an error must be the one that
was asked for; 429 is right at any time when it says when to come back, and no other 5xx is right but those that a question
wants (504 for too little time, 502 for an address that leads nowhere). At the end memory, threads and descriptors must have
been flat over the second half, the server idle, and its exit status 0.

Exit status: 0 when all was well, 1 when not. Ctrl-C ends it early, with the verdict so far.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
import psutil

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [path for path in (str(REPO), str(REPO / "src")) if path not in sys.path]

from scripts.soaking import verdict  # noqa: E402
from scripts.soaking.documents import Shelf, broken, readable  # noqa: E402
from scripts.soaking.judge import Golden  # noqa: E402
from scripts.soaking.mix import PATIENCE, Client, Outcome, connected  # noqa: E402
from scripts.soaking.program import Server, make_models  # noqa: E402
from scripts.soaking.verdict import Evidence, Ledger  # noqa: E402
from scripts.soaking.watch import Livez, Sample, Watch, share  # noqa: E402

TELL_SECONDS = 30.0
IDLE_SECONDS = 60.0
WARM_BURSTS = 2
"""So that the server has all the threads that it will ever have before anything is measured."""
_STATE = re.compile(r"^ocr_mlx_(documents_in_work|rows_waiting|models_in_memory|kv_cache_bytes) (\S+)$", re.MULTILINE)


def soak(*, minutes: float, clients: int, seed: int, settings: dict[str, str]) -> int:
    """The exit status."""
    with tempfile.TemporaryDirectory(prefix="ocr_mlx-soak-") as name:
        folder = Path(name)
        make_models(folder / "hub")
        (folder / "shelf").mkdir()
        good, bad = readable(seed), broken(seed)
        with Shelf(folder / "shelf", [*good, *bad]) as shelf, Server(folder, settings) as server:
            golden = Golden(good)
            began = time.monotonic()
            with connected(server.url) as http:
                golden.read(http, shelf)
                _idle(http)
            print(f"{len(golden.texts)} quiet readings in {time.monotonic() - began:.0f} s", flush=True)
            crowd = [Client(server.url, shelf, golden, bad, f"{seed}/{number}") for number in range(clients)]
            ledger = Ledger()
            for _ in range(WARM_BURSTS):
                ledger.add(crowd[0].burst())
            seen = _run(server, crowd, ledger, minutes * 60)
            fine, told = verdict.judge(seen)
            print(told)
            if words := server.last_words().strip():
                print(f"\nthe server's log:\n{words}")
    return 0 if fine else 1


def _run(server: Server, crowd: list[Client], ledger: Ledger, seconds: float) -> Evidence:
    over = threading.Event()
    with Watch(server.process.pid, every=1.0) as watch, Livez(server.url, every=0.05) as livez:
        before = watch.now()
        threads = [threading.Thread(target=_work, args=(client, ledger, over), daemon=True) for client in crowd]
        for thread in threads:
            thread.start()
        try:
            while watch.seconds < seconds and server.alive:
                time.sleep(min(TELL_SECONDS, max(0.0, seconds - watch.seconds)))
                _tell(watch, livez, ledger)
        except KeyboardInterrupt:
            print("ending early", flush=True)
        over.set()
        took, samples = watch.seconds, list(watch.samples)
        for thread in threads:
            thread.join(2 * PATIENCE)
        after, left = _settled(server, watch)
    return Evidence(
        ledger=ledger,
        samples=samples,
        livez=livez.answers,
        late=livez.late,
        before=before,
        after=after,
        left=left,
        status=server.end(),
        seconds=took,
    )


def _work(client: Client, ledger: Ledger, over: threading.Event) -> None:
    """One client, until it is over. What it cannot make sense of is a finding too."""
    while not over.is_set():
        try:
            ledger.add(client.step())
        except Exception as problem:
            ledger.add([Outcome(kind="no answer", status="none", problem=f"{type(problem).__name__}: {problem}")])
            over.wait(1.0)
    client.close()


def _tell(watch: Watch, livez: Livez, ledger: Ledger) -> None:
    """A line about where it stands."""
    try:
        now = verdict.state(watch.now())
    except psutil.Error:
        now = "the server has gone"
    statuses = ", ".join(f"{status}: {count}" for status, count in sorted(ledger.statuses().items()))
    lately = livez.answers[-int(TELL_SECONDS / 0.05) :]
    wrong = f"{len(ledger.problems)} WRONG" if ledger.problems else "none wrong"
    print(f"{watch.seconds:5.0f} s  {statuses}; {wrong}; {now}; /livez p99 {share(lately, 0.99):.0f} ms", flush=True)


def _settled(server: Server, watch: Watch) -> tuple[Sample | None, dict[str, float]]:
    """A look at the server when it has nothing left to do; None when it has gone."""
    try:
        with connected(server.url) as http:
            left = _idle(http)
        return watch.now(), left
    except (httpx.TransportError, psutil.Error):
        return None, {}


def _idle(http: httpx.Client) -> dict[str, float]:
    """What /metrics counts as being at work once that is nothing, or after a minute."""
    deadline = time.monotonic() + IDLE_SECONDS
    while True:
        told = {name: float(value) for name, value in _STATE.findall(http.get("/metrics").text)}
        if not any(told.values()) or time.monotonic() > deadline:
            return told
        time.sleep(0.5)


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--deterministic", action="store_true", help="batches of one fixed width, no drafts")
    parser.add_argument(
        "--page-cache-mb", type=int, default=0, help="above 0, pages that were read before come from memory"
    )
    options = parser.parse_args()
    settings = {"PAGE_CACHE_MB": str(options.page_cache_mb), "DETERMINISTIC": str(int(options.deterministic))}
    try:
        return soak(minutes=options.minutes, clients=options.clients, seed=options.seed, settings=settings)
    except KeyboardInterrupt:
        print("ended before there was anything to judge", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
