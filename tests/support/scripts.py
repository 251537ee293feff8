"""Running the commands as a user does."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "scripts"


def run(script: str, *arguments, stdin: str | None = None, status: int = 0) -> subprocess.CompletedProcess:
    """In a process of its own, which must end with `status`."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPTS.parent)}
    command = [sys.executable, str(SCRIPTS / script), *map(str, arguments)]
    done = subprocess.run(command, env=environment, input=stdin, capture_output=True, encoding="utf-8", timeout=240)
    assert done.returncode == status, done.stderr[-4000:]
    return done


def run_here(script: str, *arguments, monkeypatch) -> None:
    """In this process, which has loaded everything already."""
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    runpy.run_path(str(SCRIPTS / script), run_name="__main__")
