"""`ocr_mlx`: without a command, or with `serve`, the server; everything else is the command line.

The server's way in stays clear of what only the commands need: an app waits for it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

INTERRUPTED = 130


def main() -> None:
    """Run the program with this process's arguments; Ctrl-C ends it quietly at any time, imports included."""
    try:
        _run(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _run(arguments: Sequence[str]) -> None:
    if not arguments or arguments[0] == "serve":
        from ocr_mlx.endpoint import main as serve

        sys.exit(serve(arguments[1:]))
    from ocr_mlx.cli.app import main as command

    command(arguments)


if __name__ == "__main__":
    main()
