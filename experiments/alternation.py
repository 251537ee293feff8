"""Figure 4 of the paper: what convergence depends on, in standard and in alternating training of one network.

With the recipe experiments/figures/alternation.yaml, two runs and the figure:

    hf-ats train --recipe alternation.yaml --schedule full --output_dir runs/standard --train_prefix ...
    hf-ats train --recipe alternation.yaml --schedule alternating --output_dir runs/alternating --train_prefix ...
    python -m experiments.alternation runs/standard/criteria.jsonl runs/alternating/criteria.jsonl \
        --results figure-4.json --picture figure-4.png

The panels are 4a, the square of c_norm; 4b, c_sim; 4c, c_align, of which an undefined value leaves a gap: there the
inner product is not positive.
"""

import json
from pathlib import Path

from hf_ats.run import manual_parser, user_errors
from hf_ats.storage import write_file

from .plots import a_line_each, draw_panels

RUNS = ("standard", "alternating")
PANELS = {"4a: c_norm squared": "c_norm_squared", "4b: c_sim": "c_sim", "4c: c_align": "c_align"}


def read_criteria(file: Path, level: str) -> list[dict]:
    """Return what a run measured of a level: `step`, `c_norm_squared`, `c_sim`, `c_align`.

    Raises:
        ValueError: it measured nothing of that level.
    """
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    of_level = [line for line in lines if line["level"] == level]
    if not of_level:
        levels = ", ".join(dict.fromkeys(line["level"] for line in lines)) or "none"
        raise ValueError(f"{file} has no line of the level {level!r}, but of {levels}: give another --level")
    return [
        {
            "step": line["step"],
            "c_norm_squared": None if line["c_norm"] is None else _digits(line["c_norm"] ** 2),
            **{name: None if line[name] is None else _digits(line[name]) for name in ("c_sim", "c_align")},
        }
        for line in of_level
    ]


def _digits(value: float) -> float:
    return float(f"{value:.5g}")


def draw(results: dict) -> bytes:
    """Return the picture of both runs."""
    return draw_panels(
        [
            (title, {run: [(line["step"], line[name]) for line in results["runs"][run]] for run in RUNS})
            for title, name in PANELS.items()
        ]
    )


@user_errors()
def main() -> None:
    """Read both files, and write what the figure needs and the figure."""
    parser = manual_parser(__doc__)
    parser.add_argument("standard", type=Path, help="criteria.jsonl of a run with --schedule full")
    parser.add_argument("alternating", type=Path, help="criteria.jsonl of a run with --schedule alternating")
    parser.add_argument("--results", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--picture", type=Path, required=True, help="the PNG file to write")
    parser.add_argument("--level", default="core", help="whose criteria (default: %(default)s)")
    arguments = parser.parse_args()
    results = {"level": arguments.level, "runs": {}}
    for run in RUNS:
        results["runs"][run] = read_criteria(getattr(arguments, run), arguments.level)
    write_file(arguments.results, a_line_each(results, "step"))
    write_file(arguments.picture, draw(results))
    print(f"Written: {arguments.results}, {arguments.picture}")


if __name__ == "__main__":
    main()
