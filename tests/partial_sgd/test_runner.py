"""The runner of Algorithm 1: what is trained is trained as by the optimizer alone, and the rest stays bitwise."""

import contextlib

import pytest
import torch
from torch import nn

from hf_ats.partial_sgd import SGD, Choice, FixedMask, PartialSGD, masked_step
from tests.support.partial_sgd import assert_same, batches, bits, loss_of, network, run, snapshot

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1),
    "nesterov, fused": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, fused=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1, amsgrad=True, foreach=False),
    "adamw, foreach": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, foreach=True),
    "adamw, fused": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True, weight_decay=0.1),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01, initial_accumulator_value=0.1, weight_decay=0.1),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01, weight_decay=0.1),
}


class Drawn:
    """Masks that cut each tensor, take one whole or leave one out, with a perturbation beside them."""

    def choose(self, step, point):
        generator = torch.Generator().manual_seed(step)
        mask = {name: torch.rand(p.shape, generator=generator) < 0.5 for name, p in point.parameters.items()}
        mask |= {"2.weight": True, "2.bias": step % 2 == 0}
        noise = {name: 0.1 * torch.randn(p.shape, generator=generator) for name, p in point.parameters.items()}
        return Choice(mask, noise)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_the_full_mask_is_the_optimizer_alone(make):
    ours, stock = network(), network()
    run(PartialSGD(ours, ours_optimizer := make(ours.parameters()), SGD()), batches(4))
    optimizer = make(stock.parameters())
    for inputs in batches(4):
        optimizer.zero_grad()
        loss_of(stock, inputs).backward()
        optimizer.step()
    assert_same(snapshot(stock, optimizer), snapshot(ours, ours_optimizer))


@pytest.mark.law(number=1)
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_masked_elements_keep_value_and_state_bitwise_and_others_move(make):
    model = network()
    optimizer = make(model.parameters())
    runner = PartialSGD(model, optimizer, Drawn())
    run(runner, batches(1))  # makes the states
    for inputs in batches(5)[1:]:
        values, states = snapshot(model, optimizer)
        (step,) = run(runner, [inputs])
        for name, parameter in model.named_parameters():
            mask = torch.as_tensor(step.choices[0].mask[name]).expand(parameter.shape)
            assert torch.equal(bits(parameter)[~mask], bits(values[name])[~mask])
            assert not mask.any() or (parameter != values[name])[mask].any(), f"{name} did not move"
            for key, before in states[name].items():
                if torch.is_tensor(before) and before.shape == parameter.shape:
                    assert torch.equal(bits(optimizer.state[parameter][key])[~mask], bits(before)[~mask]), key
                elif not mask.any():
                    assert torch.equal(optimizer.state[parameter][key], before), key


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_a_mask_within_a_tensor_is_a_step_on_the_part_as_a_tensor_of_its_own(make):
    whole = nn.Parameter(torch.linspace(-1, 1, 8))
    part = nn.Parameter(whole.detach()[:4].clone())
    mask = torch.arange(8) < 4
    together, alone = make([whole]), make([part])
    for step in range(5):
        gradient = torch.sin(torch.arange(8.0) + step)
        masked_step(together, {"w": whole}, {"w": gradient}, {"w": mask})
        part.grad = gradient[:4].clone()
        alone.step()
    torch.testing.assert_close(whole[:4], part)  # vectors of another length may round otherwise
    assert torch.equal(whole[4:], torch.linspace(-1, 1, 8)[4:])
    for key, value in alone.state[part].items():
        ours = together.state[whole][key]
        torch.testing.assert_close(ours[:4] if ours.shape == whole.shape else ours, value)


def test_elements_that_never_took_part_have_the_state_of_the_start():
    whole = nn.Parameter(torch.ones(4))
    optimizer = torch.optim.Rprop([whole], lr=0.02)
    masked_step(optimizer, {"w": whole}, {"w": torch.ones(4)}, {"w": torch.tensor([True, True, False, False])})
    masked_step(optimizer, {"w": whole}, {"w": torch.ones(4)}, {"w": torch.tensor([True, True, False, False])})
    assert optimizer.state[whole]["step_size"].tolist() == pytest.approx([0.024, 0.024, 0.02, 0.02])


def test_a_count_of_steps_belongs_to_the_tensor():
    whole = nn.Parameter(torch.ones(4))
    optimizer = torch.optim.Adam([whole])
    for first in (True, False, True):
        masked_step(
            optimizer, {"w": whole}, {"w": torch.ones(4)}, {"w": torch.tensor([first, first, not first, False])}
        )
    masked_step(optimizer, {"w": whole}, {"w": torch.ones(4)}, {"w": torch.zeros(4, dtype=torch.bool)})
    assert optimizer.state[whole]["step"] == 3


def test_hooks_and_schedulers_of_the_optimizer_see_one_step():
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    seen = []
    optimizer.register_step_post_hook(lambda *_: seen.append(float(model[0].weight.abs().sum())))
    run(PartialSGD(model, optimizer, Drawn()), batches(1))
    scheduler.step()
    assert len(seen) == 1 and seen[0] > 0
    assert optimizer.param_groups[0]["lr"] == 0.0005


def test_the_gradient_is_taken_at_the_perturbed_point_and_the_parameters_are_put_back_bitwise():
    model = network()
    with torch.no_grad():
        model[0].weight[0, 0] = -0.0
        model[0].weight[0, 1] = 1e-30  # lost in x + dx - dx
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    before = snapshot(model, optimizer)
    seen = []

    class Away:
        def choose(self, step, point):
            return Choice(perturbation={"0.weight": torch.full((6, 4), 3.0)})

    def closure():
        seen.append(model[0].weight.detach().clone())
        return loss_of(model, batches(1)[0])

    runner = PartialSGD(model, optimizer, Away())
    step = runner.step(closure)
    assert torch.equal(seen[0], before[0]["0.weight"] + 3.0) and len(seen) == 1
    values, _ = snapshot(model, optimizer)
    for name, value in before[0].items():
        assert torch.equal(value, values[name])
    assert bits(values["0.weight"])[0, 1] == bits(before[0]["0.weight"])[0, 1]
    with torch.no_grad():
        model[0].weight += 3.0
    expected = torch.autograd.grad(loss_of(model, batches(1)[0]), list(model.parameters()))
    for gradient, other in zip(step.gradients[0].values(), expected, strict=True):
        assert torch.equal(gradient, other)


def test_parameters_that_need_no_gradient_or_get_none_are_left_alone():
    model = network()
    model[0].bias.requires_grad_(False)
    model.register_parameter("unused", nn.Parameter(torch.ones(2)))
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.5)
    before, _ = snapshot(model, optimizer)
    run_with = PartialSGD(model, optimizer, FixedMask({"0.weight": torch.ones(6, 4, dtype=torch.bool)}))
    run_with.step(lambda: loss_of(model[:5], batches(1)[0]))
    after, states = snapshot(model, optimizer)
    assert torch.equal(before["0.bias"], after["0.bias"]) and not states["0.bias"]
    assert torch.equal(before["unused"], after["unused"]) and not states["unused"]
    assert not torch.equal(before["0.weight"], after["0.weight"])


def test_a_core_without_frozen_weights_is_trained_without_them_and_they_are_put_back():
    model = network()
    model[2].weight.requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.5)
    before, _ = snapshot(model, optimizer)
    (step,) = run(PartialSGD(model, optimizer, FixedMask({"2.weight": False})), batches(1))
    after, states = snapshot(model, optimizer)
    assert torch.equal(bits(before["2.weight"]), bits(after["2.weight"])) and not states["2.weight"]
    assert not step.gradients[0]["0.weight"].any()  # nothing came through the zeros
    assert not torch.equal(before["2.bias"], after["2.bias"])


class Returns:
    def __init__(self, choice):
        self.choice = choice

    def choose(self, step, point):
        return self.choice


NAN = torch.full((6,), float("nan"))
REFUSED = {
    "shape of a mask": (
        Choice({"0.bias": torch.ones(5, dtype=torch.bool)}),
        ValueError,
        r"mask of '0.bias'.*\(5,\).*\(6,\)",
    ),
    "mask of numbers": (Choice({"0.bias": torch.ones(6)}), ValueError, "mask of '0.bias' is a torch.float32"),
    "name in a mask": (Choice({"0.bia": True}), ValueError, "the mask names '0.bia'"),
    "shape of a perturbation": (Choice({}, {"0.bias": torch.ones(1)}), ValueError, "perturbation of '0.bias'"),
    "name in a perturbation": (Choice({}, {"9.bias": torch.ones(6)}), ValueError, "the perturbation names '9.bias'"),
    "perturbation that is no number": (Choice({}, {"0.bias": NAN}), FloatingPointError, "perturbation of '0.bias'"),
    "no choice": (None, TypeError, "Returns.choose returned None"),
    "an empty choice": ([], TypeError, "must return a Choice"),
}


def started(method):
    """A runner that has done steps, on a model with buffers."""
    model = nn.Sequential(*network()[:4], nn.BatchNorm1d(5), nn.Linear(5, 3))
    runner = PartialSGD(model, torch.optim.AdamW(model.parameters()), Drawn2())
    run(runner, batches(2))
    runner.method = method
    return runner


class Drawn2(Drawn):
    def choose(self, step, point):
        choice = super().choose(step, point)
        return Choice({**choice.mask, "5.bias": False}, choice.perturbation)


@pytest.mark.parametrize(("choice", "error", "match"), REFUSED.values(), ids=REFUSED.keys())
def test_a_choice_that_does_not_fit_is_refused_and_nothing_has_changed(choice, error, match):
    runner = started(Returns(choice))
    before = snapshot(runner.model, runner.optimizer)
    with pytest.raises(error, match=match):
        run(runner, batches(1))
    assert_same(before, snapshot(runner.model, runner.optimizer))
    assert runner.steps_done == 2


def no_loss(model):
    loss_of(model, batches(1)[0])


CLOSURES = {
    "nothing": (no_loss, ValueError, "closure returned None"),
    "a number": (lambda model: loss_of(model, batches(1)[0]).item(), ValueError, "closure returned [0-9.]+, but"),
    "without a graph": (lambda model: loss_of(model, batches(1)[0]).detach(), ValueError, "without a graph"),
    "several": (lambda model: model(batches(1)[0]), ValueError, r"shape \(7, 3\)"),
    "nan": (
        lambda model: loss_of(model, batches(1)[0]) * float("nan"),
        FloatingPointError,
        "'0.weight' is not finite in step 2",
    ),
    "its own exception": (lambda model: loss_of(model, batches(1)[0]) / 0 + {}["gone"], KeyError, "gone"),
}


@pytest.mark.parametrize("method", [SGD(), Drawn2()], ids=["plain", "perturbed"])
@pytest.mark.parametrize(("closure", "error", "match"), CLOSURES.values(), ids=CLOSURES.keys())
def test_a_closure_without_a_loss_is_refused_and_nothing_has_changed(closure, error, match, method):
    runner = started(method)
    before = snapshot(runner.model, runner.optimizer)
    with pytest.raises(error, match=match):
        runner.step(lambda: closure(runner.model))
    assert_same(before, snapshot(runner.model, runner.optimizer))
    run(runner, batches(1))  # and goes on
    assert runner.steps_done == 3


def test_a_nan_that_the_mask_leaves_out_does_no_harm():
    model = network()
    runner = PartialSGD(model, torch.optim.SGD(model.parameters(), lr=0.1), Returns(Choice({"0.weight": False})))
    model[0].weight.register_hook(lambda g: g * float("nan"))
    run(runner, batches(1))
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("states", ["made", "not yet made"])
def test_an_optimizer_whose_elements_share_state_is_refused_for_a_mask_that_cuts(states):
    model = network()
    optimizer = torch.optim.Adafactor(model.parameters())
    runner = PartialSGD(model, optimizer, SGD())
    if states == "made":
        run(runner, batches(1))
    before = snapshot(model, optimizer)
    runner.method = Drawn()
    with pytest.raises(ValueError, match=r"cuts '0.weight', but Adafactor keeps 'row_var'"):
        run(runner, batches(1))
    assert_same(before, snapshot(model, optimizer))
    runner.method = Returns(Choice({"0.weight": False}))  # whole parameters
    run(runner, batches(1))
    assert torch.equal(model[0].weight, before[0]["0.weight"])


def test_optimizers_that_cannot_be_stepped_here_are_refused():
    model = network()
    with pytest.raises(ValueError, match="LBFGS"):
        PartialSGD(model, torch.optim.LBFGS(model.parameters()), SGD())
    with pytest.raises(ValueError, match="not one of the model"):
        PartialSGD(model, torch.optim.SGD([nn.Parameter(torch.ones(3))]), SGD())
    with pytest.raises(TypeError, match="optimizer is a nullcontext"):
        PartialSGD(model, contextlib.nullcontext(), SGD())
