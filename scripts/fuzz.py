"""Throws made-up input at everything here that reads what others wrote, and keeps whatever breaks it. Linux, needs atheris.

    python scripts/fuzz.py all                        every target for a minute each, one after the other
    python scripts/fuzz.py pdfs images --seconds 600  two of them, longer
    python scripts/fuzz.py all --corpus FOLDER        go on from the inputs that FOLDER/TARGET holds, and add to them
    python scripts/fuzz.py sources FILE...            run these inputs once, as they are: what a finding looks like

A finding is an error that is none of the program's own, an answer that breaks a promise, an input that takes more than
ten seconds, or one that takes too much memory. Its input is written to the folder of findings, and the command that
repeats it is printed. The small inputs in tests/resources/fuzz/TARGET are where each target begins; what was mended is
kept there, and the default tests run them all. Exits with 1 where there is a finding.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [path for path in (str(REPO), str(REPO / "src")) if path not in sys.path]

from scripts import fuzzing  # noqa: E402 - after the path

SEEDS = REPO / "tests" / "resources" / "fuzz"
FINDINGS = REPO / "fuzz-findings"
_MOST_SECONDS = 10
"""For one input."""
_MOST_MEGABYTES = 2048
_START_SECONDS = 120
"""For importing, instrumenting and running the seeds."""
_TOLD_LINES = 25


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line names; 1 where anything was found."""
    options = _parser().parse_args(arguments)
    names = fuzzing.names() if options.targets == ["all"] else [name for name in options.targets if not _is_file(name)]
    files = [Path(name) for name in options.targets if _is_file(name)]
    if unknown := [name for name in names if name not in fuzzing.names()]:
        print(f"There is no target {unknown[0]}; there are {', '.join(fuzzing.names())}, and all.", file=sys.stderr)
        return 2
    if files:
        return _repeat(names, files)
    if importlib.util.find_spec("atheris") is None:
        print("Fuzzing needs atheris: pip install atheris (Linux).", file=sys.stderr)
        return 2
    try:
        found = [name for name in names if not run(name, options)]
    except KeyboardInterrupt:
        return 130
    print(f"{len(names)} targets, findings in {', '.join(found) or 'none'}.")
    return 1 if found else 0


def run(name: str, options: argparse.Namespace) -> bool:
    """Fuzz one target in a process of its own; whether nothing was found."""
    findings = options.findings.resolve()
    findings.mkdir(parents=True, exist_ok=True)
    before = set(findings.iterdir())
    with tempfile.TemporaryDirectory(prefix="ocr_mlx-fuzz-") as scratch:
        started = time.monotonic()
        command = [sys.executable, __file__, "--child", name, *_flags(name, options, findings, Path(scratch))]
        try:
            ended = subprocess.run(
                command,
                env=os.environ | {"TMPDIR": scratch},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=options.seconds + _START_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            print(f"{name}: it hung where nothing could tell", flush=True)
            return False
    lines = ended.stdout.decode("utf-8", "replace").splitlines()
    new = sorted(set(findings.iterdir()) - before)
    if ended.returncode == 0 and not new:
        print(f"{name}: {_runs(lines)} inputs in {time.monotonic() - started:.0f} s, no finding", flush=True)
        return True
    print("\n".join(lines[-_TOLD_LINES:]))
    print(f"{name}: ended with {ended.returncode}", flush=True)
    for path in new:
        print(f"  repeat it: python scripts/fuzz.py {name} {path}", flush=True)
    return False


def child(name: str, flags: Sequence[str]) -> None:
    """The fuzzing process. Never returns: libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=list(fuzzing.parsers(name)), enable_loader_override=False):
        one = fuzzing.function(name)
    logging.disable()
    atheris.Setup([name, *flags], one)
    atheris.Fuzz()


def _flags(name: str, options: argparse.Namespace, findings: Path, scratch: Path) -> list[str]:
    """libFuzzer's options: the first folder takes new inputs, the others are read."""
    kept = options.corpus / name if options.corpus is not None else scratch / "corpus"
    kept.mkdir(parents=True, exist_ok=True)
    words = scratch / "words"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in fuzzing.words(name)))
    known = [f"-dict={words}"] if fuzzing.words(name) else []
    seeds = [str(SEEDS / name)] if (SEEDS / name).is_dir() else []
    return [
        str(kept),
        *seeds,
        f"-max_total_time={options.seconds}",
        f"-timeout={_MOST_SECONDS}",
        f"-rss_limit_mb={_MOST_MEGABYTES}",
        f"-max_len={fuzzing.longest(name)}",
        f"-artifact_prefix={findings}/{name}-",
        *known,
        "-print_final_stats=1",
        "-reload=0",
    ]


def _escaped(word: bytes) -> str:
    return "".join(chr(b) if 32 <= b < 127 and b not in b'"\\' else f"\\x{b:02x}" for b in word)


def _repeat(names: Sequence[str], files: Sequence[Path]) -> int:
    """Run the inputs once, without instrumentation; whatever they raise comes out."""
    for name in names:
        one = fuzzing.function(name)
        for path in files:
            started = time.monotonic()
            one(path.read_bytes())
            print(f"{name} {path.name}: fine, in {time.monotonic() - started:.2f} s")
    return 0


def _runs(lines: Sequence[str]) -> str:
    return next((line.split()[-1] for line in lines if "number_of_executed_units" in line), "?")


def _is_file(name: str) -> bool:
    return name not in fuzzing.names() and Path(name).is_file()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="+", metavar="TARGET", help=f"all, or of {', '.join(fuzzing.names())}")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (60)")
    parser.add_argument("--corpus", type=Path, help="folder of inputs to go on from and to add to")
    parser.add_argument("--findings", type=Path, default=FINDINGS, help=f"where findings go ({FINDINGS.name})")
    return parser


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3:])
    sys.exit(main())
