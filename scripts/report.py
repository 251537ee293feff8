"""Make the report page of a run again, from its files.

    python scripts/report.py runs/demo

Training scripts write RUN_DIRECTORY/report.html at their end; this is for runs of an earlier version. It reads
results.json, and trainer_state.json for the curves if that is there.
"""

import argparse
import sys
from pathlib import Path

from hf_ats.results import write_report_page


def main() -> None:
    """Write the page, say where it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_directory", type=Path, help="the --output_dir of a training script")
    arguments = parser.parse_args()
    try:
        print(write_report_page(arguments.run_directory))
    except (OSError, ValueError) as error:
        sys.exit(f"report.py: {error}")


if __name__ == "__main__":
    main()
