"""Launches modules on two real processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent.parent


def launch(*arguments: str, processes: int = 2, timeout: float = 240) -> None:
    """Runs `python arguments` under torchrun on the CPU, and fails with what it printed.

    `accelerate launch --cpu --num_processes 2` would start one process and say nothing; torchrun with
    ACCELERATE_USE_CPU starts two. What is launched asserts its world size itself.
    """
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    process = subprocess.Popen(
        [*command, *arguments],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        raise AssertionError(f"no end within {timeout} s:\n{output[-4000:]}") from None
    assert process.returncode == 0, output[-6000:]
