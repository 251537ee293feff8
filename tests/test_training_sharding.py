"""What sharding carries over, without processes; tests/test_training_fsdp.py has the processes."""

import torch
from torch import nn

from hf_ats.training.sharding import _keep_gradient_hooks_


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
