"""No figure of the README's tables is typed by hand."""

import re
import shlex
from pathlib import Path

import pytest

from examples.image_classification import render_images
from hf_ats.results import render_comparison

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("block", "render", "files"),
    [
        ("multi30k", render_comparison, 12),
        ("pretrained", render_comparison, 1),
        ("images", render_images, 5),
    ],
)
def test_a_table_is_rendered_from_the_result_files_by_the_readmes_own_command(block, render, files):
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    shown = readme.split(f"<!-- begin {block} -->")[1].split(f"<!-- end {block} -->")[0].strip()
    compare = r"(?:hf-ats compare|scripts/compare_runs\.py|-m examples\.image_classification\.compare) (.*)"
    commands = re.findall(compare, readme.replace("\\\n", " "))
    (command,) = (one for one in commands if f"--block {block}" in one)
    words = shlex.split(command)
    named = [file for word in words[: words.index("--replace")] for file in expanded(word)]
    assert len(named) == files
    old, new = words[words.index("--replace") + 1 :][:2]
    assert shown == render([REPOSITORY / file for file in named], replace={old: new})


def expanded(word: str) -> list[str]:
    """What bash makes of `a/{b,c}.json`, and of a word without braces."""
    if "{" not in word:
        return [word]
    head, rest = word.split("{")
    middle, tail = rest.split("}")
    return [f"{head}{name}{tail}" for name in middle.split(",")]
