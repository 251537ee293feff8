"""Render a table that compares runs on images, from their results.json, and keep the one in a README up to date.

    python scripts/compare_image_runs.py runs/*/results.json
    python scripts/compare_image_runs.py runs/*/results.json --update README.md

Each row is one kind of training; runs that differ in nothing but their seed share a row, as mean and standard
deviation. The paper's Table 3 stands below. With --update the table replaces what stands in the file between the lines

    <!-- begin images -->
    <!-- end images -->

so that no figure in a README is typed by hand.
"""

import argparse
import sys
from pathlib import Path

from hf_ats.evaluation import update_marked_block
from hf_ats.images import render_images


def main() -> int:
    """Render, then print or update."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, help="results.json of each run, in the order of the rows")
    parser.add_argument("--update", type=Path, metavar="FILE", help="replace the marked block of this file")
    parser.add_argument("--block", default="images", help="name of the marked block (default: %(default)s)")
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
        table = render_images(arguments.results, commands=not arguments.no_commands, replace=dict(arguments.replace))
        if arguments.update is None:
            print(table)
        else:
            changed = update_marked_block(arguments.update, table, arguments.block)
            print(f"{arguments.update} is {'updated' if changed else 'up to date'}", file=sys.stderr)
    except (OSError, ValueError) as error:
        print(f"compare_image_runs.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
