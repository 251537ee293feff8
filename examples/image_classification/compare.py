"""Render the table of runs on images, and the paper's Table 3 below it.

python -m examples.image_classification.compare runs/*/results.json
python -m examples.image_classification.compare runs/*/results.json --update README.md --block images

Runs that differ only in their seed share a row.
"""

from hf_ats.scripts import compare_runs

from .table import render_images


def main() -> None:
    """Render, then print or update."""
    compare_runs.main(render_images, __doc__)


if __name__ == "__main__":
    main()
