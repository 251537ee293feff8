"""The memory that one step frees is there for the next."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

MEMORY = Path(__file__).parents[2] / "hf_ats/run/memory.py"  # without the package, which takes seconds to import

PROGRAM = """
import resource, runpy, sys, torch
if sys.argv[1] == "keep":
    assert runpy.run_path(sys.argv[2])["keep_freed_memory"]()
for step in range(12):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(10_000_000) for _ in range(2)]  # 40 MB each
    del tensors
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc can be told")
def test_a_program_that_keeps_its_memory_is_not_handed_the_same_pages_again():
    def faults_of_a_step(mode):
        command = [sys.executable, "-c", PROGRAM, mode, str(MEMORY)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return int(done.stdout)

    pages = 80_000_000 // resource.getpagesize()
    assert faults_of_a_step("keep") < 0.05 * pages < 0.9 * pages < faults_of_a_step("return")
