"""Render docs/performance.md and its pictures from the files that the benchmarks wrote.

    python scripts/render_performance.py

Each results/performance/NAME.json fills the block of the page between

    <!-- begin NAME -->
    <!-- end NAME -->

and what the project holds itself to fills the block `goals`, so that no figure there is typed by hand.
"""

import argparse
import sys
from pathlib import Path

from hf_ats.benchmarks import read_record
from hf_ats.benchmarks.page import plot_goals, plot_steps, update_page

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Update the page, draw the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, default=ROOT / "results" / "performance", help="folder of the files")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "performance.md", help="the page to update")
    arguments = parser.parse_args()
    try:
        files = sorted(arguments.records.glob("*.json"))
        changed = update_page(arguments.page, files)
        plot_goals([read_record(file) for file in files], arguments.page.with_name("performance-goals.png"))
        plot_steps(read_record(arguments.records / "training.json"), arguments.page.with_name("training-steps.png"))
    except (OSError, ValueError) as error:
        sys.exit(f"render_performance.py: {error}")
    print(f"{arguments.page} is {'updated' if changed else 'up to date'}", file=sys.stderr)


if __name__ == "__main__":
    main()
