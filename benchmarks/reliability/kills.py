r"""Kill runs at random moments, go on, and compare what they leave with a run that nobody killed, byte by byte.

    python -m benchmarks.reliability.kills --kills 1000 --jobs 2

A run trains a tiny network and its core for a dozen steps, saves, evaluates, exports and reports; some export a
checkpoint again by `hf-ats export`. It is killed at a moment drawn uniformly over its time on the processor, one time
in four while it saves. It goes on with `--resume_from_checkpoint True`, or from the start where there is no checkpoint
yet, and may be killed again.
Each kill is a line of --lines. This benchmark can be killed too: the same command makes the runs that are missing.
"""

import argparse
import math
import mmap
import random
import re
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .folders import differences
from .forks import Fork, import_what
from .lines import add_lines, read_lines, side_by_side
from .material import SIZES, TRAINING, prefixes, write_adapter, write_corpus

ROOT = Path(__file__).parents[2]
LINES = ROOT / "benchmarks" / "results" / "reliability" / "kills.jsonl"
PHASES = ("start", "training", "saving", "evaluation", "export", "report", "export command")
STEPS = "--max_steps 12 --save_strategy steps --save_steps 4 --logging_steps 2"
WATCHED = f"{STEPS} --eval_strategy steps --eval_steps 6 --predict_with_generate"
LADDER = "--method width --ratios 0.25 0.5 --schedule random --dropout 0.1 --learning_rate 0.02"
EXPORT = "export --checkpoint run/checkpoint-12 --output_dir again --kinds full core core-dense adapter"

# A run that is asked to end saves a checkpoint of its own, which may take the place of another under a limit.
_ON_REQUEST = re.compile(r"run/checkpoint-(?!12/)\d+/.* is (missing|too many)")

CONFIGURATIONS: dict[str, list[str]] = {
    "rank": [f"train {SIZES} --ratios 0.25 {WATCHED}"],
    "width ladder, random": [f"train {SIZES} {LADDER} {WATCHED}"],
    "accumulation, last two": [f"train {SIZES} {STEPS} --gradient_accumulation_steps 2 --save_total_limit 2"],
    "best at the end": [
        f"train {SIZES} {WATCHED} --eval_steps 4 --load_best_model_at_end --save_total_limit 1 "
        "--metric_for_best_model full_bleu --dropout 0.1"
    ],
    "slimmable, by tokens": [f"train {SIZES} {STEPS} --schedule slimmable --max_tokens 160 --dropout 0.1"],
    "pretrained": [f"train --model_name_or_path ../../../material/base {WATCHED} --ratios 0.5 --label_smoothing 0.1"],
    "adapter": [f"train --adapter_name_or_path ../../../material/adapter {STEPS}"],
    "exported again": [f"train {SIZES} {STEPS} --ratios 0.25", EXPORT],
}
"""By name, the commands of a run, one after another, in the folder of the run."""


@dataclass
class Trial:
    """A configuration in the folder of the benchmark."""

    name: str
    commands: list[list[str]]
    expected: Path
    seconds: list[float]  # of the processor, for each command when nobody kills it

    def left_after(self, command: int) -> float:
        """Return the processor's seconds for a command and those after it."""
        return sum(self.seconds[command:])


def set_up(folder: Path, names: list[str]) -> dict[str, Trial]:
    """Write the material, import everything, and make the run of each configuration that nobody kills."""
    for rest in ("material", "expected", "killed"):
        shutil.rmtree(folder / rest, ignore_errors=True)
    corpus = write_corpus(folder / "material" / "corpus")
    flags = [*TRAINING.split(), *prefixes(corpus), "--output_dir", "run"]
    first = f"{SIZES} --ratios 0.25 {WATCHED}".split()
    import_what("train", [*flags, *first], folder / "material" / "first")
    write_adapter(folder / "material", folder / "material" / "first" / "run" / "full")
    trials = {}
    for number, name in enumerate(names):
        commands = [line.split() for line in CONFIGURATIONS[name]]
        commands = [[words[0], *(flags if words[0] == "train" else []), *words[1:]] for words in commands]
        trial = trials[name] = Trial(name, commands, folder / "expected" / str(number) / "run", [])
        for command, *arguments in commands:
            child = Fork(command, arguments, trial.expected)
            if child.wait() != 0:
                raise ValueError(f"{name}: {command} failed: {child.err.read_text()[-2000:]}")
            trial.seconds.append(child.cpu_seconds)
    return trials


def killed_run(trial: Trial, draw: random.Random, directory: Path, most: int = 6) -> list[dict]:
    """Run a trial to its end through kills at random moments; return what is known of each.

    Args:
        trial: the configuration.
        draw: what the moments and the signals are drawn from.
        directory: where it runs; it must not exist.
        most: how often it is killed.
    """
    kills, command, phase = [], 0, mmap.mmap(-1, 1)
    failed = None
    while failed is None and command < len(trial.commands):
        moment = draw.uniform(0, trial.left_after(command))
        number = draw.choices([signal.SIGKILL, signal.SIGTERM, signal.SIGINT], [8, 1, 1])[0]
        aims = draw.random() < 0.25
        while command < len(trial.commands):
            name, *arguments = trial.commands[command]
            resumed = name == "train" and any(directory.glob("run/checkpoint-*"))
            if resumed:
                arguments += ["--resume_from_checkpoint", "True"]
            if kills:
                kills[-1].setdefault("then", "resumed" if resumed else "the same command")
            child = Fork(name, arguments, directory, at_start=watch(phase, name))
            if aims and name == "train" and len(kills) < most:
                status = wait_for_saving(child, phase, draw.randrange(3))
            else:
                status = child.wait_cpu(moment if len(kills) < most else math.inf)
            if status is None:
                status = child.wait(draw.uniform(0, 0.03))  # in which it may wait for the disk
            moment -= child.cpu_seconds
            if status is None:
                seen = PHASES[phase[0]]
                child.send(number)
                status = child.wait(60)
                torn = torn_folders(trial.expected, directory)
                kills.append({"signal": number.name, "phase": seen, "status": status, "torn": torn})
                if status is None:
                    child.send(signal.SIGKILL)
                    child.wait()
                break
            if status != 0:
                failed = f"{name} ended with status {status}: {last_line(child.err)}"
                break
            command += 1
    found = [failed] if failed else differences(trial.expected, directory)
    if any(kill["signal"] != "SIGKILL" for kill in kills):
        found = [one for one in found if not _ON_REQUEST.match(one)]
    return [kill | {"equal": not found and not kill["torn"], "differs": found} for kill in kills]


def wait_for_saving(child: Fork, phase: mmap.mmap, before: int) -> int | None:
    """Return None when a run saves a checkpoint, after `before` others, or its status if it ends without that."""
    saves, saving = 0, False
    while (status := child.wait(0.001)) is None:
        was, saving = saving, phase[0] == PHASES.index("saving")
        saves += saving and not was
        if saves > before:
            return None
    return status


def torn_folders(expected: Path, directory: Path) -> list[str]:
    """Return what differs in folders that have their final name, and so must be whole whenever a run is killed."""
    whole = [path for parent in ("run", "again") for path in (expected / parent).glob("*") if path.is_dir()]
    found = []
    for path in whole:
        name = path.relative_to(expected)
        if (directory / name).exists():
            found += [f"{name}/{one}" for one in differences(path, directory / name)]
    return found


def last_line(file: Path) -> str:
    """Return the last line of what a command printed."""
    lines = file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else ""


def watch(phase: mmap.mmap, command: str) -> Callable[[], None]:
    """Return what keeps `phase[0]`, which the child shares, at the number of the phase that it is in."""

    def during(owner, name: str, number: int, after: int | None = None) -> None:
        original = getattr(owner, name)

        def watched(*arguments, **keywords):
            before, phase[0] = phase[0], number
            try:
                return original(*arguments, **keywords)
            finally:
                phase[0] = before if after is None else after

        setattr(owner, name, watched)

    def at_start() -> None:
        from hf_ats import ATSSeq2SeqTrainer
        from hf_ats.run import finish

        phase[0] = PHASES.index("start" if command == "train" else "export command")
        during(ATSSeq2SeqTrainer, "train", PHASES.index("training"), PHASES.index("report"))
        during(ATSSeq2SeqTrainer, "_save_checkpoint", PHASES.index("saving"))
        during(ATSSeq2SeqTrainer, "evaluate", PHASES.index("evaluation"))
        during(finish, "export_level", PHASES.index("export"))

    return at_start


def run_missing(folder: Path, lines: Path, trials: list[Trial], kills: int, seed: int, worker: int, jobs: int) -> None:
    """Make the runs of a worker until the record has `kills` kills: every `jobs`-th number that is not in it."""
    number = worker
    while len(done := read_lines(lines)) < kills:
        if number not in {line["run"] for line in done}:
            trial, directory = trials[number % len(trials)], folder / "killed" / str(number) / "run"
            shutil.rmtree(directory.parent, ignore_errors=True)
            found = killed_run(trial, random.Random(f"{seed} {number}"), directory)
            add_lines(lines, [{"run": number, "configuration": trial.name, **kill} for kill in found])
            for kill in found:
                if not kill["equal"]:
                    print(f"run {number} ({trial.name}), {kill}"[:2000], file=sys.stderr)
            if all(kill["equal"] for kill in found):
                shutil.rmtree(directory.parent)
        number += jobs


def main() -> None:
    """Set up, fork the workers, wait for them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000, help="how many in all (default: 1000)")
    parser.add_argument("--jobs", type=int, default=2, help="workers side by side (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--configurations", nargs="+", default=list(CONFIGURATIONS), help="by name (default: all)")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "reliability" / "kills", help="where they run")
    parser.add_argument("--lines", type=Path, default=LINES, help="the record")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    trials = list(set_up(folder, arguments.configurations).values())
    for trial in trials:
        print(f"{trial.name}: {sum(trial.seconds):.1f} s", file=sys.stderr)

    def work(worker: int) -> None:
        run_missing(folder, arguments.lines, trials, arguments.kills, arguments.seed, worker, arguments.jobs)

    side_by_side(arguments.jobs, work)


if __name__ == "__main__":
    main()
