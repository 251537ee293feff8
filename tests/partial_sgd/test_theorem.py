"""Theorem 1, Lemma 3 and Lemma 2 along real runs: on quadratics and a small network whose L and noise are known."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from hf_ats.partial_sgd import (
    SGD,
    Alternating,
    DropoutOfNeurons,
    DropoutOfWeights,
    Extragradient,
    FixedMask,
    IndependentSubnets,
    LayerwiseFreezing,
    LayerwiseTopK,
    PartialSGD,
    Point,
    Slimmable,
    TopK,
    criteria,
    neuron_layer,
    perturbation_ratio,
)

STEPS = 40


class Quadratic(nn.Module):
    """`f(x) = (x - c)^T A (x - c) / 2`, x as the weights of 4 neurons: `L` is A's largest eigenvalue, `f* = 0`."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.rows = nn.Parameter(torch.randn(4, 3, generator=generator, dtype=torch.float64))
        self.columns = nn.Parameter(torch.randn(2, 4, generator=generator, dtype=torch.float64))
        root = torch.randn(20, 20, generator=generator, dtype=torch.float64)
        self.matrix = root @ root.T / 20
        self.center = 3 * torch.randn(20, generator=generator, dtype=torch.float64)
        self.smoothness = float(torch.linalg.eigvalsh(self.matrix).max())

    def forward(self):
        apart = torch.cat([self.rows.flatten(), self.columns.flatten()]) - self.center
        return apart @ self.matrix @ apart / 2

    def methods(self):
        layers = [neuron_layer(self, rows=["rows"], columns=["columns"])]
        core = {"rows": torch.arange(12).view(4, 3) % 2 == 0}
        return {
            "sgd": SGD(),
            "dropout of weights": DropoutOfWeights(0.7),
            "dropout of neurons": DropoutOfNeurons(layers, 0.7),
            "top k": TopK(5),
            "extragradient": Extragradient(0.4 / self.smoothness),
            "extragradient as printed": Extragradient(0.4 / self.smoothness, sign=1),
            "layerwise freezing": LayerwiseFreezing([["rows"], ["columns"]], STEPS // 2),
            "fixed mask": FixedMask(core),
            "alternating": Alternating(core),
            "independent subnets": IndependentSubnets(layers, workers=2, local_steps=3),
        }


class Network(nn.Module):
    """`v . tanh(W a)` under the logistic loss, with `v` fixed, so that L is known for all `W`; `f* >= 0`.

    |tanh'| <= 1, |tanh''| <= 4 / (3 sqrt 3), |l'| <= 1 and |l''| <= 1/4 give
    `L <= mean |a|^2 * (|v|^2 / 4 + max |v| * 4 / (3 sqrt 3))`.
    """

    def __init__(self, samples=12):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.hidden = nn.Linear(3, 4, bias=False, dtype=torch.float64)
        self.hidden.weight.data = torch.randn(4, 3, generator=generator, dtype=torch.float64)
        self.v = torch.tensor([1.0, -1.0, 0.5, 0.7], dtype=torch.float64)
        self.inputs = torch.randn(samples, 3, generator=generator, dtype=torch.float64)
        self.signs = torch.where(self.inputs.sum(1) > 0, 1.0, -1.0)
        curvature = self.v.square().sum() / 4 + self.v.abs().max() * 4 / (3 * math.sqrt(3))
        self.smoothness = float(self.inputs.square().sum(1).mean() * curvature)

    def forward(self):
        return nn.functional.softplus(-self.signs * (torch.tanh(self.hidden(self.inputs)) @ self.v)).mean()

    def methods(self):
        layers = [neuron_layer(self, rows=["hidden.weight"])]
        core = {"hidden.weight": torch.tensor([True, False, True, False])[:, None].repeat(1, 3)}
        return {
            "sgd": SGD(),
            "dropout of weights": DropoutOfWeights(0.7),
            "dropout of neurons": DropoutOfNeurons(layers, 0.7),
            "top k": TopK(5),
            "extragradient": Extragradient(0.4 / self.smoothness),
            "layerwise freezing": LayerwiseFreezing([["hidden.weight"]], 1),
            "fixed mask": FixedMask(core),
            "alternating": Alternating(core),
            "independent subnets": IndependentSubnets(layers, workers=2, local_steps=3),
        }


def gradient_of(model, perturbation=None):
    """The true gradient at the model's parameters, moved by the perturbation."""
    parameters = dict(model.named_parameters())
    moved = {n: (p + (perturbation or {}).get(n, 0)).detach().requires_grad_() for n, p in parameters.items()}
    loss = torch.func.functional_call(model, moved, ())
    return dict(zip(moved, torch.autograd.grad(loss, list(moved.values())), strict=True))


class OfTheTheorem:
    """A method whose choice is made from true gradients, before the noise, and whose step size is alpha * base.

    Where alpha is undefined no positive step is covered by the theorem, and none is made.
    """

    def __init__(self, method, model, optimizer, base):
        self.method, self.model, self.optimizer, self.base = method, model, optimizer, base
        self.measured, self.gradients = [], []

    def choose(self, step, point):
        gradient = gradient_of(self.model)
        choice = self.method.choose(step, Point(point.parameters, lambda: gradient))
        perturbed = gradient_of(self.model, choice.perturbation)
        found = criteria(gradient, perturbed, choice.mask)
        self.measured.append(found)
        mask = {n: torch.as_tensor(choice.mask.get(n, True)).expand(g.shape) for n, g in gradient.items()}
        self.gradients.append([torch.cat([t[n].flatten() for n in gradient]) for t in (gradient, perturbed, mask)])
        self.optimizer.param_groups[0]["lr"] = self.base * (found.alpha or 0.0)
        return choice


@dataclass
class Noise:
    """`g = (1 + e) grad f + xi` with `e = +-sqrt(M)` and `|xi| = sigma`, which meets Assumption 2 for every mask."""

    m: float
    sigma: float
    generator: torch.Generator

    def loss(self, model):
        sign = 1 - 2 * int(torch.randint(2, (), generator=self.generator))
        xi = [torch.randn(p.shape, generator=self.generator, dtype=p.dtype) for p in model.parameters()]
        scale = self.sigma / math.sqrt(sum(float(x.square().sum()) for x in xi))
        added = sum((scale * x * p).sum() for x, p in zip(xi, model.parameters(), strict=True))
        return (1 + sign * math.sqrt(self.m)) * model() + added


def run(make, name, base, noise):
    """Return the method after a run of Algorithm 1, with what it measured, and the true losses before and after."""
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=base)
    method = OfTheTheorem(model.methods()[name], model, optimizer, base)
    runner = PartialSGD(model, optimizer, method)
    losses = [model().item()]
    for _ in range(STEPS):
        runner.step(lambda: noise.loss(model))
        losses.append(model().item())
    return method, losses


def left_side(measured):
    """The mean over the steps of `alpha_t^2 |p_t * grad f(x~_t)|^2`."""
    return sum((found.alpha or 0.0) ** 2 * found.perturbed for found in measured) / len(measured)


CASES = [(make, name) for make in (Quadratic, Network) for name in make().methods()]
IDS = [f"{make.__name__}, {name}" for make, name in CASES]


@pytest.mark.parametrize(("make", "name"), CASES, ids=IDS)
def test_the_bound_of_theorem_1_holds_without_noise(make, name):
    """With sigma = 0 nothing is drawn, so Lemma 3 holds in every step, and the bound for every number of steps."""
    base = 1 / make().smoothness
    method, losses = run(make, name, base, Noise(0.0, 0.0, torch.Generator()))
    measured = method.measured
    for found, before, after in zip(measured, losses, losses[1:], strict=False):
        assert after <= before - base / 2 * (found.alpha or 0.0) ** 2 * found.perturbed + 1e-12
    for steps in (1, 10, STEPS):
        assert left_side(measured[:steps]) <= 2 * losses[0] / (steps * base)
    assert losses[-1] < losses[0]
    defined = [found for found in measured if found.q is not None]
    q = max(found.q for found in defined)
    if name in ("sgd", "top k", "extragradient", "extragradient as printed"):
        assert len(defined) == len(measured)
    if len(defined) == len(measured):  # the second part of the theorem
        assert sum(found.full for found in measured) / STEPS <= q**2 * 2 * losses[0] / (STEPS * base)
    for found in defined:
        assert found.q == pytest.approx(math.sqrt(found.full / found.perturbed) / found.alpha)


@pytest.mark.parametrize(("make", "name"), CASES, ids=IDS)
def test_the_bound_of_theorem_1_holds_in_the_mean_over_noise(make, name):
    m, sigma, runs = 0.5, 0.3, 2
    smoothness = make().smoothness
    base = 1 / (smoothness * (m + 1))
    generator = torch.Generator().manual_seed(0)
    found = [run(make, name, base, Noise(m, sigma, generator)) for _ in range(runs)]
    bound = 2 * found[0][1][0] / (STEPS * base) + base * smoothness * sigma**2
    assert sum(left_side(method.measured) for method, _ in found) / runs <= bound


@pytest.mark.parametrize("name", Quadratic().methods())
def test_lemma_3_holds_in_expectation_in_every_step_of_a_noisy_run(name):
    """A quadratic's expected loss is exact: `E xi xi^T = sigma^2 / d`, and the factor's noise adds M."""
    m, sigma, model = 0.5, 0.3, Quadratic()
    a, base = model.matrix, 1 / (model.smoothness * (m + 1))
    method, losses = run(Quadratic, name, base, Noise(m, sigma, torch.Generator().manual_seed(1)))
    for found, (g, h, p), before in zip(method.measured, method.gradients, losses, strict=False):
        h, gamma = p * h, base * (found.alpha or 0.0)
        noise = (1 + m) * h @ a @ h + sigma**2 / len(p) * (p * a.diagonal()).sum()
        expected = before - gamma * g @ h + gamma**2 / 2 * noise
        bound = before - base / 2 * (found.alpha or 0.0) ** 2 * found.perturbed
        assert expected <= bound + base**2 * model.smoothness / 2 * sigma**2 + 1e-12


def test_theorem_1_without_masks_is_that_of_sgd():
    method, _ = run(Network, "sgd", 1 / Network().smoothness, Noise(0.0, 0.1, torch.Generator().manual_seed(0)))
    assert {found.alpha for found in method.measured} == {found.q for found in method.measured} == {1.0}


def test_slimmable_is_sgd_on_the_sum_of_the_networks_losses():
    """The loss of a core, `f(p * x)`, has the gradient `p * grad f` at `p * x`: an L of at most that of f."""
    model = Network()
    core = model.methods()["fixed mask"].mask
    base = 1 / (2 * model.smoothness)
    runner = PartialSGD(model, torch.optim.SGD(model.parameters(), lr=base), Slimmable([core]))
    losses, squares = [], []
    for _ in range(STEPS):
        step = runner.step(model)
        of_core, full = (
            {n: g * c.mask.get(n, True) for n, g in gs.items()}
            for c, gs in zip(step.choices, step.gradients, strict=True)
        )
        squares.append(sum(float((of_core[name] + full[name]).square().sum()) for name in full))
        losses.append(float(step.loss))
    assert sum(squares) / STEPS <= 2 * losses[0] / (STEPS * base)
    for square, before, after in zip(squares, losses, losses[1:], strict=False):
        assert after <= before - base / 2 * square + 1e-12


def test_the_top_layer_of_meprop_is_a_mask_for_a_batch_of_one_and_so_under_the_theorem():
    model = Network(samples=1)
    base = 1 / model.smoothness
    runner = PartialSGD(model, torch.optim.SGD(model.parameters(), lr=base), LayerwiseTopK([model.hidden], k=2))
    first, total = model().item(), 0.0
    for _ in range(STEPS):
        true = gradient_of(model)["hidden.weight"]
        cut = runner.step(model).gradients[0]["hidden.weight"]
        kept = (cut != 0).any(dim=1)
        assert int(kept.sum()) == 2 and torch.allclose(cut, true * kept[:, None])
        total += float(cut.square().sum())
    assert total / STEPS <= 2 * first / (STEPS * base)


def test_the_k_largest_elements_bound_the_square_of_c_norm():
    for make, k in ((Quadratic, 5), (Network, 5)):
        size = sum(p.numel() for p in make().parameters())
        method, _ = run(make, "top k", 1 / make().smoothness, Noise(0.0, 0.0, torch.Generator()))
        assert all(1 <= found.c_norm <= math.sqrt(size / k) for found in method.measured)
    even = {"w": torch.ones(8)}  # where all are alike it is reached, and the printed d / k would be for the square
    assert criteria(even, mask={"w": torch.arange(8) < 2}).c_norm == 2.0


@pytest.mark.parametrize("make", [Quadratic, Network])
@pytest.mark.parametrize("sign", [-1, 1])
def test_lemma_2_as_corrected_holds_where_assumption_3_does(make, sign):
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=1 / model.smoothness)
    runner = PartialSGD(model, optimizer, Extragradient(0.499 / model.smoothness, sign))
    for _ in range(20):
        gradient = gradient_of(model)
        step = runner.step(model)
        (choice,), (perturbed,) = step.choices, step.gradients
        assert perturbation_ratio(choice.perturbation, gradient, perturbed) < 1 / (2 * model.smoothness)
        found = criteria(gradient, perturbed)
        assert found.c_sim < 2 and found.c_align < 2 / math.sqrt(3) and found.q < 2


def test_the_printed_bound_of_lemma_2_fails_for_a_parabola():
    """`f(x) = x^2 / 2`, so `grad f(x) = x` and L = 1, at x = 1 with dx = -0.4999."""
    x, dx = {"x": torch.tensor([1.0], dtype=torch.float64)}, {"x": torch.tensor([-0.4999], dtype=torch.float64)}
    perturbed = {"x": x["x"] + dx["x"]}
    assert perturbation_ratio(dx, x, perturbed) < 0.5  # Assumption 3
    assert criteria(x, perturbed).c_sim == pytest.approx(1.9996, abs=1e-4)
    assert math.sqrt(10) / 2 < criteria(x, perturbed).c_sim < 2


def test_the_corrected_bound_of_c_align_is_reached_in_the_limit():
    """`f(x) = |x|^2 / 2` in the plane: x~ where the line from the origin touches the circle of radius `|x| / 2`."""
    for short in (1e-2, 1e-4, 1e-6):
        radius = 0.5 - short
        x = torch.tensor([1.0, 0.0], dtype=torch.float64)
        perturbed = (1 - radius**2) * x + torch.tensor([0.0, radius * math.sqrt(1 - radius**2)], dtype=torch.float64)
        assert perturbation_ratio({"x": perturbed - x}, {"x": x}, {"x": perturbed}) < 0.5
        found = criteria({"x": x}, {"x": perturbed})
        assert 2 / math.sqrt(3) - 2 * short < found.c_align < 2 / math.sqrt(3)


def test_dropouts_mean_of_c_norm_squared_is_above_one_over_mu():
    """The paper has `1 / mu`, which is the ratio of the means; exact over all masks that keep something."""
    mu, g = 0.5, torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    masks = [torch.tensor(bits) for bits in torch.cartesian_prod(*[torch.tensor([False, True])] * 3).tolist()]
    kept = [criteria({"w": g}, mask={"w": mask}) for mask in masks]
    assert sum(found.masked for found in kept) / len(kept) == pytest.approx(mu * kept[0].full)
    defined = [found.c_norm_squared for found in kept if found.c_norm is not None]
    assert len(defined) == 7 and sum(defined) / 7 > 1 / mu
