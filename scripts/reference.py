"""Record what upstream's own code computes, as goldens for the tests.

    python scripts/reference.py FAMILY --out tests/families/FAMILY     # tiny random models, every stage
    python scripts/reference.py FAMILY --full-size                     # one comparison at the published size
        [--python PATH]                                                # an interpreter that has ocr_mlx, if not this one

Runs under torch and transformers (dependency group `reference`); the tests need neither. A family is a module in
`scripts/references/` with `record(out)` and `full_size(python)`; adding one adds a file there.
"""

import argparse
import importlib
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent


def main() -> None:
    """Parse the arguments and hand over to the family's module."""
    families = sorted(path.stem for path in (_HERE / "references").glob("*.py") if not path.stem.startswith("_"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=families)
    parser.add_argument("--out", type=Path, help="the folder of the family's tests; goldens go to OUT/golden")
    parser.add_argument("--full-size", action="store_true", help="compare one picture at the published size")
    parser.add_argument("--python", default=sys.executable, help="runs our side of --full-size")
    options = parser.parse_args()
    if not options.out and not options.full_size:
        parser.error("say --out DIR, --full-size or both")
    sys.path[:0] = [str(_HERE), str(_HERE.parent)]
    family = importlib.import_module(f"references.{options.family}")
    if options.out:
        family.record(options.out / "golden")
    if options.full_size:
        family.full_size(options.python)


if __name__ == "__main__":
    main()
