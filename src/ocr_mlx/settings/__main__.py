"""Print the table of settings in Markdown."""

import sys

from ocr_mlx.settings import table

sys.stdout.write(table())
