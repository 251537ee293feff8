"""The criteria against the paper's formulas, and undefined where they are: never clipped."""

import math

import pytest
import torch

from hf_ats.partial_sgd import Criteria, criteria, perturbation_ratio


def drawn(seed, aligned=1.0):
    """Gradients at `x` and `x~` and a mask, of two parameters; `aligned` is how much of one is in the other."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (3, 2), "b": (4,)}
    g = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    h = {name: aligned * g[name] + torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    p = {name: torch.rand(shape, generator=generator) < 0.7 for name, shape in shapes.items()}
    return g, h, p


def flat(tensors):
    return torch.cat([tensor.flatten().double() for tensor in tensors.values()])


@pytest.mark.parametrize("seed", range(5))
def test_they_are_the_papers_formulas(seed):
    given = drawn(seed)
    found = criteria(*given)
    g, h, p = (flat(tensors) for tensors in given)
    norm, inner = torch.linalg.vector_norm, (p * g) @ (p * h)
    assert inner > 0
    assert found.c_norm == pytest.approx(float(norm(g) / norm(p * g)))
    assert found.c_norm_squared == pytest.approx(found.c_norm**2)
    assert found.c_sim == pytest.approx(float(norm(p * g) / norm(p * h)))
    assert found.c_align == pytest.approx(float(norm(p * g) * norm(p * h) / inner))
    assert found.cosine == pytest.approx(1 / found.c_align)
    assert found.alpha == pytest.approx(min(1.0, float(inner / norm(p * h) ** 2)))
    assert found.q == pytest.approx(found.c_norm * max(found.c_sim, found.c_align))


@pytest.mark.parametrize("aligned", [0.5, 1.0, 3.0])  # alpha is below 1 and 1
@pytest.mark.parametrize("seed", range(5))
def test_q_is_the_full_norm_over_alpha_times_the_perturbed_one(seed, aligned):
    g, h, p = drawn(seed, aligned)
    found = criteria(g, h, p)
    assert found.q == pytest.approx(math.sqrt(found.full / found.perturbed) / found.alpha)


@pytest.mark.parametrize("seed", range(5))
def test_the_full_mask_without_perturbation_gives_exactly_one(seed):
    g, _, _ = drawn(seed)
    found = criteria(g)
    assert [found.c_norm, found.c_sim, found.c_align, found.alpha, found.q] == [1.0] * 5


def test_groups_have_the_sums_of_their_own_parameters():
    g, h, p = drawn(0)
    found = criteria(g, h, p, groups={"first": ["a"], "all": ["b", "a"], "none": ["absent"]})
    assert found["first"] == criteria({"a": g["a"]}, {"a": h["a"]}, {"a": p["a"]})
    assert found["all"].q == pytest.approx(criteria(g, h, p).q)
    assert found["none"] == Criteria(0.0, 0.0, 0.0, 0.0) and found["none"].q is None


def test_a_mask_of_whole_parameters_may_be_a_bool_and_missing_gradients_are_zero():
    g, h, _ = drawn(1)
    whole = {"a": torch.ones(3, 2, dtype=torch.bool), "b": torch.zeros(4, dtype=torch.bool)}
    assert criteria(g, h, whole) == criteria(g, h, {"b": False}) == criteria(g, {"a": h["a"]}, {"b": False})
    assert criteria({"a": g["a"]}, h) == criteria(g | {"b": torch.zeros(4)}, h)


def names_undefined(found):
    names = ("c_norm", "c_norm_squared", "c_sim", "c_align", "cosine", "alpha", "q")
    return {name for name in names if getattr(found, name) is None}


@pytest.mark.parametrize(
    ("perturbed", "mask", "undefined"),
    [
        ([-1.0, 0.5], True, {"c_align", "alpha", "q"}),  # an obtuse angle
        ([0.0, 2.0], [True, False], {"c_sim", "c_align", "cosine", "alpha", "q"}),  # nothing left at x~
        ([2.0, -1.0], True, {"c_align", "alpha", "q"}),  # a right angle
        ([1.0, 1.0], False, {"c_norm", "c_norm_squared", "c_sim", "c_align", "cosine", "alpha", "q"}),
        ([math.nan, 1.0], True, {"c_sim", "c_align", "cosine", "alpha", "q"}),
        ([math.inf, 1.0], True, {"c_sim", "c_align", "cosine", "alpha", "q"}),
    ],
    ids=["obtuse", "perturbed away", "right angle", "empty mask", "nan", "infinite"],
)
def test_what_is_undefined_is_none(perturbed, mask, undefined):
    mask = mask if isinstance(mask, bool) else torch.tensor(mask)
    found = criteria({"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor(perturbed)}, {"w": mask})
    assert names_undefined(found) == undefined


def test_float16_gradients_do_not_overflow():
    g = {"w": torch.full((100,), 6e4, dtype=torch.float16)}
    assert criteria(g).q == 1.0 and criteria(g).full == 100 * 6e4**2


def test_gradients_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"'w' has gradients of shape \(2,\), \(3,\), but"):
        criteria({"w": torch.ones(2)}, {"w": torch.ones(3)})
    with pytest.raises(ValueError, match=r"'w' has gradients of shape .* and a mask of shape \(1,\)"):
        criteria({"w": torch.ones(2)}, mask={"w": torch.ones(1, dtype=torch.bool)})


def test_the_ratio_of_assumption_3():
    g, h, p = drawn(2)
    dx = {"a": torch.full((3, 2), 0.1)}
    expected = math.sqrt(6 * 0.01) / max((flat(p) * flat(t)).norm() for t in (g, h))
    assert perturbation_ratio(dx, g, h, p) == pytest.approx(float(expected))
    assert perturbation_ratio({}, g, h, p) == 0.0
    assert perturbation_ratio(dx, {"a": torch.zeros(3, 2)}, {}) is None
