"""What `hf-ats demo` shows."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hf_ats.run import parse_flags
from hf_ats.scripts import demo
from tests.support.scripts import run


def test_it_prints_the_command_that_it_runs_and_translates_with_what_that_leaves(
    trained, tmp_path, monkeypatch, capsys
):
    output_dir, commands = tmp_path / "demo", []

    def copy(command, env):
        commands.append(command)
        shutil.copytree(trained.output_dir, output_dir)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(demo.subprocess, "run", copy)
    monkeypatch.setattr(sys, "argv", ["hf-ats demo", "--output_dir", str(output_dir), "--sentences", "2"])
    demo.main()
    printed = capsys.readouterr().out
    ((program, *words),) = commands
    assert printed.startswith(f"$ {shlex.join([program, *words])}\n")
    assert (program, *words[:2]) == (sys.executable, "-m", "hf_ats.scripts.train_translation")
    assert Path(parse_flags("a run", words[2:])[4].output_dir) == output_dir
    assert re.search(r"^full: [012] of 2 equal the reference", printed, flags=re.M)
    assert re.search(r"^German +reference +core +full$", printed, flags=re.M)


@pytest.mark.slow
def test_it_ends_with_two_models_that_translate(tmp_path):
    printed = run("demo.py", "--output_dir", tmp_path, timeout=550).stdout
    equal = dict(re.findall(r"^(core|full): (\d+) of 12 equal the reference", printed, flags=re.M))
    assert set(equal) == {"core", "full"} and all(int(number) >= 8 for number in equal.values()), equal
