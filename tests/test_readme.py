"""No figure of the README's table is typed by hand."""

import shlex
from pathlib import Path

from hf_ats.evaluation import render_comparison

REPOSITORY = Path(__file__).parent.parent


def test_the_table_is_rendered_from_the_result_files_by_the_readmes_own_command():
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    block = readme.split("<!-- begin multi30k -->")[1].split("<!-- end multi30k -->")[0].strip()
    command = readme.split("python scripts/compare_runs.py results/")[1].split("```")[0].replace("\\\n", " ")
    words = shlex.split("results/" + command)
    files = [file for word in words[: words.index("--replace")] for file in expanded(word)]
    assert len(files) == 7
    old, new = words[words.index("--replace") + 1 :][:2]
    assert block == render_comparison([REPOSITORY / file for file in files], replace={old: new})


def expanded(word: str) -> list[str]:
    """What bash makes of `a/{b,c}.json`."""
    head, rest = word.split("{")
    middle, tail = rest.split("}")
    return [f"{head}{name}{tail}" for name in middle.split(",")]
