"""Command line of `ecomap.heldout.evaluate_heldout`.

    python benchmarks/heldout.py --bundle ecomap-tiny --dataset DATASET --output FOLDER

Options that are not given have the function's defaults.
"""

import argparse
import sys
from pathlib import Path

from ecomap.errors import EcomapError
from ecomap.heldout import REPORT_FILE, evaluate_heldout
from ecomap.heldout_page import PAGE_FILE
from ecomap.model import load_bundle


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; the names of options are the names of the function's arguments."""
    parser = argparse.ArgumentParser(
        description="Score a bundle on held-out places of a dataset.",
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--bundle", default="ecomap-tiny", help="name or folder")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--places", type=int, dest="num_places", help="test places")
    parser.add_argument("--cases", type=int, dest="num_cases", help="cases of each response")
    parser.add_argument("--draws", type=int, dest="num_draws", help="bootstrap draws")
    parser.add_argument("--months", type=int, nargs="+", help="calendar months, 1 to 12")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--steps", type=int, help="solver steps")
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--conditions", nargs="+")
    parser.add_argument("--spaces", nargs="+", help="feature spaces")
    return parser.parse_args(arguments)


def main() -> int:
    """Run the evaluation; 0 when done, 2 on bad input."""
    options = vars(parse_arguments())
    try:
        bundle = load_bundle(options.pop("bundle"), device=options.pop("device"))
        output = options["output"]
        evaluate_heldout(
            bundle, **options, progress=lambda line: print(line, file=sys.stderr, flush=True)
        )
    except EcomapError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{output / PAGE_FILE}\n{output / REPORT_FILE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
