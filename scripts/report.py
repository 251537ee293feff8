"""Make the report page of a run again, from its files.

    hf-ats report runs/demo

Training scripts write RUN_DIRECTORY/report.html at their end; this is for runs of an earlier version. It reads
results.json, and trainer_state.json for the curves if that is there.
"""

from pathlib import Path

from hf_ats.results import write_report_page
from hf_ats.run import manual_parser, user_errors


@user_errors()
def main() -> None:
    """Write the page, and say where it is."""
    parser = manual_parser(__doc__)
    parser.add_argument("run_directory", type=Path, help="the --output_dir of a training script")
    print(write_report_page(parser.parse_args().run_directory))


if __name__ == "__main__":
    main()
