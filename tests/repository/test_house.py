"""The house: imports point down, rooms are entered by their doors, the library knows nothing of the application."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "hf_ats"
SCRIPTS = PACKAGE.parent / "scripts"
# From the ground up: a room imports rooms of lower floors.
FLOORS = [
    ["remote_code", "storage", "partial_sgd"],
    ["partition", "data"],
    ["training", "checkpoint"],
    ["evaluation"],
    ["results"],
    ["hub", "deployment"],
    ["trainers"],
    ["run"],
    ["scripts"],
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
DATA_FOLDERS = {"model_cards", "recipes"}  # templates and recipes: files, no code
LIBRARY = ("remote_code", "storage", "partial_sgd", "partition", "training", "checkpoint")
FILES = [
    *(file for room in FLOOR for file in sorted((PACKAGE / room).rglob("*.py"))),
    PACKAGE / "trainers.py",
    *sorted(SCRIPTS.glob("*.py")),
]


def name_of(file: Path) -> list[str]:
    """The dotted name of the package that a file is in, in parts."""
    if file.parent == SCRIPTS:
        return ["hf_ats", "scripts"]
    return ["hf_ats", *file.relative_to(PACKAGE).parent.parts]


def room_of(file: Path) -> str:
    return "trainers" if file.name == "trainers.py" else name_of(file)[1]


def imports_of(file: Path) -> list[tuple[ast.AST, str, str]]:
    """`(statement, room, what)` of each import of a room of the package, at any depth; `what` is the dotted path."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            package = name_of(file)
            base = package[: len(package) - node.level + 1] if node.level else []
            path = [*base, *(node.module.split(".") if node.module else [])]
            paths = [[*path, alias.name] for alias in node.names] if path == ["hf_ats"] else [path]
        elif isinstance(node, ast.Import):
            paths = [alias.name.split(".") for alias in node.names]
        else:
            continue
        found += [(node, path[1], ".".join(path)) for path in paths if path[0] == "hf_ats" and len(path) > 1]
    return [(node, room, path) for node, room, path in found if room in FLOOR]


def test_every_room_has_a_floor_and_a_door_that_says_what_belongs_there():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms - DATA_FOLDERS == FLOOR.keys() - {"trainers", "scripts"}
    for room in rooms:
        assert ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8"))), room


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{room_of(file)}/{file.name}")
def test_imports_point_down_through_doors_and_stand_at_the_top(file):
    own = room_of(file)
    at_the_top = {node.lineno for node in ast.parse(file.read_text(encoding="utf-8")).body}
    for node, room, path in imports_of(file):
        where = f"{file.name}:{node.lineno} imports {path}"
        if room == own:
            continue
        assert FLOOR[room] < FLOOR[own], where
        assert path.count(".") == 1 or own == "remote_code", f"{where}, past the door of {room}"
        if own != "scripts":  # a command may wait with what takes seconds
            assert node.lineno in at_the_top, f"{where} inside a function or a condition"


def test_the_library_has_no_line_about_cifar():
    for room in LIBRARY:
        for file in sorted((PACKAGE / room).rglob("*.py")):
            assert "cifar" not in file.read_text(encoding="utf-8").lower(), file


def test_partial_sgd_knows_torch_alone():
    for file in sorted((PACKAGE / "partial_sgd").glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                roots = [alias.name.split(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                roots = [node.module.split(".")[0]]
            else:
                continue
            assert set(roots) <= {"torch", *sys.stdlib_module_names}, file


def test_what_travels_with_a_core_needs_nothing_else_of_the_package():
    for file in sorted((PACKAGE / "remote_code").glob("*.py")):
        assert not [path for _, room, path in imports_of(file) if room != "remote_code"], file
