"""`python -m ocr_mlx.cli --input PAGE [--model …] [--output …]`, and every other command behind it."""

import sys

from ocr_mlx.cli.app import main

if __name__ == "__main__":
    main(sys.argv[1:] or ["read-input"])
