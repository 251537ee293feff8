"""Independent subnet training: interleaved steps equal workers who each hold a smaller network of their own."""

import pytest
import torch
from torch import nn

from hf_ats.partial_sgd import IndependentSubnets, PartialSGD, neuron_layer
from tests.support.partial_sgd import HIDDEN, assert_same, batches, bits, layers, loss_of, network, run, snapshot

WORKERS, LOCAL = 2, 3
ROUND = WORKERS * LOCAL


def optimizer_of(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def test_workers_with_matrices_of_their_own_learn_the_same():
    """Each worker gets narrower layers, trains them alone, and gives them back; momentum travels along."""
    dtype = torch.float64
    ours = network(dtype)
    method = IndependentSubnets(layers(ours), WORKERS, LOCAL, seed=5)
    runner = PartialSGD(ours, optimizer_of(ours.parameters()), method)
    inputs = batches(2 * ROUND, dtype)
    run(runner, inputs)

    whole = network(dtype)
    momentum = {name: torch.zeros_like(p) for name, p in whole.named_parameters()}
    for start in (0, ROUND):
        first, second = method.split(start // ROUND)
        assert sorted(torch.bincount(first).tolist()) == [3, 3] and sorted(torch.bincount(second).tolist()) == [2, 3]
        for worker in range(WORKERS):
            a, b = torch.where(first == worker)[0], torch.where(second == worker)[0]
            every, outputs = torch.arange(4), torch.arange(3)
            parts = {"0.weight": (a, every), "0.bias": (a,), "2.weight": (b, a), "2.bias": (b,)}
            parts |= {"4.weight": (outputs, b), "4.bias": (outputs,)}
            own = nn.Sequential(
                nn.Linear(4, len(a)), nn.Tanh(), nn.Linear(len(a), len(b)), nn.Tanh(), nn.Linear(len(b), 3)
            )
            own = own.to(dtype)
            own[4].bias.requires_grad_(False)  # the outputs are no layer of neurons here
            optimizer = optimizer_of([p for p in own.parameters() if p.requires_grad])
            where = {
                name: index if len(index) == 1 else (index[0][:, None], index[1]) for name, index in parts.items()
            }
            for name, p in own.named_parameters():
                p.data.copy_(whole.get_parameter(name)[where[name]])
                if p.requires_grad:
                    optimizer.state[p]["momentum_buffer"] = momentum[name][where[name]].clone()
            for step in range(start + worker, start + ROUND, WORKERS):
                optimizer.zero_grad()
                loss_of(own, inputs[step]).backward()
                optimizer.step()
            for name, p in own.named_parameters():
                whole.get_parameter(name).data[where[name]] = p.detach()
                if p.requires_grad:
                    momentum[name][where[name]] = optimizer.state[p]["momentum_buffer"]
    for name, p in whole.named_parameters():
        torch.testing.assert_close(ours.get_parameter(name), p)
        assert name == "4.bias" or not torch.equal(p, network(dtype).get_parameter(name))


class OneAfterTheOther(IndependentSubnets):
    """The same round with the workers' steps one worker after the other."""

    def worker_at(self, step):
        return step % ROUND // LOCAL


def test_the_order_of_the_workers_steps_does_not_matter_bitwise():
    def trained(method, inputs):
        model = network()
        runner = PartialSGD(model, optimizer_of(model.parameters()), method(layers(model), WORKERS, LOCAL))
        run(runner, inputs)
        return snapshot(model, runner.optimizer)

    inputs = batches(ROUND)
    in_turns = [inputs[local * WORKERS + worker] for worker in range(WORKERS) for local in range(LOCAL)]
    assert_same(trained(IndependentSubnets, inputs), trained(OneAfterTheOther, in_turns))


def test_parts_are_disjoint_and_change_from_round_to_round():
    model = network()
    named = [*layers(model), neuron_layer(model, rows=["4.weight", "4.bias"])]
    method = IndependentSubnets(named, workers=3, local_steps=2)
    runner = PartialSGD(model, torch.optim.SGD(model.parameters(), lr=0.1), method)
    steps = run(runner, batches(12))
    masks = [step.choices[0].mask for step in steps]
    for name, parameter in model.named_parameters():
        for start in (0, 3, 6, 9):
            assert sum(masks[start + worker][name].int() for worker in range(3)).max() == 1
        assert all(torch.equal(masks[step][name], masks[step + 3][name]) for step in (0, 1, 2, 6, 7, 8))
        assert masks[0][name].shape == parameter.shape
    assert any(not torch.equal(masks[0][name], masks[6][name]) for name in masks[0])
    owned = sum(masks[worker]["4.bias"].int() for worker in range(3))
    assert owned.tolist() == [1, 1, 1]  # named as neurons, the outputs' biases are dealt out


def test_one_worker_trains_the_whole_network_but_what_no_layer_names():
    model = network()
    before = bits(model[4].bias)
    method = IndependentSubnets(layers(model), workers=1, local_steps=2)
    (step,) = run(PartialSGD(model, torch.optim.SGD(model.parameters(), lr=0.1), method), batches(1))
    assert all(torch.as_tensor(mask).all() == (name != "4.bias") for name, mask in step.choices[0].mask.items())
    assert torch.equal(bits(model[4].bias), before)


def test_more_workers_than_neurons_are_refused():
    with pytest.raises(ValueError, match=r"workers is 6, but the layer of 2.weight, 2.bias, 4.weight has 5 neurons"):
        IndependentSubnets(layers(network()), workers=HIDDEN, local_steps=1)
    with pytest.raises(ValueError, match="layers is empty"):
        IndependentSubnets([], workers=2, local_steps=1)
    for workers, local_steps in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match=f"workers is {workers} and local_steps is {local_steps}"):
            IndependentSubnets(layers(network()), workers, local_steps)
