"""Render the table of a grid from the results that are there: ours beside the paper's.

    python experiments/table.py tables-1a-2a
    python experiments/table.py tables-1a-2a --update docs/results.md --block tables-1a-2a --plot docs/tables-1a-2a.png

Scores are the mean (standard deviation) over the seeds that are done, in the columns of `hf-ats compare`. Beside them
are the paper's figures, and of BLEU the difference to the same network trained alone with the same seed, with the p of
sacreBLEU's paired approximate randomization; where runs start from another, also to that network trained from scratch.
Runs that are to cost what others do have that ratio of training FLOPs, and a grid with formats what deployed.py
measured. --plot draws scores over training FLOPs. It needs no data, and says which
runs are missing.
"""

import statistics
import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

from experiments.curves import plot_scores
from experiments.deployed import deployed_cells, deployed_note, read_deployed
from experiments.grids import Grid, Run, load_grid
from experiments.records import TRIALS, significance
from hf_ats.results import number, render_comparison
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
    starts = any(run.start for run in grid.runs)
    measured = read_deployed(grid) if grid.formats else []

    def beside(group: list[dict]) -> dict[str, str]:
        figures = grid.paper.get(group[0]["run"], {})
        runs = sorted((grid.run(one["run"], one["seed"]) for one in group), key=lambda run: run.seed)
        cells = {"start": runs[0].start.name if runs[0].start else "scratch"} if starts else {}
        cells |= {f"paper's {what}": figures.get(what, "-") for what in printed}
        if grid.equal_cost:
            cells["FLOPs / equal cost"] = _cost(grid, runs, records)
        cells |= deployed_cells(grid, measured, group[0])
        for level in compared:
            told = {"alone": [], "from scratch": []}
            for run in runs:
                if level in records[run.name][run.seed]["levels"]:
                    told["alone"].append(_beside_alone(grid, run, run.start, records, level))
                    if run.start:
                        told["from scratch"].append(_beside_alone(grid, run, None, records, level))
            for what in ("alone", "from scratch")[: 1 + starts]:
                cells[f"{level} − {what}, by seed"] = "; ".join(filter(None, told[what])) or "-"
            if grid.equal_cost:
                found = [_beside_equals(grid, run, records, level) for run in runs]
                cells[f"{level} − equal cost, by seed"] = "; ".join(filter(None, found)) or "-"
        return cells

    parts = [render_comparison(files, commands=False, beside=beside)]
    if compared:
        parts.append(
            "Columns − alone: BLEU less that of the same network trained alone with the same seed, and the p of "
            f"sacreBLEU's paired approximate randomization ({TRIALS:,} trials), one seed after another; ? where that "
            "run is not done."
        )
    if starts:
        parts.append(
            "Column start: the run with whose full network, of the same seed, the training began. Columns − alone "
            "compare with the same start, columns − from scratch with the network trained alone from scratch."
        )
    if grid.equal_cost:
        parts.append(
            "Column FLOPs / equal cost: training FLOPs over those that the row is to have. Columns − equal cost: BLEU "
            "less that of the same network of the run, or of one of the runs, that have them."
        )
    if grid.formats:
        parts.append(deployed_note(measured))
    if missing := _missing(grid, records):
        parts.append(f"Not done yet: {missing}.")
    commands = [f"python experiments/{command}.py" for command in ("run", "deployed")[: 1 + bool(grid.formats)]]
    lines = "".join(f"{command} {grid.name} --scale {grid.scale} --data data\n" for command in commands)
    parts.append(f"The runs:\n\n```bash\n{lines}```")
    return "\n\n".join(parts)


def _beside_alone(grid: Grid, run: Run, start: Run | None, records: dict[str, dict[int, dict]], level: str) -> str:
    """Return how a level of a run compares with that network trained alone from a start; "" if no other run is it."""
    for other in (other for other in grid.runs if other.seed == run.seed and other.start is start):
        partition, schedule = other.flags[3], other.flags[2].schedule
        if schedule == level and (other.shape == run.shape if level == "core" else partition is None):
            return (
                ""
                if other is run
                else _difference(*(records.get(one.name, {}).get(run.seed) for one in (run, other)), level)
            )
    return ""


def _beside_equals(grid: Grid, run: Run, records: dict[str, dict[int, dict]], level: str) -> str:
    """Return how a level of a run compares with that of the run of equal cost that has it; "" if none has it."""
    if level not in records[run.name][run.seed]["levels"]:
        return ""
    for name in grid.equal_cost.get(run.name, ()):
        if grid.run(name, run.seed).flags[2].schedule in (level, "alternating"):
            return _difference(records[run.name][run.seed], records.get(name, {}).get(run.seed), level)
    return ""


def _difference(record: dict, baseline: dict | None, level: str) -> str:
    if baseline is None:
        return "?"
    difference, p = significance(record, baseline, level)
    return f"{difference:+.2f} (p {p:.3f})"


def _cost(grid: Grid, runs: list[Run], records: dict[str, dict[int, dict]]) -> str:
    """Return the mean of the training FLOPs over those that they are to equal, of seeds for which all are there."""
    if runs[0].name not in grid.equal_cost:
        return "-"
    shares = []
    for run in runs:
        others = [records.get(name, {}).get(run.seed) for name in grid.equal_cost[run.name]]
        if None not in others:
            own = records[run.name][run.seed]["training"]["flops"]
            shares.append(own / sum(other["training"]["flops"] for other in others))
    return number(statistics.mean(shares), 1, 2) if shares else "?"


def _missing(grid: Grid, records: dict[str, dict[int, dict]]) -> str:
    missing = {
        name: [str(run.seed) for run in grid.runs if run.name == name and run.seed not in records.get(name, {})]
        for name in grid.flags
    }
    rows = (f"{name} (seed{'s' * (len(seeds) > 1)} {', '.join(seeds)})" for name, seeds in missing.items() if seeds)
    return ", ".join(rows)


if __name__ == "__main__":
    main()
