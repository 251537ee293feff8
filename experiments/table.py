"""Render the table of a grid from the results that are there: ours beside the paper's.

    python experiments/table.py tables-1a-2a
    python experiments/table.py tables-1a-2a --update docs/results.md --block tables-1a-2a --plot docs/tables-1a-2a.png

Scores are the mean (standard deviation) over the seeds that are done, in the columns of `hf-ats compare`. Beside them
are the paper's figures, and of BLEU the difference to the same network trained alone with the same seed, with the p of
sacreBLEU's paired approximate randomization. --plot draws scores over training FLOPs. It needs no data, and says which
runs are missing.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

from experiments.curves import plot_scores
from experiments.grids import Grid, load_grid
from experiments.records import TRIALS, significance
from hf_ats.results import render_comparison
from hf_ats.run import manual_parser, user_errors
from hf_ats.scripts.compare_runs import add_update_flags, print_or_update

# The headings that the paper's figures have, in the order of the columns.
_PRINTED = ("core", "full", "forward FLOPs per epoch (T)")


@user_errors()
def main() -> None:
    """Render, then print or update."""
    parser = manual_parser(__doc__)
    parser.add_argument("grid", help="a file, or the name of one in experiments/grids")
    parser.add_argument("--scale", help="one of the grid's (default: its first)")
    add_update_flags(parser)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw scores over training FLOPs into this picture")
    arguments = parser.parse_args()
    grid = load_grid(arguments.grid, arguments.scale, Path("data").absolute())
    records = read_records(grid)
    text = render_grid(grid, records)
    if arguments.plot:
        plot_scores(records, arguments.plot, f"{grid.title}, at scale {grid.scale}")
    print_or_update(text, arguments)


def read_records(grid: Grid) -> dict[str, dict[int, dict]]:
    """Return the results that are there, by name and seed, in the order of the grid.

    Raises:
        ValueError: there are none, or one is of another run than the grid asks for.
    """
    records: dict[str, dict[int, dict]] = {}
    for name in grid.flags:
        for run in (run for run in grid.runs if run.name == name and run.record.exists()):
            records.setdefault(name, {})[run.seed] = run.check_results(run.record)
    if not records:
        raise ValueError(
            f"no run of {grid.name} is done at scale {grid.scale}; python experiments/run.py {grid.name} --scale "
            f"{grid.scale} trains them."
        )
    return records


def render_grid(grid: Grid, records: dict[str, dict[int, dict]]) -> str:
    """Return the table of a grid in Markdown, and what is missing.

    Args:
        grid: the grid.
        records: as `read_records` returns them.
    """
    files = [run.record for name in records for run in grid.runs if run.name == name and run.record.exists()]

    compared = ("core", "full") if grid.train == "translation" else ()
    printed = [what for what in _PRINTED if any(what in figures for figures in grid.paper.values())]

    def beside(group: list[dict]) -> dict[str, str]:
        figures = grid.paper.get(group[0]["run"], {})
        cells = {f"paper's {what}": figures.get(what, "-") for what in printed}
        runs = sorted(group, key=lambda run: run["seed"])
        for level in compared:
            found = [_difference(run, records, level) for run in runs if level in run["levels"]]
            cells[f"{level} − alone, by seed"] = "; ".join(filter(None, found)) or "-"
        return cells

    parts = [render_comparison(files, commands=False, beside=beside)]
    if grid.train == "translation":
        parts.append(
            "Columns − alone: BLEU less that of the same network trained alone with the same seed, and the p of "
            f"sacreBLEU's paired approximate randomization ({TRIALS:,} trials), one seed after another; ? where that "
            "run is not done."
        )
    if missing := _missing(grid, records):
        parts.append(f"Not done yet: {missing}.")
    parts.append(f"The runs:\n\n```bash\npython experiments/run.py {grid.name} --scale {grid.scale} --data data\n```")
    return "\n\n".join(parts)


def _difference(run: dict, records: dict[str, dict[int, dict]], level: str) -> str:
    """Return how a level of a run compares with that network trained alone; nothing for that one itself."""
    if run["training"]["schedule"] == level:
        return ""
    shape = run["partition"] if level == "core" else None
    for seeds in records.values():
        alone = seeds.get(run["seed"])
        if alone and alone["training"]["schedule"] == level and alone["partition"] == shape:
            difference, p = significance(run, alone, level)
            return f"{difference:+.2f} (p {p:.3f})"
    return "?"


def _missing(grid: Grid, records: dict[str, dict[int, dict]]) -> str:
    missing = {
        name: [str(run.seed) for run in grid.runs if run.name == name and run.seed not in records.get(name, {})]
        for name in grid.flags
    }
    rows = (f"{name} (seed{'s' * (len(seeds) > 1)} {', '.join(seeds)})" for name, seeds in missing.items() if seeds)
    return ", ".join(rows)


if __name__ == "__main__":
    main()
