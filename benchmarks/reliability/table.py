r"""Render the tables of docs/reliability.md from the records of the trials.

    python -m benchmarks.reliability.table kills
    python -m benchmarks.reliability.table inputs --update docs/reliability.md --block inputs

`kills` counts by the phase in which a run was killed, `inputs` by the kind of what was bad; `digests` is what those of
a checkpoint cost.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

from benchmarks.record import read_record
from benchmarks.report import render_record
from hf_ats.results import align, update_marked_block

from .inputs import GOOD, OUTCOMES
from .kills import PHASES
from .lines import read_lines

RECORDS = Path(__file__).parents[1] / "results" / "reliability"


def render_kills(lines: list[dict]) -> str:
    """Return a table in Markdown: a row for each phase, with the kills, by which signal, and how many ended alike."""
    signals = ("SIGKILL", "SIGTERM", "SIGINT")
    rows = []
    for phase in (*PHASES, "all"):
        kills = [line for line in lines if phase in ("all", line["phase"])]
        by = Counter(line["signal"] for line in kills)
        again = sum(line.get("then") == "resumed" for line in kills)
        equal = sum(line["equal"] for line in kills)
        rows.append([phase, *(f"{by[name]:,}" for name in signals), f"{again:,}", f"{equal:,} of {len(kills):,}"])
    return align(["killed in", *signals, "of these resumed from a checkpoint", "bitwise equal"], rows, "markdown")


def render_inputs(lines: list[dict]) -> str:
    """Return a table in Markdown: a row for each kind of bad input, with what became of it."""
    bad = [outcome for outcome in OUTCOMES if outcome not in GOOD]
    rows = []
    kinds = [line["case"].partition(":")[0] for line in lines]
    for kind in (*sorted(set(kinds)), "all"):
        found = Counter(line["outcome"] for line, of in zip(lines, kinds, strict=True) if kind in ("all", of))
        counts = [found[outcome] for outcome in (*GOOD, *bad)]
        rows.append([kind, f"{found.total():,}", *(f"{count:,}" for count in counts)])
    return align(["what is bad", "tried", *GOOD, *bad], rows, "markdown")


RENDERERS = {
    "kills": ("kills.jsonl", lambda path: render_kills(read_lines(path))),
    "inputs": ("inputs.jsonl", lambda path: render_inputs(read_lines(path))),
    "digests": ("digests.json", lambda path: render_record(read_record(path), "markdown")),
}
"""By trial, its record in `RECORDS`, and what makes a table of that file."""


def main() -> None:
    """Render, then print or update."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trial", choices=list(RENDERERS), help="which")
    parser.add_argument("--record", type=Path, help="its file (default: that of this repository)")
    parser.add_argument("--update", type=Path, metavar="FILE", help="replace the marked block of this file")
    parser.add_argument("--block", help="name of the marked block (default: the trial's)")
    arguments = parser.parse_args()
    name, render = RENDERERS[arguments.trial]
    table = render(arguments.record or RECORDS / name)
    if arguments.update is None:
        print(table)
    else:
        changed = update_marked_block(arguments.update, table, arguments.block or arguments.trial)
        print(f"{arguments.update} is {'updated' if changed else 'up to date'}", file=sys.stderr)


if __name__ == "__main__":
    main()
