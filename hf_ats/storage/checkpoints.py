"""Checkpoints of a run: `checkpoint-N` with a `checkpoint.json`, which says of which run it is, and every digest."""

import json
import logging
import os
import re
from pathlib import Path

from .digests import check_files, is_sealed, sealed, sha256_of
from .drafts import write_file

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.json"
"""The file that is written last into a checkpoint: its facts, and the SHA-256 of all its other files."""
RUN = "run.json"
"""The file of a run's folder that says which run goes on there, and from which checkpoint it began."""

_NAME = re.compile(r"checkpoint-(\d+)")


def checkpoints_in(run_dir: str | os.PathLike) -> list[Path]:
    """Return the directories `checkpoint-N` of a folder by their steps, the last first."""
    found = [path for path in Path(run_dir).glob("checkpoint-*") if path.is_dir() and _NAME.fullmatch(path.name)]
    return sorted(found, key=step_of, reverse=True)


def step_of(checkpoint: str | os.PathLike) -> int:
    """Return the N of a directory `checkpoint-N`."""
    return int(_NAME.fullmatch(Path(checkpoint).name)[1])


def seal_checkpoint(directory: str | os.PathLike, facts: dict) -> None:
    """Write the facts of a checkpoint and the digests of all its files, as the last file."""
    record = {**facts, "files": sha256_of(directory)}
    write_file(Path(directory) / CHECKPOINT, json.dumps(sealed(record), indent=2) + "\n")


def read_checkpoint(directory: str | os.PathLike) -> dict:
    """Return the facts of a checkpoint, without looking at its other files.

    Raises:
        ValueError: it has none.
    """
    path = Path(directory) / CHECKPOINT
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if is_sealed(record):
            return record
        fault = "has been altered"
    except FileNotFoundError:
        fault = "is missing"
    except ValueError:
        fault = "has been cut off or altered"
    raise ValueError(
        f"the checkpoint {directory} is not whole: {CHECKPOINT}, which the trainers of hf_ats write last, {fault}."
    )


def check_checkpoint(directory: str | os.PathLike, leave_out: tuple[str, ...] = ()) -> dict:
    """Return the facts of a checkpoint, all of whose files are what was written.

    Args:
        directory: a `checkpoint-N`.
        leave_out: beginnings of the names of files that are not read, and so need not be right.

    Raises:
        ValueError: it is not whole; the message names the file.
    """
    record = read_checkpoint(directory)
    read = {name: digest for name, digest in record["files"].items() if not name.startswith(leave_out)}
    check_files(directory, read, "the checkpoint")
    return record


def last_checkpoint(run_dir: str | os.PathLike) -> Path:
    """Return the last whole checkpoint of the run that goes on in a folder; log those that are left out, and why.

    Raises:
        ValueError: there is none.
    """
    run_dir = Path(run_dir)
    run = read_run(run_dir) or {}
    own = [(checkpoint, run.get("run")) for checkpoint in checkpoints_in(run_dir)]
    # Before its own first checkpoint, a run goes on from the one that it began from.
    began_from = [(Path(run["resumed_from"]), None)] if run.get("resumed_from") else []
    left_out = []
    for checkpoint, expected in own + began_from:
        try:
            found = check_checkpoint(checkpoint)["run"]
            if expected not in (None, found):
                raise ValueError(f"the checkpoint {checkpoint} is of an earlier run in this folder.")
        except ValueError as error:
            left_out.append(str(error))
            continue
        for reason in left_out:
            logger.warning("Left out: %s", reason)
        return checkpoint
    reasons = f" ({' '.join(left_out)})" if left_out else ""
    raise ValueError(
        f"{run_dir} holds no checkpoint to go on from{reasons}; leave resume_from_checkpoint out to train from the "
        "start, or give the directory of a checkpoint-N."
    )


def read_run(run_dir: str | os.PathLike) -> dict | None:
    """Return which run goes on in a folder: `run`, its id, and `resumed_from`, the checkpoint that it began from.

    None if no run says so, or not legibly: then the checkpoints themselves do.
    """
    try:
        record = json.loads((Path(run_dir) / RUN).read_text(encoding="utf-8"))
        return record if isinstance(record["run"], str) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_run(run_dir: str | os.PathLike, run: str, resumed_from: str | os.PathLike | None) -> None:
    """Say in a folder which run goes on there now."""
    Path(run_dir).mkdir(parents=True, exist_ok=True)
    record = {"run": run, "resumed_from": resumed_from and str(Path(resumed_from).absolute())}
    write_file(Path(run_dir) / RUN, json.dumps(record, indent=2) + "\n")
