"""docs/theory.md: its formulas are those of the code, its method runs, and its table has every method."""

import re
from pathlib import Path

import pytest
import torch

import hf_ats.partial_sgd as partial_sgd

TEXT = (Path(__file__).parents[2] / "docs" / "theory.md").read_text(encoding="utf-8")
FORMULAS = dict(re.findall(r"^\| `(\w+)` \| `(.+)` \|$", TEXT.split("## The criteria")[1], flags=re.M))


def test_every_quantity_has_its_formula():
    assert FORMULAS.keys() == {"c_norm", "c_norm_squared", "c_sim", "c_align", "alpha", "q"}


@pytest.mark.parametrize("quantity", FORMULAS)
@pytest.mark.parametrize("size", [0.5, 2.0])  # alpha is 1 and below it
def test_the_pages_formulas_are_those_of_the_code(quantity, size):
    g = torch.tensor([1.0, 2.0, -1.0, 3.0], dtype=torch.float64)
    h, p = size * torch.tensor([1.5, 1.0, 4.0, 2.0], dtype=torch.float64), torch.tensor([True, True, False, True])
    names = {"g": g, "h": h, "p": p, "norm": torch.linalg.vector_norm, "dot": torch.dot, "min": min, "max": max}
    expected = eval(FORMULAS[quantity], {"__builtins__": {}}, names)
    assert getattr(partial_sgd.criteria({"w": g}, {"w": h}, {"w": p}), quantity) == pytest.approx(float(expected))


def test_my_method_in_thirty_lines_runs_and_trains():
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.S)
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 30
    scope = {}
    exec(code, scope)
    assert scope["step"].loss < 0.1
    assert scope["found"].c_norm is None or scope["found"].c_norm >= 1


def test_the_table_has_every_method():
    methods = {name for name in partial_sgd.__all__ if hasattr(getattr(partial_sgd, name), "choose")} - {"Method"}
    assert methods == set(re.findall(r"`(\w+)\(", TEXT.split("## The criteria")[0]))
