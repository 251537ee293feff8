"""The commands as a user runs them, in processes of their own or in this one."""

import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hf_ats import ATSSeq2SeqTrainer
from hf_ats.scripts import train_translation

SCRIPTS = Path(__file__).parents[2] / "scripts"


def run_command(command: list, stdin: str | None = None, status: int = 0) -> subprocess.CompletedProcess:
    """In a process of its own, which must end with `status`."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPTS.parent)}
    words = list(map(str, command))
    done = subprocess.run(words, env=environment, input=stdin, capture_output=True, encoding="utf-8", timeout=240)
    assert done.returncode == status, done.stderr[-4000:]
    return done


def run(script: str, *arguments, stdin: str | None = None, status: int = 0) -> subprocess.CompletedProcess:
    """`python scripts/SCRIPT`, in a process of its own."""
    return run_command([sys.executable, SCRIPTS / script, *arguments], stdin, status)


def run_here(script: str, *arguments, monkeypatch) -> None:
    """The same in this process, which has loaded everything already."""
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    runpy.run_path(str(SCRIPTS / script), run_name="__main__")


def train(*arguments, watch: Callable[[ATSSeq2SeqTrainer], None] | None = None) -> ATSSeq2SeqTrainer:
    """`hf-ats train` in this process; returns its trainer. `watch` is called with it when training begins."""
    seen, original = [], ATSSeq2SeqTrainer.train

    def watched(trainer, *args, **kwargs):
        seen.append(trainer)
        if watch is not None:
            watch(trainer)
        return original(trainer, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ATSSeq2SeqTrainer, "train", watched)
        patch.setattr(sys, "argv", ["hf-ats train", *map(str, arguments)])
        train_translation.main()
    return seen[0]


def begin(*arguments) -> ATSSeq2SeqTrainer:
    """The trainer of `hf-ats train` as it is when training begins; nothing is trained."""

    class Begun(Exception):
        """Carries the trainer out of the command."""

    def stop(trainer):
        raise Begun(trainer)

    with pytest.raises(Begun) as begun:
        train(*arguments, watch=stop)
    return begun.value.args[0]
