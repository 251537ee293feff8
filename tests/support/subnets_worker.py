"""Independent subnet training on three processes, then on two of them; launched by torchrun."""

import os
import sys
import types
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

# `partial_sgd` needs torch alone; the rest of the package takes seconds in each process.
sys.modules["hf_ats"] = package = types.ModuleType("hf_ats")
package.__path__ = [str(Path(__file__).parents[2] / "hf_ats")]

from hf_ats.partial_sgd import IndependentSubnets, PartialSGD, SubnetTraining, neuron_layer  # noqa: E402
from tests.support.partial_sgd import assert_same, batches, layers, loss_of, network, snapshot  # noqa: E402

LOCAL, ROUNDS = 2, 3
RANK, SHARED_FILE = int(os.environ["RANK"]), sys.argv[1]


def subnets(model, workers, everything):
    named = layers(model)
    if everything:
        named.append(neuron_layer(model, rows=["4.weight", "4.bias"]))
    return IndependentSubnets(named, workers, LOCAL, seed=3)


def momentum(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)


def adam(model):
    return torch.optim.AdamW(model.parameters(), lr=0.01)


def trained(workers, make, everything, rank=0, **fields):
    """A run of SubnetTraining: the snapshot, the lengths of its rounds, the margins; `rank` begins elsewhere."""
    model = network()
    with torch.no_grad():
        model[0].weight.add_(rank)  # that of process 0 counts
    optimizer = make(model)
    training = SubnetTraining(model, optimizer, subnets(model, workers, everything), **fields)
    inputs, lengths, margins, step = batches(LOCAL * ROUNDS * workers), [], [], 0
    while training.rounds_done < ROUNDS:
        rounds_done, start = training.rounds_done, step
        while training.rounds_done == rounds_done:
            done = training.step(lambda worker, step=step: loss_of(model, inputs[step * workers + worker]))
            margins.append({worker: local.margin for worker, local in done.items()})
            step += 1
        lengths.append(step - start)
    return snapshot(model, optimizer), lengths, margins


def interleaved(workers):
    """Algorithm 1 itself."""
    model = network()
    runner = PartialSGD(model, momentum(model), subnets(model, workers, True))
    for batch in batches(LOCAL * ROUNDS * workers):
        runner.step(lambda batch=batch: loss_of(model, batch))
    return snapshot(model, runner.optimizer)


def check_that_a_worker_trains_its_own_part_only(workers):
    model = network()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    method = subnets(model, workers, True)
    SubnetTraining(model, momentum(model), method).step(lambda worker: loss_of(model, batches(workers)[worker]))
    for name, mask in method.masks(0, before)[RANK].items():
        moved = model.get_parameter(name) != before[name]
        assert moved.any() and not (moved & ~mask).any(), name


def check_refusals(workers):
    with pytest.raises(ValueError, match=f"workers is 4, but torch.distributed has {workers} processes"):
        SubnetTraining(model := network(), momentum(model), subnets(model, 4, False))
    model = network()
    training = SubnetTraining(model, momentum(model), subnets(model, workers, False))

    def loss(worker):  # that of worker 1 does not depend on the output's bias
        hidden = model[:4](batches(1)[0])
        return (hidden @ model[4].weight.T + (0 if worker == 1 else model[4].bias)).square().mean()

    training.step(loss)
    with pytest.raises(RuntimeError, match=r"workers 0 and 1 differ in 'momentum_buffer', .* for '4\.bias'"):
        training.step(loss)


EXPECTED = {
    workers: (
        interleaved(workers),
        trained(workers, adam, False),
        trained(workers, adam, False, tolerance=1.02),
        trained(workers, adam, False, narrow=True),
    )
    for workers in (3, 2)
}
for workers, (algorithm_1, averaged, adaptive, narrow) in EXPECTED.items():
    if workers <= RANK:
        break
    dist.init_process_group("gloo", init_method=f"file://{SHARED_FILE}-{workers}", rank=RANK, world_size=workers)
    assert dist.get_world_size() == workers
    assert_same(trained(workers, momentum, True, RANK)[0], algorithm_1)
    assert_same(trained(workers, adam, False, RANK)[0], averaged[0])
    apart = trained(workers, adam, False, RANK, tolerance=1.02)
    assert_same(apart[0], adaptive[0])
    assert apart[1] == adaptive[1]
    assert [margins[RANK] for margins in apart[2]] == [margins[RANK] for margins in adaptive[2]]
    assert_same(trained(workers, adam, False, RANK, narrow=True)[0], narrow[0])
    check_that_a_worker_trains_its_own_part_only(workers)
    check_refusals(workers)
    dist.barrier()
    dist.destroy_process_group()
