"""Peak memory is that of the work, not of the process around it."""

import pytest
import torch

from benchmarks.memory import peak_memory

MEGABYTES = 2**20


def hold(megabytes):
    """Holds that much, and lets go of it before the end."""
    torch.ones(megabytes * MEGABYTES // 4)
    return


def fail():
    raise SystemExit(3)


def test_the_peak_counts_what_was_let_go_of_and_not_what_others_hold():
    held_here = torch.ones(300 * MEGABYTES // 4)
    peak = peak_memory(hold, 100)
    assert held_here is not None and 100 * MEGABYTES <= peak < 160 * MEGABYTES


def test_work_that_fails_is_an_error():
    with pytest.raises(RuntimeError, match="measuring the memory of fail failed: its process ended with 3"):
        peak_memory(fail)
