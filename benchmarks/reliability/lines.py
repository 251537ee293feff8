"""Records of trials: a JSON line each, appended by several workers, and whole again if a worker is killed."""

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

from .forks import die_with


def add_lines(path: Path, lines: Iterable[dict]) -> None:
    """Append lines in one piece, beside what other workers append."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, text.encode())
    finally:
        os.close(handle)


def read_lines(path: Path) -> list[dict]:
    """Return what was recorded; a last line that was cut off is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.endswith("}")]


def side_by_side(jobs: int, work: Callable[[int], None]) -> None:
    """Call `work(worker)` in `jobs` forked processes, and wait for them; raise ValueError if one failed."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    parent = os.getpid()
    workers = [os.fork() or _work(work, worker, parent) for worker in range(jobs)]
    statuses = [os.waitpid(pid, 0)[1] for pid in workers]
    if any(statuses):
        raise ValueError("a worker failed; its error is above.")


def _work(work: Callable[[int], None], worker: int, parent: int) -> None:
    status = 1
    try:
        die_with(parent)
        work(worker)
        status = 0
    except BaseException:  # of any kind: this process has no other way to show it
        traceback.print_exc()
    finally:
        os._exit(status)
