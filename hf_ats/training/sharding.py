"""Sharded training by FSDP version 2 (`fully_shard`), which accelerate carries out.

accelerate chooses the units that are gathered and reduced together by the names of classes. This module tells it to
make every `W`, and every extension of a narrower layer, a unit of its own: a core step never calls the modules that
hold them, and so neither gathers nor reduces them (law 5), and what gets no gradient stays out of the reduction of its
unit (law 1).
"""

import contextlib
import copy
import functools
from collections import defaultdict
from collections.abc import Iterable, Iterator

import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from ..partition import find_partition, partition_structure_, partitioned_layers, stock_config, tie_as_


def prepare_sharding_(model: nn.Module, accelerator: Accelerator) -> None:
    """Prepare a model, in place, before its optimizer is made and `accelerator.prepare` shards it.

    A model that is sharded already is left as it is.

    Args:
        model: partitioned or not.
        accelerator: one with an `fsdp_plugin` of version 2.
    """
    if is_sharded(model):
        return
    _choose_units(model, accelerator.state.fsdp_plugin)
    _keep_gradient_hooks_(model)
    _shard_tied_(model, accelerator)


def _choose_units(model: nn.Module, plugin) -> None:
    """Name the classes of the units: the user's, or else the model's blocks; and always what cores do not call."""
    from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

    names = list(plugin.transformer_cls_names_to_wrap or getattr(model, "_no_split_modules", None) or ())
    if not names:  # Marian names none
        blocks = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
        names = [type(block).__name__ for block in blocks]
    layers = partitioned_layers(model).values()
    above_core = [type(module).__name__ for layer in layers for module in layer.modules_above_core()]
    plugin.transformer_cls_names_to_wrap = list(dict.fromkeys([*names, *above_core]))
    plugin.auto_wrap_policy = transformer_auto_wrap_policy


def _shard_tied_(model: nn.Module, accelerator: Accelerator) -> None:
    """Make one unit of all modules that share a parameter.

    accelerate would put an embedding and the output projection into one, and leave out the other embedding of an
    encoder-decoder, which PyTorch refuses. It leaves modules that are sharded already as they are.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    holders: dict[nn.Parameter, list[nn.Module]] = defaultdict(list)
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            holders[parameter].append(module)
    # A dictionary, since a set has no order and every process must take the same one.
    tied = list(dict.fromkeys(module for modules in holders.values() if len(modules) > 1 for module in modules))
    if not tied:
        return
    plugin, mesh = accelerator.state.fsdp_plugin, accelerator.torch_device_mesh
    fully_shard(
        tied,
        mesh=None if mesh is None else mesh[tuple(accelerator.parallelism_config.fsdp_dim_names)],
        # Used at both ends of the forward pass, and at once in the backward pass.
        reshard_after_forward=False,
        mp_policy=plugin.mixed_precision_policy or MixedPrecisionPolicy(),
        offload_policy=plugin.cpu_offload,
    )


def _keep_gradient_hooks_(model: nn.Module) -> None:
    """Carry the hooks on the gradients of parameters over to the parameters that sharding puts in their place.

    `keep_pad_row_zero_` sets one. They see the whole gradient of their process before it is reduced, as under
    DistributedDataParallel, so they go to the gathered parameter, which its module holds while it runs.
    """
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            hooks = _gradient_hooks(parameter)
            if any(hooks):
                module.register_forward_pre_hook(functools.partial(_hook_gathered, name=name, hooks=hooks))


def _gradient_hooks(parameter: nn.Parameter) -> tuple[list, list]:
    """Return the hooks that see the gradient before it goes to `.grad`, and those that see it there."""
    before, after = parameter._backward_hooks, parameter._post_accumulate_grad_hooks
    return list((before or {}).values()), list((after or {}).values())


def _hook_gathered(module: nn.Module, inputs, *, name: str, hooks: tuple[list, list]) -> None:
    gathered = getattr(module, name)
    if any(_gradient_hooks(gathered)):  # one object for every step, and for every module that shares it
        return
    for hook in hooks[0]:
        gathered.register_hook(hook)
    for hook in hooks[1]:
        gathered.register_post_accumulate_grad_hook(hook)


def is_sharded(model: nn.Module) -> bool:
    """Whether `fully_shard` has been applied to the model."""
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


def gathered_copy(model: nn.Module, accelerator: Accelerator, model_class: type) -> PreTrainedModel | None:
    """Return an unsharded copy of a sharded Transformers model, on the CPU of the main process; None on the others.

    Every process must call it.

    Args:
        model: what `accelerator.prepare` returned.
        accelerator: the one that prepared it.
        model_class: what the model was before.
    """
    state = accelerator.get_state_dict(model)
    if not accelerator.is_main_process:
        return None
    # Building draws random numbers for weights that are replaced below, and training may go on.
    with torch.random.fork_rng(devices=[]):
        whole_model = model_class(stock_config(model))
    partition_structure_(whole_model, find_partition(model))
    whole_model.load_state_dict(state, assign=True)
    tie_as_(whole_model, model)
    whole_model.generation_config = copy.deepcopy(model.generation_config)
    return whole_model.eval()


def whole(tensor: torch.Tensor | float) -> torch.Tensor | float:
    """Return what a sharded tensor, such as the norm of sharded gradients, amounts to over all processes."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


@contextlib.contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Freeze the parameters for a `with` block; those that were frozen before stay frozen after it."""
    thawed = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in thawed:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in thawed:
            parameter.requires_grad_(True)
