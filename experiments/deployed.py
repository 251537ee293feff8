"""Measure the networks of a grid in the formats of runtimes that it names: megabytes and milliseconds, in int8.

    python experiments/deployed.py cores --data data

Neither depends on the seed or on how a network was trained, so each core is measured once, from the first run that has
it, and the full network. An export is written in the format, and its translations of sentences of the test part are
compared with PyTorch's, as hf-ats export does. Then it is timed at batch 1 on one thread, in turns with the full
network: the test sentence of median length, with 4 beams, into as many tokens as it has. Of a network that a format
does not know it says so.

What was measured stays in experiments/results/RECIPE/deployed.json, which table.py reads, and is not measured again;
remove the file for that. Measure on a machine that does nothing else.
"""

import sys
import tempfile
from pathlib import Path

import torch

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.record import describe_machine
from experiments.grids import Grid, Run, load_grid, shape_of
from hf_ats.checkpoint import load_network, load_tokenizer
from hf_ats.data import load_parallel
from hf_ats.deployment import FORMATS, Stopwatch, check_format, deploy, require_runtime
from hf_ats.evaluation import bleu_tokenizer
from hf_ats.results import installed_versions, number, read_json, write_json
from hf_ats.run import manual_parser, user_errors

SENTENCES, ROUNDS = 200, 100
_BEAMS = 4


@user_errors()
def main() -> None:
    """Measure what is missing."""
    parser = manual_parser(__doc__)
    parser.add_argument("grid", help="a file, or the name of one in experiments/grids")
    parser.add_argument("--scale", help="one of the grid's (default: its first)")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data (default: data)")
    arguments = parser.parse_args()
    grid = load_grid(arguments.grid, arguments.scale, arguments.data.absolute())
    if not grid.formats:
        raise ValueError(f"{grid.path} names no formats to measure in; write such as formats: {[*FORMATS]}.")
    for format in grid.formats:
        require_runtime(FORMATS[format])
    grid.check_data()
    for run in grid.runs:
        run.check()
    torch.set_num_threads(1)
    measure(grid)


def measure(grid: Grid) -> None:
    """Measure what the record lacks, and after each network write it down.

    Raises:
        ValueError: no run has exported the full network.
    """
    networks = exported(grid)
    full = next((export for run, export in networks if run is None), None)
    if full is None:
        raise ValueError(
            f"no run of {grid.name} lies in runs/ with its full network; python experiments/run.py {grid.name} trains."
        )
    data = grid.runs[0].flags[1]
    languages = (data.source_lang, data.target_lang)
    pairs = load_parallel(data.test_prefix, *languages, skip_bad_lines=data.skip_bad_lines)["translation"]
    sources, references = ([pair[language] for pair in pairs] for language in languages)
    done = read_deployed(grid)
    for run, export in networks:
        name, partition = ("full", None) if run is None else (run.name, run.flags[3])
        for format in grid.formats:
            if found_of(done, format, run.shape if run else shape_of(None)):
                continue
            try:
                check_format(export, format)
            except ValueError as error:
                print(f"{name} ({export}): {error}", flush=True)
                continue
            with tempfile.TemporaryDirectory() as folder:
                report = deploy(
                    export,
                    Path(folder, format),
                    format=format,
                    quantization="int8",
                    sources=sources[:SENTENCES],
                    references=references[:SENTENCES],
                    tokenize=data.bleu_tokenizer or bleu_tokenizer(data.target_lang),
                    rounds=0,
                )
            stopwatch = Stopwatch(
                load_network(full),
                load_tokenizer(full),
                sources,
                num_beams=_BEAMS,
                rounds=ROUNDS,
                runtime=FORMATS[format],
                quantization="int8",
            )
            share = stopwatch.share(partition)
            done.append(
                {
                    "run": name,
                    "partition": partition and partition.to_dict(),
                    "format": format,
                    "size_bytes": report.size_bytes,
                    "share": share,
                    "full_ms": stopwatch.full_ms,
                    "tokens": stopwatch.tokens,
                    "rounds": ROUNDS,
                    "sentences": report.runtime["sentences"],
                    "searches": report.runtime["searches"],
                    "runtime": report.runtime["version"],
                    "versions": installed_versions(),
                    "machine": describe_machine(),
                }
            )
            write_json(_record(grid), {"measured": done})
            print(f"{name}, {format}: {cell(done, format, done[-1])}", flush=True)
    waiting = {run.name for run in grid.runs if run.flags[3]} - {
        run.name for run in grid.runs if any(other and other.shape == run.shape for other, _ in networks)
    }
    if waiting:
        print(f"no run has exported the core of {', '.join(sorted(waiting))} yet; measure again then")


def exported(grid: Grid) -> list[tuple[Run | None, Path]]:
    """Return the full network, with None, and each core, with a run of it: the first export of each that there is."""
    trained = [run for run in grid.runs if run.is_trained]
    found = [(None, run.folder / "full") for run in trained if (run.folder / "full").exists()][:1]
    shapes: list[dict] = []
    for run in trained:
        if (run.folder / "core").exists() and run.shape not in shapes:
            shapes.append(run.shape)
            found.append((run, run.folder / "core"))
    return found


def _record(grid: Grid) -> Path:
    return grid.runs[0].record.with_name("deployed.json")


def read_deployed(grid: Grid) -> list[dict]:
    """Return what was measured; nothing if there is no file."""
    path = _record(grid)
    return read_json(path, "remove it, and measure again.")["measured"] if path.exists() else []


def found_of(measured: list[dict], format: str, shape: dict) -> dict | None:
    """Return what was measured of a network in a format, the core of a partition or, of none, the full network."""
    return next((one for one in measured if one["format"] == format and shape_of(one["partition"]) == shape), None)


def cell(measured: list[dict], format: str, one: dict | None) -> str:
    """Return the megabytes and milliseconds of a network, of a core with its share of the full network's time."""
    full = found_of(measured, format, shape_of(None))
    if one is None or full is None:
        return "-"
    size = f"{number(one['size_bytes'], 1e-6, 1)} MB"
    if one is full:
        return f"{size}, {number(one['full_ms'], 1, 1)} ms"
    return f"{size}, {number(one['share'] * full['full_ms'], 1, 1)} ms ({number(one['share'], 1, 2)})"


def deployed_cells(grid: Grid, measured: list[dict], results: dict) -> dict[str, str]:
    """Return the cells of a row, by their heading.

    Args:
        grid: the grid.
        measured: what was.
        results: of a run of the row.
    """
    cells = {}
    for level in ("core", "full"):
        shape = shape_of(results["partition"] if level == "core" else None)
        for format in grid.formats:
            one = found_of(measured, format, shape) if level in results["levels"] else None
            cells[f"{level}, {format} int8"] = cell(measured, format, one)
    return cells


def deployed_note(measured: list[dict]) -> str:
    """Say how the figures of these columns were found."""
    ways = [f"{one['runtime']} on {one['machine']['processor']}, {one['tokens']} tokens" for one in measured]
    return (
        "Columns int8: megabytes of what the runtime loads, and milliseconds for a sentence at batch 1 with "
        f"{_BEAMS} beams on one thread; in parentheses the share of the full network's, timed in turns. "
        + ("; ".join(dict.fromkeys(ways)) + "." if measured else "Nothing is measured yet.")
        + " A dash: not measured, or the runtime does not know the core's layers."
    )


if __name__ == "__main__":
    main()
