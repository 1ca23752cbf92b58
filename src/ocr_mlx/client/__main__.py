"""`python -m ocr_mlx.client`: try a server from the command line."""

import sys

from ocr_mlx.client.try_out import main

INTERRUPTED = 130

if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
