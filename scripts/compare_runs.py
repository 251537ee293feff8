"""Render tables that compare training runs, from their results.json, and keep those in a README up to date.

    python scripts/compare_runs.py runs/*/results.json
    python scripts/compare_runs.py runs/*/results.json --update README.md

Each row is one kind of run; runs that differ in nothing but their seed share a row, as mean and standard deviation.
Runs of a ladder, with several cores, have a table of their own with a row for each level. Runs that were scored
in different ways, or on different data, are refused. Runs on images, which are compared among themselves, have another
table, with the paper's Table 3 below. With --update the tables replace what stands in the file between the lines

    <!-- begin runs -->
    <!-- end runs -->

so that no figure in a README is typed by hand.
"""

import argparse
import sys
from pathlib import Path

from examples.image_classification import TASK, render_images
from hf_ats.results import read_results, render_comparison, update_marked_block


def main() -> int:
    """Render, then print or update."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, help="results.json of each run, in the order of the rows")
    parser.add_argument("--update", type=Path, metavar="FILE", help="replace the marked block of this file")
    parser.add_argument("--block", default="runs", help="name of the marked block (default: %(default)s)")
    parser.add_argument(
        "--replace",
        nargs=2,
        action="append",
        default=[],
        metavar=("OLD", "NEW"),
        help="write NEW for OLD in the commands, such as the folder of the data",
    )
    parser.add_argument("--no_commands", action="store_true", help="leave out the commands below the table")
    arguments = parser.parse_args()
    try:
        of_images = read_results(arguments.results[0], task=None).get("task") == TASK
        render = render_images if of_images else render_comparison
        table = render(arguments.results, commands=not arguments.no_commands, replace=dict(arguments.replace))
        if arguments.update is None:
            print(table)
        else:
            changed = update_marked_block(arguments.update, table, arguments.block)
            print(f"{arguments.update} is {'updated' if changed else 'up to date'}", file=sys.stderr)
    except (OSError, ValueError) as error:
        print(f"compare_runs.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
