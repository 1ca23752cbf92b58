"""A measurement in a process of its own that answers one question after the other, so that sides can take turns.

Each side keeps its weights in memory while the other one measures; whoever is not asked does nothing. What a library prints
on standard output between the answers is skipped.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

_MARK = "answer: "
Call = Callable[..., Any]


def answer(calls: Mapping[str, Call]) -> None:
    """Answer the parent's questions until it hangs up."""
    for line in sys.stdin:
        asked = json.loads(line)
        found = calls[asked.pop("call")](**asked)
        print(_MARK + json.dumps(found), flush=True)


class Child:
    """The other end. A context: leaving it ends the process."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command, env=dict(environment), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, call: str, **options: Any) -> Any:
        """Its answer. Raises RuntimeError when the process has ended; its own words are on standard error."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"call": call} | options) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # its output says so below
        for line in self._process.stdout:
            if line.startswith(_MARK):
                return json.loads(line.removeprefix(_MARK))
        raise RuntimeError(f"the process that measures ended at {call!r} with status {self._process.wait()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        if value is not None:
            self._process.kill()
        self._process.wait()
        self._process.stdout.close()
