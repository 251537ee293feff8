"""The laws of docs/laws.md are guarded: each by marked tests, and the page's table of them is what the marks give."""

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "laws.md"
BEGIN, END = "<!-- begin tests -->", "<!-- end tests -->"
NUMBERS = list(range(1, 11))


def titles(text: str) -> dict[int, str]:
    """The title of each law of the page by its number, in the page's order."""
    return {int(number): title for number, title in re.findall(r"^## (\d+)\. (.+)$", text, flags=re.M)}


def marks(file: Path) -> list[tuple[str, int]]:
    """Each test of a file with the number of each law that it is marked with, the marks of the whole file included."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    whole = [
        number
        for node in tree.body
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["pytestmark"]
        for number in numbers(node.value)
    ]
    return [
        (node.name, number)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        for number in [*whole, *(number for mark in node.decorator_list for number in numbers(mark))]
    ]


def numbers(marked: ast.AST) -> list[int]:
    """The numbers of all `pytest.mark.law(number=N)` within an expression."""
    calls = [n for n in ast.walk(marked) if isinstance(n, ast.Call) and ast.unparse(n.func) == "pytest.mark.law"]
    for call in calls:
        # `-m "law(number=8)"` sees keywords only.
        assert not call.args and [keyword.arg for keyword in call.keywords] == ["number"], ast.unparse(call)
    return [ast.literal_eval(call.keywords[0].value) for call in calls]


def marked_tests() -> dict[int, list[tuple[str, str]]]:
    """The files and names of the marked tests by the number of their law."""
    found: dict[int, list[tuple[str, str]]] = {}
    for file in sorted((REPOSITORY / "tests").rglob("test_*.py")):
        for name, number in marks(file):
            found.setdefault(number, []).append((file.relative_to(REPOSITORY).as_posix(), name))
    return found


def with_table(text: str) -> str:
    """The page with the table of the files that have tests of each law."""
    tests = marked_tests()
    rows = ["| | law | tests |", "|---|---|---|"]
    for number, title in titles(text).items():
        files = sorted({file for file, _ in tests.get(number, [])})
        rows.append(f"| {number} | {title} | {', '.join(f'`{file}`' for file in files)} |")
    head, rest = text.split(BEGIN)
    return "\n".join([head + BEGIN, *rows, END + rest.split(END)[1]])


def test_the_page_tells_ten_laws_each_with_its_reason():
    text = PAGE.read_text(encoding="utf-8")
    assert list(titles(text)) == NUMBERS
    for section in re.split(r"^## ", text, flags=re.M)[1 : len(NUMBERS) + 1]:
        assert "\n*Why:* " in section, section.splitlines()[0]


def test_every_mark_names_a_law_that_exists():
    assert marked_tests().keys() <= set(NUMBERS)


@pytest.mark.parametrize("number", NUMBERS)
def test_every_law_has_tests(number):
    assert len(set(marked_tests().get(number, []))) >= 2


def test_the_table_is_what_the_marks_give():
    text = PAGE.read_text(encoding="utf-8")
    assert text == with_table(text), "render it again: python -m tests.repository.test_laws"


def test_the_code_cites_laws_that_exist():
    for file in sorted((REPOSITORY / "hf_ats").rglob("*.py")):
        cited = re.findall(r"\blaws? (\d+)\b", file.read_text(encoding="utf-8"))
        assert set(map(int, cited)) <= set(NUMBERS), file


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
