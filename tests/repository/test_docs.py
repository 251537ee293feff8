"""The documentation: no figure is typed by hand, no link is dead, no command or flag is made up."""

import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import hf_ats_command
import pytest

from hf_ats.scripts import compare_runs

REPOSITORY = Path(__file__).parents[2]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CHANGELOG.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
RENDERERS = (
    "hf-ats compare",
    "python experiments/table.py",
    "python -m benchmarks.reliability.table",
    "python -m experiments.figures",
    "python -m benchmarks.deployment render",
    "python -m benchmarks.starts render",
)


def shell_commands(page: Path) -> list[str]:
    """The commands of a page's shell blocks, each on one line, comments left out."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.S)
    lines = (line for block in blocks for line in block.replace("\\\n", " ").splitlines())
    return [re.sub(r"\s+#.*", "", line).strip() for line in lines if line.strip()]


COMPARISONS = [
    (page, command)
    for page in PAGES
    for command in shell_commands(page)
    if command.startswith(RENDERERS) and "--update" in command
]


@pytest.mark.parametrize(("page", "command"), COMPARISONS, ids=lambda value: getattr(value, "name", None))
def test_a_table_is_what_the_command_beside_it_renders(page, command, tmp_path, monkeypatch, capsys):
    words = [file for word in shlex.split(command) for file in expanded(word)]
    updated = REPOSITORY / words[words.index("--update") + 1]
    copy = shutil.copy(updated, tmp_path)
    words[words.index("--update") + 1] = str(copy)
    if "--plot" in words:
        words[words.index("--plot") + 1] = str(tmp_path / "plot.png")
    monkeypatch.chdir(REPOSITORY)
    if command.startswith("python -m"):
        monkeypatch.setattr(sys, "argv", words[2:])
        monkeypatch.delitem(sys.modules, words[2], raising=False)  # which a test may have imported
        runpy.run_module(words[2], run_name="__main__")
    elif command.startswith("python "):
        monkeypatch.setattr(sys, "argv", words[1:])
        runpy.run_path(words[1], run_name="__main__")
    else:
        monkeypatch.setattr(sys, "argv", ["hf-ats compare", *words[2:]])
        compare_runs.main()
    assert "is up to date" in capsys.readouterr().err
    shown = updated.read_text(encoding="utf-8").split(f"<!-- begin {words[words.index('--block') + 1]} -->")[1]
    assert shown.strip().startswith("|")  # a table, so it was rendered at some time


def test_every_rendered_table_has_its_command():
    blocks = {
        (page.name, block)
        for page in PAGES
        for block in re.findall(r"<!-- begin (\S+) -->", page.read_text(encoding="utf-8"))
        if page.name not in ("performance.md", "laws.md")  # which have tests of their own
    }
    words = [shlex.split(command) for _, command in COMPARISONS]
    assert {(Path(w[w.index("--update") + 1]).name, w[w.index("--block") + 1]) for w in words} == blocks


def expanded(word: str) -> list[str]:
    """What bash with nullglob makes of `a/{b,c}*.json`, and of a word with neither braces nor a star."""
    if "{" in word:
        head, rest = word.split("{")
        middle, tail = rest.split("}")
        return [one for name in middle.split(",") for one in expanded(f"{head}{name}{tail}")]
    if "*" in word:
        return sorted(str(path.relative_to(REPOSITORY)) for path in REPOSITORY.glob(word))
    return [word]


def anchors(page: Path) -> set[str]:
    """The anchors that the headings of a page have."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name} links {target}"
        if anchor:
            assert anchor in anchors(linked), f"{page.name} links {target}"


def test_every_page_is_reached_from_the_readme():
    linked = set(re.findall(r"\]\(docs/([\w-]+\.md)", (REPOSITORY / "README.md").read_text(encoding="utf-8")))
    assert linked == {path.name for path in (REPOSITORY / "docs").glob("*.md")}
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= 210


def named_commands() -> dict[str, set[str]]:
    """By command, the flags that the pages write after it."""
    named: dict[str, set[str]] = {}
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for name, rest in re.findall(r"hf-ats (\w+)([^\n`|]*)", text):
            named.setdefault(name, set()).update(re.findall(r"(?<!\S)--(\w+)", rest))
    return named


@pytest.mark.parametrize("command", sorted(named_commands().keys() - {"COMMAND"}))
def test_commands_and_their_flags_exist(command, monkeypatch, capsys):
    assert command in hf_ats_command.COMMANDS
    monkeypatch.setattr(sys, "argv", ["hf-ats", command, "--help"])
    with pytest.raises(SystemExit, match="0"):
        hf_ats_command.main()
    known = set(re.findall(r"--(\w+)", capsys.readouterr().out))
    assert named_commands()[command] <= known | {"help"}
