"""Train, export and measure the built-in model. Needs the dependency group `train`; docs/builtin.md tells the rest."""

import argparse
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "src")]

from builtin import evaluate, export, train  # noqa: E402


def main() -> None:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/builtin"), help="checkpoints and logs (%(default)s)")
    actions = parser.add_subparsers(dest="action", required=True)

    training = actions.add_parser("train", help="train, or go on from the checkpoint in --out; Ctrl-C saves and ends")
    training.add_argument("--minutes", type=float, default=120, help="the learning rate ends with them (%(default)s)")
    training.add_argument("--processes", type=int, default=2, help="one for each core; 1 on a GPU (%(default)s)")
    training.add_argument("--threads", type=int, default=1, help="threads of torch in each process (%(default)s)")
    training.add_argument("--workers", type=int, default=1, help="drawing processes for each; many on a GPU")
    training.add_argument("--pixels", type=int, default=5120, help="width of a batch's strips together (%(default)s)")
    training.add_argument("--seed", type=int, default=1)
    training.add_argument("--device", default="cpu", help="cpu or cuda")

    exporting = actions.add_parser("export", help="write the weights in --out as a Hugging Face folder")
    exporting.add_argument("folder", type=Path)
    exporting.add_argument("--check", action="store_true", help="compare with transformers (must be installed)")

    measuring = actions.add_parser("evaluate", help="print character error rates of an exported folder")
    measuring.add_argument("folder", type=Path)
    measuring.add_argument("--lines", type=int, default=300, help="pictures of one line (%(default)s)")
    measuring.add_argument("--pages", type=int, default=12, help="pictures of twenty lines (%(default)s)")
    measuring.add_argument("--corpus", type=Path, help="a folder of pictures with NAME.gt.txt beside them")

    options = vars(parser.parse_args())
    action, out = options.pop("action"), options.pop("out")
    if action == "train":
        train.train(train.Plan(out=out, **options))
    elif action == "export":
        export.export_checkpoint(out, **options)
    else:
        evaluate.evaluate(**options)


if __name__ == "__main__":
    main()
