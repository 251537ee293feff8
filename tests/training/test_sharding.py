"""What sharding carries over, without processes; tests/training/test_fsdp.py has the processes."""

from types import SimpleNamespace

import torch
from torch import nn

from hf_ats.partition import PartitionConfig, partition_
from hf_ats.training.sharding import _keep_gradient_hooks_, gathered_copy
from tests.support.models import probe_batch, tiny_model


def test_hooks_of_both_kinds_follow_to_the_parameter_that_takes_the_place():
    layer = nn.Linear(3, 2, bias=False)
    seen = []
    layer.weight.register_hook(lambda gradient: seen.append("before"))
    layer.weight.register_post_accumulate_grad_hook(lambda parameter: seen.append(parameter.grad is not None))
    _keep_gradient_hooks_(layer)
    layer.weight = nn.Parameter(torch.ones(2, 3))  # as fully_shard puts the gathered parameter there
    for _ in range(2):  # and the same one in every step
        layer(torch.ones(3)).sum().backward()
    assert seen == ["before", True] * 2


def test_a_gathered_copy_is_tied_as_the_model_and_not_as_its_config_says():
    model = tiny_model("t5", tie_word_embeddings=False)
    model.lm_head.weight = nn.Parameter(torch.randn_like(model.lm_head.weight))  # as T5 1.1 and FLAN have it
    partition_(model, PartitionConfig(ratios=[0.25]))
    accelerator = SimpleNamespace(get_state_dict=lambda model: model.state_dict(), is_main_process=True)
    copy = gathered_copy(model, accelerator, type(model))
    assert copy.lm_head.weight is not copy.shared.weight and copy.encoder.embed_tokens.weight is copy.shared.weight
    batch = probe_batch(model)
    with torch.no_grad():
        assert torch.equal(copy(**batch).logits, model(**batch).logits)
