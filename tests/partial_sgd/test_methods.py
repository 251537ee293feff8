"""Each method against its own definition, written out without the runner."""

import pytest
import torch
from torch.func import functional_call, grad

from hf_ats.partial_sgd import (
    SGD,
    Alternating,
    DropoutOfNeurons,
    DropoutOfWeights,
    Extragradient,
    FixedMask,
    LayerwiseFreezing,
    LayerwiseTopK,
    PartialSGD,
    Point,
    Slimmable,
    TopK,
    neuron_layer,
)
from tests.support.partial_sgd import HIDDEN, assert_same, batches, layers, loss_of, network, run, snapshot

LR = 0.1
STEPS = 5


def weights_of(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def gradient_at(weights, inputs):
    """The gradient of the loss at weights, by another way than the runner's."""
    model = network(inputs.dtype)

    def loss(weights):
        return loss_of(lambda x: functional_call(model, weights, (x,)), inputs)

    return grad(loss)(weights)


def trained(method, dtype=torch.float64):
    model = network(dtype)
    runner = PartialSGD(model, torch.optim.SGD(model.parameters(), lr=LR), method)
    return weights_of(model), run(runner, batches(STEPS, dtype)), weights_of(model)


def assert_trained(method, update):
    """`update(step, weights, inputs)` returns what the method subtracts from the weights, by name."""
    weights, _, ours = trained(method)
    for step, inputs in enumerate(batches(STEPS, torch.float64)):
        change = update(step, weights, inputs)
        weights = {name: w - LR * change[name] for name, w in weights.items()}
    for name, w in weights.items():
        torch.testing.assert_close(ours[name], w)


def core_mask():
    """The first half of the neurons of the first layer."""
    rows = torch.arange(HIDDEN) < HIDDEN // 2
    return {"0.weight": rows[:, None].repeat(1, 4), "0.bias": rows, "2.weight": rows.repeat(5, 1)}


def numbers(mask, weights):
    """The mask as numbers: 1 where it has no entry."""
    return {name: torch.as_tensor(mask.get(name, True)).expand(w.shape).to(w) for name, w in weights.items()}


def of_subnetwork(mask, weights, inputs):
    """`p * grad f(p * x)`."""
    p = numbers(mask, weights)
    gradient = gradient_at({name: p[name] * w for name, w in weights.items()}, inputs)
    return {name: p[name] * g for name, g in gradient.items()}


def test_sgd():
    assert_trained(SGD(), lambda step, weights, inputs: gradient_at(weights, inputs))


def test_a_fixed_mask_trains_the_pruned_network_and_keeps_what_is_pruned():
    mask = core_mask()
    assert_trained(FixedMask(mask), lambda step, weights, inputs: of_subnetwork(mask, weights, inputs))


def test_alternating_trains_full_then_core():
    def update(step, weights, inputs):
        return of_subnetwork(core_mask(), weights, inputs) if step % 2 else gradient_at(weights, inputs)

    assert_trained(Alternating(core_mask()), update)


def test_slimmable_sums_the_gradients_of_all_networks():
    cores = [core_mask(), {**core_mask(), "2.weight": True}]

    def update(step, weights, inputs):
        found = [gradient_at(weights, inputs), *(of_subnetwork(core, weights, inputs) for core in cores)]
        return {name: sum(g[name] for g in found) for name in weights}

    assert_trained(Slimmable(cores), update)


@pytest.mark.parametrize("sign", [-1, 1])
def test_extragradient_looks_ahead(sign):
    def update(step, weights, inputs):
        gradient = gradient_at(weights, inputs)
        return gradient_at({name: w + sign * 0.3 * gradient[name] for name, w in weights.items()}, inputs)

    assert_trained(Extragradient(size=0.3, sign=sign), update)


def test_layerwise_freezing_trains_one_group_after_another():
    groups = [["0.weight", "0.bias"], ["2.weight"]]

    def update(step, weights, inputs):
        group = groups[0] if step < 2 else groups[1]
        return {n: g if n in group else torch.zeros_like(g) for n, g in gradient_at(weights, inputs).items()}

    assert_trained(LayerwiseFreezing(groups, steps=2), update)


def test_top_k_is_the_largest_elements_of_the_whole_gradient():
    def update(step, weights, inputs):
        gradient = gradient_at(weights, inputs)
        smallest = torch.cat([g.abs().flatten() for g in gradient.values()]).sort(descending=True).values[9]
        return {name: g * (g.abs() >= smallest) for name, g in gradient.items()}

    assert_trained(TopK(10), update)


def test_top_k_takes_one_gradient_a_step():
    model, calls = network(), []
    runner = PartialSGD(model, torch.optim.SGD(model.parameters(), lr=LR), TopK(3))
    step = runner.step(lambda: calls.append(1) or loss_of(model, batches(1)[0]))
    assert len(calls) == 1
    assert sum(int(mask.sum()) for mask in step.choices[0].mask.values()) == 3


def test_layerwise_top_k_is_meprop_written_out():
    """Two of three layers pass back the 2 largest elements of each example's gradient of their outputs."""
    model = network(torch.float64)
    weights, (inputs,) = weights_of(model), batches(1, torch.float64)
    runner = PartialSGD(model, torch.optim.SGD(model.parameters(), lr=LR), LayerwiseTopK([model[0], model[2]], k=2))
    (step,) = run(runner, [inputs])

    def largest(g):
        return g * (g.abs() >= g.abs().sort(dim=1, descending=True).values[:, 1:2])

    first = torch.tanh(inputs @ weights["0.weight"].T + weights["0.bias"])
    second = torch.tanh(first @ weights["2.weight"].T + weights["2.bias"])
    outputs = (second @ weights["4.weight"].T + weights["4.bias"]).requires_grad_()
    (of_outputs,) = torch.autograd.grad(loss_of(lambda x: outputs, inputs), [outputs])
    of_second = largest(of_outputs @ weights["4.weight"] * (1 - second**2))
    of_first = largest(of_second @ weights["2.weight"] * (1 - first**2))
    expected = {
        "0.weight": of_first.T @ inputs,
        "0.bias": of_first.sum(0),
        "2.weight": of_second.T @ first,
        "2.bias": of_second.sum(0),
        "4.weight": of_outputs.T @ second,
        "4.bias": of_outputs.sum(0),
    }
    for name, gradient in expected.items():
        torch.testing.assert_close(step.gradients[0][name], gradient)
        torch.testing.assert_close(dict(model.named_parameters())[name].detach(), weights[name] - LR * gradient)
    assert not model[0]._forward_hooks  # nothing stays on the model


def test_layerwise_top_k_of_a_convolution_chooses_among_channels_and_places():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.Flatten(), torch.nn.Linear(12, 1)).double()
    images, optimizer = torch.randn(5, 2, 4, 4, dtype=torch.float64), torch.optim.SGD(model.parameters(), lr=LR)
    outputs = model[0](images)
    (of_outputs,) = torch.autograd.grad(model[1:](outputs).square().sum(), outputs)
    least = of_outputs.flatten(1).abs().topk(4).values[:, -1].view(5, 1, 1, 1)
    (expected,) = torch.autograd.grad(model[0](images), model[0].weight, of_outputs * (of_outputs.abs() >= least))
    step = PartialSGD(model, optimizer, LayerwiseTopK([model[0]], k=4)).step(lambda: model(images).square().sum())
    torch.testing.assert_close(step.gradients[0]["0.weight"], expected)
    with pytest.raises(ValueError, match="k is 13, but an example's output has 12 elements"):
        PartialSGD(model, optimizer, LayerwiseTopK([model[0]], k=13)).step(lambda: model(images).square().sum())
    with pytest.raises(ValueError, match="layers has a Flatten, but must be linear layers and convolutions"):
        LayerwiseTopK([model[1]], k=1)


def test_dropout_of_weights_trains_the_network_of_its_mask():
    method = DropoutOfWeights(keep=0.6, seed=3)
    _, steps, _ = trained(method)
    masks = [step.choices[0].mask for step in steps]
    assert_trained(method, lambda step, weights, inputs: of_subnetwork(masks[step], weights, inputs))
    assert not torch.equal(masks[0]["0.weight"], masks[1]["0.weight"])


def test_dropout_draws_each_element_with_its_probability():
    point = Point({"w": torch.nn.Parameter(torch.ones(200, 200))}, dict)
    mask = DropoutOfWeights(keep=0.3).choose(0, point).mask["w"]
    assert mask.float().mean() == pytest.approx(0.3, abs=0.01)
    for dimension in (0, 1):
        assert mask.float().mean(dimension).std() == pytest.approx((0.3 * 0.7 / 200) ** 0.5, rel=0.3)


def test_dropout_of_neurons_trains_the_network_without_them():
    """Dropped neurons answer nothing: the same network with their outputs set to zero."""
    method = DropoutOfNeurons(layers(network()), keep=0.5, seed=1)
    _, steps, _ = trained(method)
    masks = [step.choices[0].mask for step in steps]

    def update(step, weights, inputs):
        alive = [masks[step]["0.bias"].double(), masks[step]["2.bias"].double()]

        def loss(weights):
            first = alive[0] * torch.tanh(inputs @ weights["0.weight"].T + weights["0.bias"])
            second = alive[1] * torch.tanh(first @ weights["2.weight"].T + weights["2.bias"])
            return loss_of(lambda x: second @ weights["4.weight"].T + weights["4.bias"], inputs)

        return grad(loss)(weights)

    assert_trained(method, update)
    assert {"4.bias"} == weights_of(network()).keys() - masks[0].keys()
    assert len({tuple(mask["0.bias"].tolist()) for mask in masks}) > 1


def test_what_is_drawn_is_a_function_of_seed_and_step():
    def masks(seed):
        return [step.choices[0].mask for step in trained(DropoutOfWeights(0.5, seed))[1]]

    torch.manual_seed(7)
    first = masks(0)
    torch.manual_seed(8)
    for one, other, another in zip(first, masks(0), masks(1), strict=True):
        assert torch.equal(one["0.weight"], other["0.weight"])
        assert not torch.equal(one["0.weight"], another["0.weight"])


@pytest.mark.parametrize(
    "method", [DropoutOfWeights(0.5), Alternating(core_mask()), TopK(9)], ids=["drawn", "turns", "k"]
)
def test_a_resumed_run_goes_on_bitwise(method):
    def runner():
        model = network()
        return PartialSGD(model, torch.optim.AdamW(model.parameters()), method)

    straight = runner()
    run(straight, batches(STEPS))
    first, second = runner(), runner()
    run(first, batches(STEPS)[:3])
    second.model.load_state_dict(first.model.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.steps_done = first.steps_done
    run(second, batches(STEPS)[3:])
    assert_same(snapshot(straight.model, straight.optimizer), snapshot(second.model, second.optimizer))


REFUSED = {
    "keep": (lambda model: DropoutOfWeights(keep=0.0), "keep is 0.0"),
    "keep of neurons": (lambda model: DropoutOfNeurons(layers(model), keep=1.5), "keep is 1.5"),
    "k": (lambda model: TopK(0), "k is 0"),
    "k of a layer": (lambda model: LayerwiseTopK([model[2]], k=6), "k is 6, but must be from 1 to the 5 outputs"),
    "sign": (lambda model: Extragradient(0.1, sign=0), "sign is 0"),
    "no group": (lambda model: LayerwiseFreezing([], 3), "0 groups of 3 steps"),
    "a name of a neuron": (lambda model: neuron_layer(model, rows=["0.wieght"]), "names '0.wieght'"),
    "columns of a vector": (lambda model: neuron_layer(model, columns=["0.bias"]), "no dimension 1"),
    "two sizes": (lambda model: neuron_layer(model, rows=["0.bias", "2.bias"]), "'0.bias': 6, '2.bias': 5"),
    "no neurons": (lambda model: neuron_layer(model), "one number of neurons, not {}"),
}


@pytest.mark.parametrize(("make", "match"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_input_is_refused_when_the_method_is_made(make, match):
    with pytest.raises(ValueError, match=match):
        make(network())


@pytest.mark.parametrize(
    ("method", "match"),
    [
        (TopK(1000), "k is 1000, but the gradient has 83 elements"),
        (LayerwiseFreezing([["0.wieght"]], 1), "group names '0.wieght'"),
        (
            FixedMask({"0.bias": torch.ones(5, dtype=torch.bool)}),
            r"mask of '0.bias' is a torch.bool tensor of shape \(5,",
        ),
        (FixedMask({"nothing": False}), "mask names 'nothing'"),
    ],
)
def test_bad_input_is_refused_in_the_first_step_and_nothing_has_changed(method, match):
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    before = snapshot(model, optimizer)
    with pytest.raises(ValueError, match=match):
        run(PartialSGD(model, optimizer, method), batches(1))
    assert_same(before, snapshot(model, optimizer))
