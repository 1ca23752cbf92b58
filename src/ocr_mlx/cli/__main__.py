"""`python -m ocr_mlx.cli --input PAGE [--model …] [--output …]`, and every other command behind it."""

from __future__ import annotations

import sys


def main() -> None:
    """Run with this process's arguments; Ctrl-C ends it quietly at any time, imports included."""
    try:
        from ocr_mlx.cli.app import module_main

        module_main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
