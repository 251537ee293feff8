"""Launches modules on two real processes, and trains what they train on one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.laws import assert_close_named
from tests.support.models import partitioned
from tests.support.training import make_trainer

REPOSITORY = Path(__file__).parents[3]


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


def train_on_one_process(output_dir, model=None, partition="rank", **fields) -> dict:
    """The weights after the same steps as two processes make with half of the batch each."""
    model = (partitioned(partition=partition) if model is None else model).double()
    defaults = dict(per_device_train_batch_size=4, weight_decay=0.1, label_smoothing_factor=0.1)
    make_trainer(model, output_dir, **(defaults | fields)).train()
    return model.state_dict()


def assert_same_state(first: dict, second: dict, **tolerance) -> None:
    """Two state dictionaries hold the same names and, within the tolerance, numbers."""
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert_close_named(name, second[name], tensor, **tolerance)
