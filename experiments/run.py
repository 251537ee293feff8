"""Train what is missing of a grid, and leave a small JSON file for each run in experiments/results.

    python experiments/run.py tables-1a-2a --data data --jobs 2
    python experiments/run.py table-3 --scale paper --data data
    python experiments/run.py my-grid.yaml --data data

A grid is a YAML file, one of experiments/grids or your own: runs by their name, each with its flags, times seeds, at a
scale that has a recipe and data below --data. Runs train in runs/experiments/RECIPE/NAME-seedN, their output is
NAME-seedN.log beside that folder, and grids of one recipe share them. Whatever ends this command, also SIGKILL, the
same command goes on: what is finished stays, and what has begun goes on exactly from its last checkpoint. A run that
another process trains is left to it, and one that starts from the network of another run waits for that; if only the
record of that one is here, it is trained again. A run that fails is named at the end, and the others go on.

--jobs 0 trains nothing, and writes the files of runs that are finished.
"""

import fcntl
import os
import re
import shlex
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

from experiments.grids import ROOT, Run, load_grid
from experiments.records import write_record
from hf_ats.results import read_results
from hf_ats.run import early_ends, manual_parser, user_errors
from hf_ats.storage import checkpoints_in

POLL_SECONDS, REPORT_SECONDS = 1.0, 60.0
PROGRAM = [sys.executable]


@early_ends()
@user_errors()
def main() -> None:
    """Check everything, then train what is missing."""
    parser = manual_parser(__doc__)
    parser.add_argument("grid", help="a file, or the name of one in experiments/grids")
    parser.add_argument("--scale", help="one of the grid's, such as small or paper (default: its first)")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data (default: data)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time (default: 1)")
    arguments = parser.parse_args()
    if arguments.jobs < 0:
        parser.error(f"--jobs {arguments.jobs} is not a count; write 1 or more, or 0 to train nothing")
    grid = load_grid(arguments.grid, arguments.scale, arguments.data.absolute())
    grid.check_data()
    for run in grid.runs:
        run.check()
    for run in grid.runs:
        if run.is_trained and not run.record.exists():
            write_record(run)
    failed = train_missing(grid.runs, arguments.jobs) if arguments.jobs else []
    done = sum(run.record.exists() for run in grid.runs)
    print(f"{grid.name} ({grid.scale}): {done} of {len(grid.runs)} runs are done", flush=True)
    if failed:
        sys.exit(f"run.py: {'; '.join(failed)}. The same command tries them again.")


@dataclass
class Job:
    """A run in training: its process, the log whose lock it holds, when it began, and how far it was then."""

    run: Run
    process: subprocess.Popen
    log: BinaryIO
    began: float
    share: float

    def seconds(self) -> float | None:
        """Estimate how long the whole run takes; None if nothing is known."""
        progress = share_done(self.run) - self.share
        return (time.monotonic() - self.began) / progress if progress > 0 else None


def train_missing(runs: list[Run], jobs: int) -> list[str]:
    """Train runs without a record, `jobs` at a time, in their order.

    Returns:
        A sentence for each that failed.
    """
    missing: list[Run] = []
    for run in reversed(runs):  # one that another starts from stands above it, and may have left its record alone
        if not run.record.exists() or (not run.is_trained and run in [other.start for other in missing]):
            missing.insert(0, run)
    running: list[Job] = []
    failed: list[str] = []
    said, reported = "", 0.0
    # Whoever ends this process ends its runs too, which write a checkpoint.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        while missing or running:
            for run in list(missing):
                if run.start and not run.start.is_trained:
                    if run.start not in [*missing, *(job.run for job in running)]:
                        failed.append(f"{run.id} starts from {run.start.id}, which failed")
                        missing.remove(run)
                    continue
                try:
                    job = start(run, jobs) if len(running) < jobs else None
                except (OSError, ValueError) as error:
                    failed.append(f"{run.id}: {error}")
                    missing.remove(run)
                    continue
                running += [job] if job else []
                if job or (run.record.exists() and run.is_trained):
                    missing.remove(run)
            time.sleep(POLL_SECONDS)
            for job in [job for job in running if job.process.poll() is not None]:
                running.remove(job)
                job.log.close()
                if job.process.returncode or not job.run.is_trained:
                    failed.append(f"{job.run.id} ended with status {job.process.returncode}, see {job.run.log}")
                else:
                    missing.insert(0, job.run)  # of which `start` writes the record
            done = f"{sum(run.record.exists() for run in runs)} of {len(runs)} runs done"
            if done != said or time.monotonic() - reported > REPORT_SECONDS:
                print(f"{time.strftime('%H:%M')} {done}{_of_the_others(runs, running, missing, jobs)}", flush=True)
                said, reported = done, time.monotonic()
    finally:
        for job in running:
            job.process.send_signal(signal.SIGTERM)
        for job in running:
            job.process.wait()
    return failed


def start(run: Run, jobs: int) -> Job | None:
    """Start a run, or go on with it; None if another process trains it, or it has ended, and has a record now."""
    run.log.parent.mkdir(parents=True, exist_ok=True)
    log = run.log.open("ab")
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the run inherits it, and holds it if this process dies
    except OSError:
        log.close()
        return None
    if run.is_trained:
        log.close()
        if not run.record.exists():
            write_record(run)
        return None
    words = run.words(run.grid.data, run.folder)
    if checkpoints_in(run.folder):
        words += ["--resume_from_checkpoint", "True"]
    log.write(f"\n$ {shlex.join(['python', *words])}\n".encode())
    log.flush()
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    environment = {"OMP_NUM_THREADS": threads, **os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([*PROGRAM, *words], cwd=ROOT, stdout=log, stderr=log, env=environment)
    return Job(run, process, log, time.monotonic(), share_done(run))


def share_done(run: Run) -> float:
    """Return how much of a run is trained, from what it logged last: between 0 and 1."""
    with run.log.open("rb") as log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - 4000))
        epochs = re.findall(rb"'epoch': '?([\d.]+)", log.read())
    _, _, args, _ = run.flags
    return min(1.0, float(epochs[-1]) / args.num_train_epochs) if epochs else 0.0


def _of_the_others(runs: list[Run], running: list[Job], missing: list[Run], jobs: int) -> str:
    """Say how far the runs in training are, and how long all that is left takes, about."""
    seconds: dict[str, list[float]] = {}
    for run in runs:
        if run.record.exists():
            seconds.setdefault(run.name, []).append(read_results(run.record, task=None)["training"]["seconds"])
    for job in running:
        if (whole := job.seconds()) is not None:
            seconds.setdefault(job.run.name, []).append(whole)
    shares = {job.run.id: share_done(job.run) for job in running}
    shown = "".join(f", {name} at {share:.0%}" for name, share in shares.items())
    left = [run for run in runs if not run.record.exists()]
    if len(running) < jobs and missing:
        shown += ", others wait for another process, or for the run that they start from"
    if not seconds or not left:
        return shown
    mean = statistics.mean(value for values in seconds.values() for value in values)
    whole = {run: statistics.mean(seconds.get(run.name, [mean])) for run in left}
    minutes = sum(whole[run] * (1 - shares.get(run.id, 0)) for run in left) / min(jobs, len(left)) / 60
    return f"{shown}; about {minutes // 60:.0f} h {minutes % 60:.0f} min left"


if __name__ == "__main__":
    main()
