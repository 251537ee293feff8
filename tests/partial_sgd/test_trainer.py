"""The trainer's alternation is Algorithm 2: a second oracle for law 7, which shares no line with the first."""

import pytest
import torch
from torch.nn import functional as F

from hf_ats.partial_sgd import Alternating, PartialSGD, Slimmable
from hf_ats.partition import parameters_at_level
from tests.support import reference
from tests.support.laws import assert_close_named, snapshot
from tests.support.models import partitioned, tiny_model
from tests.support.training import collator, make_trainer, sentences
from tests.training.test_trainer import arrays_of, oracle_of

STEPS = 4
METHODS = {"alternating": lambda core: Alternating(core), "slimmable": lambda core: Slimmable([core])}


def partial_sgd(model, optimizer, method, smoothing):
    """As many steps as of the trainer, over the same sentences; the model stays at its full level."""
    runner, pairs = PartialSGD(model, optimizer, method), sentences()
    for step in range(STEPS):
        batch = collator(model)(pairs[4 * step : 4 * step + 4])

        def loss(batch=batch):
            logits = model(**batch).logits
            return F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), label_smoothing=smoothing)

        runner.step(loss)


def trained(partition, tmp_path, **fields):
    model = partitioned(partition=partition).double()
    fields |= dict(weight_decay=0.1, weight_decay_on="all", label_smoothing_factor=0.1, max_grad_norm=0.0)
    make_trainer(model, tmp_path, max_steps=STEPS, **fields).train()
    return model


@pytest.mark.law(number=7)
@pytest.mark.parametrize("schedule", METHODS)
def test_by_rank_the_core_is_a_mask_of_whole_parameters(schedule, tmp_path):
    theirs = snapshot(trained("rank", tmp_path, schedule=schedule))
    model = partitioned(partition="rank").double()
    start, core = snapshot(model), parameters_at_level(model, "core")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    method = METHODS[schedule]({name: name in core for name in start})
    partial_sgd(model, optimizer, method, smoothing=0.1)
    assert 0 < len(core) < len(start)
    for name, array in snapshot(model).items():
        assert_close_named(name, theirs[name], array, rtol=1e-6, atol=1e-9)


@pytest.mark.law(number=7)
@pytest.mark.parametrize("schedule", METHODS)
def test_by_width_the_core_is_a_mask_within_the_stock_models_tensors(schedule, tmp_path):
    """SGD with weight decay: Adam counts steps once a tensor, and the trainer's blocks are tensors of their own."""
    theirs = snapshot(arrays_of(trained("width", tmp_path, schedule=schedule, optim="sgd")))
    network, stock = oracle_of("marian", "width"), tiny_model("marian").double()
    core = {name: network.masks[name][0].bool() for name, p in stock.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(stock.parameters(), lr=1e-2, weight_decay=0.1)
    partial_sgd(stock, optimizer, METHODS[schedule](core), smoothing=0.1)
    assert any(mask.any() and not mask.all() for mask in core.values())
    tied = reference.tied_names(stock)
    for name, array in snapshot(stock).items():
        assert_close_named(name, theirs[tied.get(name, name)], array, rtol=1e-6, atol=1e-9)
