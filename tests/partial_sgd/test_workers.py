"""Independent subnet training apart: over processes, in turns, as narrow networks, and with rounds by Assumption 3."""

import math

import pytest
import torch
from torch import nn

from hf_ats.partial_sgd import IndependentSubnets, PartialSGD, Smoothness, SubnetTraining, narrow_choice, neuron_layer
from tests.support.distributed import launch
from tests.support.partial_sgd import assert_same, batches, layers, loss_of, network, run, snapshot

WORKERS, LOCAL = 2, 3


def momentum(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01)


def everything(model):
    return [*layers(model), neuron_layer(model, rows=["4.weight", "4.bias"])]


def training_of(model, named, optimizer=None, local_steps=LOCAL, **fields):
    subnets = IndependentSubnets(named, WORKERS, local_steps, seed=5)
    return SubnetTraining(model, optimizer or momentum(model.parameters()), subnets, **fields)


def run_apart(training, inputs):
    """Local steps over the batches in the order of interleaved training."""
    return [
        training.step(lambda worker, start=start: loss_of(training.model, inputs[start + worker]))
        for start in range(0, len(inputs), WORKERS)
    ]


def test_processes_train_bitwise_what_one_process_does_and_what_algorithm_1_does(tmp_path):
    launch("-m", "tests.support.subnets_worker", str(tmp_path / "store"), processes=3)


def test_workers_apart_are_the_masks_of_algorithm_1_bitwise():
    inputs = batches(3 * LOCAL * WORKERS)
    model, reference = network(), network()
    training = training_of(model, everything(model))
    run_apart(training, inputs)
    subnets = IndependentSubnets(everything(reference), WORKERS, LOCAL, seed=5)
    runner = PartialSGD(reference, momentum(reference.parameters()), subnets)
    run(runner, inputs)
    assert training.rounds_done == 3
    assert_same(snapshot(model, training.runner.optimizer), snapshot(reference, runner.optimizer))


def test_what_no_layer_names_is_the_mean_of_the_workers():
    """One round, one step: each worker's output bias is what its own network gives it."""
    inputs, model = batches(WORKERS), network()
    training = training_of(model, layers(model), local_steps=1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    run_apart(training, inputs)
    expected = []
    for worker, batch in enumerate(inputs):
        own = network()
        for name, mask in training.subnets.masks(0, before)[worker].items():
            own.get_parameter(name).data *= mask
        optimizer = momentum([own[4].bias])
        loss_of(own, batch).backward()
        optimizer.step()
        expected.append((own[4].bias.detach(), optimizer.state[own[4].bias]["momentum_buffer"]))
    for found, values in zip(
        (model[4].bias, training.runner.optimizer.state[model[4].bias]["momentum_buffer"]),
        zip(*expected, strict=True),
        strict=True,
    ):
        assert not torch.equal(*values)
        torch.testing.assert_close(found.detach(), sum(values) / WORKERS)


class Convolutions(nn.Module):
    """Channels and neurons, a tied weight, and no bias in one layer."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 6, 3, bias=False), nn.Conv2d(6, 4, 3)
        self.third, self.tied = nn.Linear(4, 4), nn.Linear(4, 4)
        self.tied.weight = self.third.weight

    def forward(self, images):
        hidden = self.second(self.first(images).relu()).relu().mean((2, 3))
        return self.tied(self.third(hidden).tanh())


def test_a_narrow_network_has_the_gradient_of_the_zeroed_one_and_leaves_the_model_as_it_was():
    torch.manual_seed(0)
    model, widths = Convolutions().double(), []
    model.second.register_forward_hook(
        lambda module, inputs, outputs: widths.append((inputs[0].shape[1], outputs.shape[1]))
    )
    inner = neuron_layer(model, rows=["first.weight"], columns=["second.weight"])
    mask = IndependentSubnets([inner], 2, 1).masks(0, dict(model.named_parameters()))[0]
    names, images = [*dict(model.named_parameters())], torch.randn(5, 1, 7, 7, dtype=torch.float64)

    class Narrow:
        def choose(self, step, point):
            return narrow_choice(model, mask)

    step = PartialSGD(model, torch.optim.SGD(model.parameters(), lr=0.0), Narrow()).step(
        lambda: model(images).square().mean()
    )
    assert widths == [(3, 4)]
    assert [*dict(model.named_parameters())] == names and model.tied.weight is model.third.weight
    zeroed = {name: p * mask[name] if name in mask else p for name, p in model.named_parameters()}
    zeroed = {name: p.detach().requires_grad_() for name, p in zeroed.items()}
    loss = torch.func.functional_call(model, zeroed, (images,)).square().mean()
    for name, expected in zip(names, torch.autograd.grad(loss, list(zeroed.values())), strict=True):
        torch.testing.assert_close(step.gradients[0][name], expected * mask.get(name, 1), msg=name)


def test_narrow_training_is_that_of_the_zeroed_networks():
    inputs = batches(2 * LOCAL * WORKERS, torch.float64)
    found = []
    for narrow in (False, True):
        model = network(torch.float64)
        run_apart(training_of(model, layers(model), narrow=narrow, tolerance=1.5, local_steps=LOCAL), inputs)
        found.append(model.state_dict())
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor)


def quadratic(eigenvalues):
    """`f(x) = x^T A x / 2` with these eigenvalues, in a basis of its own; x is all ones."""
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), generator=generator).double())
    matrix = basis @ torch.diag(torch.tensor(eigenvalues).double()) @ basis.T
    return matrix, torch.ones(len(eigenvalues), dtype=torch.float64)


@pytest.mark.parametrize(
    ("eigenvalues", "steps"), [([3.0] * 4, 1), ([0.1, 1.0, 2.0, 5.0], 30), ([-4.0, 0.5, 1.0], 30)]
)
def test_the_estimate_of_l_grows_to_that_of_a_quadratic_and_is_never_above_it(eigenvalues, steps):
    matrix, x = quadratic(eigenvalues)
    found, values, largest = Smoothness(), [], max(map(abs, eigenvalues))
    for _ in range(steps):
        ahead = found.look_ahead({"x": x})
        values.append(found.update(ahead, {"x": matrix @ x}, {"x": matrix @ (x + ahead["x"])}))
        x = x - 0.1 * matrix @ x
    assert values == sorted(values) and values[-1] <= largest * (1 + 1e-9)
    assert values[-1] == pytest.approx(largest, rel=1e-4)


def test_the_estimate_is_of_the_masked_elements_alone():
    """Of the matrix's rows and columns in the mask, as a worker's network has them."""
    matrix, x = torch.diag(torch.tensor([1.0, 2.0, 50.0])).double(), torch.ones(3).double()
    mask, found = torch.tensor([True, True, False]), Smoothness()
    for _ in range(30):
        ahead = found.look_ahead({"x": x * mask}, {"x": mask})
        assert ahead["x"][2] == 0 and ahead["x"].norm() == pytest.approx(found.SIZE * math.sqrt(2))
        found.update(ahead, {"x": matrix @ x * mask}, {"x": matrix @ (x + ahead["x"]) * mask})
    assert found.value == pytest.approx(2.0, rel=1e-4)


class Quadratic(nn.Module):
    """`f(x) = L |x - c|^2 / 2` of four neurons, 0.01 of which each worker of two zeroes: Assumption 3 can hold."""

    L = 2.0

    def __init__(self):
        super().__init__()
        self.x = nn.Parameter(torch.full((4, 3), 0.01, dtype=torch.float64))
        self.c = torch.linspace(1, 2, 12, dtype=torch.float64).view(4, 3)

    def forward(self):
        return self.L * (self.x - self.c).square().sum() / 2


def test_a_round_ends_with_the_first_step_that_breaks_assumption_3():
    model = Quadratic()
    training = training_of(
        model, [neuron_layer(model, rows=["x"])], torch.optim.SGD([model.x], lr=0.1), local_steps=100, tolerance=1
    )
    ends = [True]
    for _ in range(40):
        if ends[-1]:
            start = model.x.detach().clone()
            masks = training.subnets.masks(training.rounds_done, {"x": start})
        done = training.step(lambda worker: model())
        for worker, local in done.items():
            mask = masks[worker]["x"]
            ratio = (start * ~mask).norm() / (local.step.gradients[0]["x"] * mask).norm()
            assert local.margin == pytest.approx(2 * Quadratic.L * float(ratio), rel=1e-6)  # with the true L
        ends.append(training.steps_in_round == 0)
        assert ends[-1] == any(local.margin >= 1 for local in done.values())
    assert not ends[1] and any(ends[2:])
    assert training.smoothness[0].value == pytest.approx(Quadratic.L)


def test_a_tolerance_is_relative_where_assumption_3_fails_from_the_start():
    lengths = {}
    for tolerance in (1.0, 1.5, None):
        model = network()
        training = training_of(model, layers(model), tolerance=tolerance, local_steps=8)
        margins = [list(done.values()) for done in run_apart(training, batches(8 * WORKERS))]
        lengths[tolerance] = training.rounds_done
    assert margins[0][0].margin is None
    assert lengths[1.0] == 8 > lengths[1.5] >= lengths[None] == 1


def test_a_run_goes_on_between_two_rounds_bitwise():
    inputs = batches(4 * LOCAL * WORKERS)

    def begun():
        model = network()
        return training_of(model, layers(model), torch.optim.AdamW(model.parameters()), tolerance=1e9)

    through, half, resumed = begun(), begun(), begun()
    expected = run_apart(through, inputs)
    run_apart(half, inputs[: len(inputs) // 2])
    resumed.model.load_state_dict(half.model.state_dict())
    resumed.runner.optimizer.load_state_dict(half.runner.optimizer.state_dict())
    resumed.load_state_dict(half.state_dict())
    last = run_apart(resumed, inputs[len(inputs) // 2 :])
    assert [done[1].margin for done in last] == [done[1].margin for done in expected[len(last) :]]
    assert resumed.state_dict()["rounds_done"] == 4
    assert_same(snapshot(through.model, through.runner.optimizer), snapshot(resumed.model, resumed.runner.optimizer))
    run_apart(half, inputs[:WORKERS])
    with pytest.raises(ValueError, match="the workers are apart, 1 steps after the last exchange"):
        half.state_dict()


def test_a_step_that_fails_leaves_all_workers_where_they_were():
    model = network()
    training = training_of(model, layers(model))
    inputs = batches(2 * WORKERS)
    run_apart(training, inputs[:WORKERS])
    before = snapshot(model, training.runner.optimizer)

    def broken(worker):
        return loss_of(model, inputs[worker]) * (math.nan if worker == 0 else 1)

    with pytest.raises(FloatingPointError, match="is not finite"):
        training.step(broken)
    assert training.steps_in_round == 1
    assert_same(before, snapshot(model, training.runner.optimizer))
    again = network()
    other = training_of(again, layers(again))
    run_apart(other, inputs)
    run_apart(training, inputs[WORKERS:])
    assert_same(snapshot(again, other.runner.optimizer), snapshot(model, training.runner.optimizer))


def test_workers_whose_losses_depend_on_other_parameters_are_refused():
    model = network()
    training = training_of(model, layers(model), local_steps=1)

    def loss(worker):
        hidden = model[:4](batches(1)[0])
        return (hidden @ model[4].weight.T + (0 if worker == 1 else model[4].bias)).square().mean()

    with pytest.raises(RuntimeError, match=r"workers 0 and 1 differ in 'momentum_buffer', .* for '4\.bias'"):
        training.step(loss)


def test_a_tolerance_below_one_is_refused():
    model = network()
    with pytest.raises(ValueError, match=r"tolerance is 0\.5, but must be at least 1"):
        training_of(model, layers(model), tolerance=0.5)
