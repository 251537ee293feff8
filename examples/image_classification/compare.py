"""Render the table of runs on images, and the paper's Table 3 below it.

python -m examples.image_classification.compare runs/*/results.json
python -m examples.image_classification.compare runs/*/results.json --update README.md --block images
"""

from examples.image_classification import render_images
from hf_ats.scripts.compare_runs import main

if __name__ == "__main__":
    main(render_images, __doc__)
