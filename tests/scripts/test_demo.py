"""What `make demo` shows."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_demo_ends_with_two_models_that_translate(tmp_path):
    command = [sys.executable, str(REPOSITORY / "scripts" / "demo.py"), "--output_dir", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, encoding="utf-8", timeout=550)
    assert done.returncode == 0, done.stderr[-4000:]
    equal = dict(re.findall(r"^(core|full): (\d+) of 12 equal the reference", done.stdout, flags=re.M))
    assert set(equal) == {"core", "full"} and all(int(number) >= 8 for number in equal.values()), equal
