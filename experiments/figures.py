"""Render the tables of what was measured for the figures of docs/theory.md.

python -m experiments.figures experiments/figures/subnets.json
python -m experiments.figures experiments/figures/subnets.json --update docs/theory.md --block subnets

The name of the file says whose table it is: subnets (`experiments.subnets`), dropout (`experiments.dropout`), or
alternation (`experiments.alternation`).
"""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from hf_ats.results import align, mean_and_deviation
from hf_ats.run import manual_parser, user_errors
from hf_ats.scripts.compare_runs import add_update_flags, print_or_update


def render(file: Path) -> str:
    """Return the Markdown table of a file.

    Raises:
        ValueError: its name is none of those of a table.
    """
    if file.stem not in TABLES:
        raise ValueError(f"{file} has no table: give a file named {', '.join(f'{name}.json' for name in TABLES)}.")
    header, rows, note = TABLES[file.stem](json.loads(file.read_text(encoding="utf-8")))
    return f"{align(header, rows, 'markdown')}\n\n{note}"


def of_subnets(found: dict) -> tuple[list[str], list[list[str]], str]:
    """Return a row for each tolerance: its runs, and those with as many exchanges in as many steps, evenly."""
    settings, rows = found["settings"], []
    for tolerance in settings["tolerances"]:
        runs = [run for run in found["runs"] if run["tolerance"] == tolerance]
        by_rule, fixed = ([run[kind] for run in runs] for kind in ("by_rule", "fixed"))
        both = list(zip(by_rule, fixed, strict=True))
        rows.append(
            [
                f"{tolerance:g}",
                ", ".join(str(run["exchanges"]) for run in by_rule),
                *(f"{mean_length(by_rule, settings['steps'], half):.1f}" for half in (0, 1)),
                mean_and_deviation([run["accuracy"] for run in by_rule]),
                mean_and_deviation([run["accuracy"] for run in fixed]),
                mean_and_deviation([one["accuracy"] - other["accuracy"] for one, other in both]),
                f"{min(run['smallest_margin'] for run in by_rule):.3g}",
            ]
        )
    header = ["tolerance", "exchanges, by seed", "steps a round, first half", "second half", "accuracy (%)"]
    header += ["the same, evenly", "difference", "smallest margin of a new split"]
    note = (
        f"{settings['workers']} workers, {settings['steps']} steps each of {settings['batch']} images, a round at "
        f"most {settings['most_steps']}; {settings['images']:,} images of {settings['size']} x {settings['size']}, "
        f"two layers of {settings['hidden']} neurons; accuracy of the whole network on "
        f"{settings['test_images']:,} images."
    )
    return header, rows, note


def mean_length(runs: Sequence[dict], steps: int, half: int) -> float:
    """Return the mean length of the rounds that begin in the first (0) or the second (1) half of the steps."""
    lengths = []
    for run in runs:
        begin = 0
        for length in run["lengths"]:
            lengths += [length] if 2 * begin // steps == half else []
            begin += length
    return statistics.mean(lengths)


def of_dropout(found: dict) -> tuple[list[str], list[list[str]], str]:
    """Return a row for each run and kind of mask, over the second half of its probes."""
    rows = []
    for name, run in found["runs"].items():
        probes = run["probes"][len(run["probes"]) // 2 :]
        for kind in ("neurons", "weights"):
            c_sim, cosine = ([probe[kind][quantity] for probe in probes] for quantity in ("c_sim", "cosine"))
            c_align = [probe[kind]["c_align"] for probe in probes if probe[kind]["c_align"] is not None]
            undefined = sum(probe[kind]["c_align"] is None for probe in probes)
            rows.append(
                [
                    f"{name}, masks of {kind}",
                    f"{run['accuracy']:.2f}",
                    f"{statistics.median(c_sim):.2f} ({max(c_sim):.2f})",
                    f"{statistics.mean(cosine):.2f}",
                    f"{statistics.median(c_align):.2f}" if c_align else "-",
                    f"{undefined} of {len(probes)}",
                ]
            )
    settings = found["settings"]
    header = ["training", "accuracy (%)", "c_sim, median (largest)", "cosine, mean"]
    header += ["c_align, median where defined", "probes where it is undefined"]
    note = (
        f"Second half of {settings['probes']} probes, each the mean of {settings['masks']} masks that keep "
        f"{settings['keep']:g}, on {settings['probe_images']} images; undefined: the inner product of a mask is "
        f"not positive. ResNet-18 of {settings['width']} to {8 * settings['width']} channels, {settings['epochs']} "
        f"epochs of {settings['images']:,} images of {settings['size']} x {settings['size']}."
    )
    return header, rows, note


def of_alternation(found: dict) -> tuple[list[str], list[list[str]], str]:
    """Return a row for each run, over the second half of its measurements."""
    rows = []
    for name, lines in found["runs"].items():
        late = lines[len(lines) // 2 :]
        defined = [line["c_align"] for line in late if line["c_align"] is not None]
        rows.append(
            [
                name,
                *(f"{lines[0][quantity]:.2f}" for quantity in ("c_norm_squared", "c_sim")),
                *(
                    f"{statistics.median(line[quantity] for line in late):.2f}"
                    for quantity in ("c_norm_squared", "c_sim")
                ),
                f"{statistics.median(defined):.2f}" if defined else "-",
                f"{len(late) - len(defined)} of {len(late)}",
            ]
        )
    header = [
        "training",
        "c_norm squared, at the start",
        "c_sim, at the start",
        "c_norm squared, later",
        "c_sim, later",
    ]
    header += ["c_align, later", "c_align undefined, later"]
    return (
        header,
        rows,
        f"Later: the median over the measurements of the second half; the last step is {lines[-1]['step']}.",
    )


TABLES = {"subnets": of_subnets, "dropout": of_dropout, "alternation": of_alternation}


@user_errors()
def main() -> None:
    """Render, then print or update."""
    parser = manual_parser(__doc__)
    parser.add_argument("file", type=Path, help="what was measured")
    add_update_flags(parser)
    arguments = parser.parse_args()
    print_or_update(render(arguments.file), arguments)


if __name__ == "__main__":
    main()
