"""`hf-ats`, and what all of its commands have in common."""

import re
import subprocess
import sys
from pathlib import Path

import hf_ats_command
import pytest
from transformers import MarianMTModel

import hf_ats
from tests.support.models import tiny_model
from tests.support.scripts import SCRIPTS, run_here

REPOSITORY = SCRIPTS.parent


def test_the_commands_are_listed_without_loading_what_they_need():
    code = (
        "import sys, hf_ats_command; sys.argv = ['hf-ats']; hf_ats_command.main(); assert 'torch' not in sys.modules"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    listed = dict(re.findall(r"^  (\w+) +(\S.*)$", printed, flags=re.M))
    assert listed.keys() == hf_ats_command.COMMANDS.keys()
    for name, file in hf_ats_command.COMMANDS.items():
        assert listed[name] in (SCRIPTS / f"{file}.py").read_text(encoding="utf-8").splitlines()[0]


def test_the_version_is_that_of_the_package_and_no_command_is_made_up(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["hf-ats", "--version"])
    hf_ats_command.main()
    assert capsys.readouterr().out == f"hf-ats {hf_ats.__version__}\n"
    monkeypatch.setattr(sys, "argv", ["hf-ats", "tran"])
    with pytest.raises(SystemExit, match="2"):
        hf_ats_command.main()
    assert "hf-ats: tran is not a command; write one of train, translate" in capsys.readouterr().err


@pytest.mark.parametrize("command", hf_ats_command.COMMANDS)
def test_help_shows_whole_commands(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["hf-ats", command, "--help"])
    with pytest.raises(SystemExit, match="0"):
        hf_ats_command.main()
    out = capsys.readouterr().out
    assert out.startswith(f"usage: hf-ats {command} ")
    assert f"\n    hf-ats {command}" in out and "%(" not in out


def test_an_error_is_a_sentence_that_begins_with_what_was_called(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["hf-ats", "report", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"^hf-ats report: .* holds no results\.json"):
        hf_ats_command.main()
    with pytest.raises(SystemExit, match=r"^report\.py: .* holds no results\.json"):
        run_here("report.py", tmp_path, monkeypatch=monkeypatch)


def test_the_python_of_the_documentation_runs(trained, adapted, tmp_path, monkeypatch):
    pages = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
    blocks = [
        (page.name, block)
        for page in pages
        for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.S)
    ]
    assert len(blocks) >= 6
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    Path("runs/demo").symlink_to(trained.output_dir)
    here = {
        "max_steps=100": "max_steps=2, use_cpu=True",  # fewer steps than a reader would take
        "YOU/iwslt14-de-en-": "runs/demo/",
        "path/or/id/of/adapter": str(adapted[0] / "adapter"),
    }
    base = MarianMTModel.from_pretrained(adapted[0] / "base")
    for page, block in blocks:
        for theirs, ours in here.items():
            block = block.replace(theirs, ours)
        exec(compile(block, page, "exec"), {"base": base, "model": tiny_model("marian")})
    assert {path.name for path in Path("runs/mine").iterdir()} >= {"core", "full", "half"}
