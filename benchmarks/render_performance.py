"""Render docs/performance.md, its pictures, and the README's table, from the files that the benchmarks wrote.

    python benchmarks/render_performance.py

Each benchmarks/results/NAME.json fills the block of the page between

    <!-- begin NAME -->
    <!-- end NAME -->

and what the project holds itself to fills the block `goals` there and in the README, so that no figure is typed by
hand.
"""

import argparse
import sys
from pathlib import Path

from hf_ats.results import update_marked_block

from . import read_record
from .page import plot_goals, plot_steps, record_files, render_goals, update_page

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Update the page, draw the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the files")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "performance.md", help="the page to update")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", help="the README to update")
    arguments = parser.parse_args()
    try:
        files = record_files(arguments.records)
        records = [read_record(file) for file in files]
        changed = update_page(arguments.page, files)
        changed |= update_marked_block(arguments.readme, render_goals(records), "goals")
        plot_goals(records, arguments.page.with_name("performance-goals.png"))
        plot_steps(read_record(arguments.records / "training.json"), arguments.page.with_name("training-steps.png"))
    except (OSError, ValueError) as error:
        sys.exit(f"render_performance.py: {error}")
    print(f"{arguments.page} and {arguments.readme} are {'updated' if changed else 'up to date'}", file=sys.stderr)


if __name__ == "__main__":
    main()
