"""Render tables that compare training runs, from their results.json, and keep those in a README up to date.

    hf-ats compare runs/*/results.json
    hf-ats compare runs/*/results.json --update README.md

Each row is one kind of run; runs that differ only in their seed share a row, as mean and standard deviation.
Runs of a ladder, with several cores, have a table of their own with a row for each level. Runs that were scored
in different ways, or on different data, are refused, as are translation and images in one table. With --update the
tables replace the text of the file between the lines

    <!-- begin runs -->
    <!-- end runs -->

so that no figure in a README is typed by hand.
"""

import argparse
import sys
from pathlib import Path

from hf_ats.results import render_comparison, update_marked_block
from hf_ats.run import manual_parser, user_errors


@user_errors()
def main() -> None:
    """Render, then print or update."""
    parser = manual_parser(__doc__)
    parser.add_argument("results", nargs="+", type=Path, help="results.json of each run, in the order of the rows")
    add_update_flags(parser)
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
    table = render_comparison(arguments.results, commands=not arguments.no_commands, replace=dict(arguments.replace))
    print_or_update(table, arguments)


def add_update_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say where a table goes."""
    parser.add_argument("--update", type=Path, metavar="FILE", help="replace the marked block of this file")
    parser.add_argument("--block", default="runs", help="name of the marked block (default: %(default)s)")


def print_or_update(table: str, arguments: argparse.Namespace) -> None:
    """Print a table, or put it where the flags of `add_update_flags` say."""
    if arguments.update is None:
        print(table)
    else:
        changed = update_marked_block(arguments.update, table, arguments.block)
        print(f"{arguments.update} is {'updated' if changed else 'up to date'}", file=sys.stderr)


if __name__ == "__main__":
    main()
