"""Two networks whose outputs are added: a core that works by itself, and an extension beside it (Section 3.4).

           inputs  (each network takes those that it names)
              |--------------------.
            core               extension
              |                    |
              |-- level 0, core    |
              '-------- + ---------'
                        |
                level 1, full

The middle case of the paper's Figure 1, for example wide-and-deep networks (Cheng et al., 2016).
"""

import functools
import inspect
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from transformers.utils import ModelOutput

from .layers import PartitionedLayer
from .levels import is_partitioned


@dataclass
class SummedOutput(ModelOutput):
    """The output of `SummedNetworks` if its networks return more than a tensor, or if there are labels.

    Attributes:
        loss: of the summed logits, if labels were given; a scalar.
        logits: those of the live level, of the networks' own shape.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None


class SummedNetworks(PartitionedLayer):
    """`core(x) + extension(x)` at full level, only `core(x)` at core level: a super-network of any two networks.

    It needs no `partition_`: `set_level`, `at_level`, `parameters_at_level` and `ATSTrainer` take it as it is. A core
    step computes nothing of the extension and leaves its gradients at None (law 1). `.core` is the module that was
    given, and needs nothing of this class.

    Keyword inputs go to the networks whose `forward` names them, so the two may read different ones; a `forward` that
    takes any (`**kwargs`) also gets those that no network names. Positional inputs go to both.

    The outputs must have the same shape. They are tensors, mappings with `logits` (as the models of Transformers
    return), or tuples whose first entry is the logits; nothing else of them is kept. With `labels` the output carries
    the mean cross-entropy of the summed logits, `(batch, classes)`, with integer labels, `(batch,)`; any other loss
    is the `compute_loss_func` of the trainers. The networks never see the labels, so no loss of their own is computed.

    A parameter that both networks hold takes part at both levels, as the core's; a state dict holds it once, under
    its name in the core.

    Args:
        core (`nn.Module`): the network that works by itself.
        extension (`nn.Module`): the network whose output is added to the core's.

    Raises:
        ValueError: a network is partitioned itself.

    Example:

    ```python
    >>> model = SummedNetworks(core=deep, extension=wide)  # deep.forward(numbers), wide.forward(crosses)
    >>> with at_level(model, "core"):
    ...     logits = model(numbers=numbers)
    ```
    """

    # Found by the functions of this room as the root of what is partitioned, also below DistributedDataParallel.
    _ats_partition = None
    num_levels = 2

    def __init__(self, core: nn.Module, extension: nn.Module):
        super().__init__()
        for name, network in (("core", core), ("extension", extension)):
            if is_partitioned(network):
                raise ValueError(
                    f"{name} is a partitioned {type(network).__name__}; a sum has the levels core and full, and its "
                    "networks have none of their own. Give it unpartitioned, or train it without the sum."
                )
        self.core = core
        self.extension = extension
        self.level = 1
        self.register_state_dict_post_hook(_drop_further_names)
        self.register_load_state_dict_pre_hook(_restore_further_names)
        # The Trainer reads there which columns of a data set the model takes, and drops the others.
        names = dict.fromkeys([*_Inputs.of(core).names, *_Inputs.of(extension).names, "labels"])
        self.forward = functools.partial(type(self).forward, self)
        self.forward.__signature__ = inspect.Signature(
            [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names]
        )

    def parameters_at(self, level: int) -> list[nn.Parameter]:
        """Return the core's at core level, both networks' at full level, shared ones once."""
        return list((self.core if level == 0 else self).parameters())

    def stock_state(self, level: int) -> dict[str, torch.Tensor]:
        """Return the core's own state; at full level that of the sum, since no other module computes it."""
        return (self.core if level == 0 else self).state_dict()

    def forward(self, *inputs, labels: torch.Tensor | None = None, **named) -> torch.Tensor | SummedOutput:
        """Return the output of the live level: a tensor if the networks return tensors and there are no labels.

        Raises:
            TypeError: an input is one that neither network takes.
            ValueError: the two outputs differ in shape.
        """
        for_core, for_extension = self._routed(named)
        output = self.core(*inputs, **for_core)
        logits = _logits(output)
        if self.level == 1:
            added = _logits(self.extension(*inputs, **for_extension))
            if added.shape != logits.shape:  # the sum might broadcast
                raise ValueError(
                    f"the core's output has shape {tuple(logits.shape)} and the extension's {tuple(added.shape)}; "
                    "only outputs of one shape can be summed."
                )
            logits = logits + added
        if labels is not None:
            return SummedOutput(loss=F.cross_entropy(logits, labels), logits=logits)
        return logits if isinstance(output, torch.Tensor) else SummedOutput(logits=logits)

    def _routed(self, named: dict) -> tuple[dict, dict]:
        core, extension = _Inputs.of(self.core), _Inputs.of(self.extension)
        unknown = named.keys() - {*core.names, *extension.names}
        if unknown and not (core.any or extension.any):
            raise TypeError(
                f"neither network takes an input {min(unknown)!r}: the core takes {', '.join(core.names)}, the "
                f"extension {', '.join(extension.names)}. Leave it out, or correct its name."
            )
        return tuple(
            {name: value for name, value in named.items() if name in own.names or (own.any and name in unknown)}
            for own in (core, extension)
        )

    def extra_repr(self) -> str:
        return f"level={self.level}"


class _Inputs(NamedTuple):
    """The keyword inputs of a network: by name, and whether it takes `any` other."""

    names: list[str]
    any: bool

    @classmethod
    def of(cls, network: nn.Module) -> "_Inputs":
        parameters = inspect.signature(network.forward).parameters.values()
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        names = [one.name for one in parameters if one.kind in named]
        return cls(names, any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters))


def _logits(output) -> torch.Tensor:
    if isinstance(output, torch.Tensor):
        return output
    return output["logits"] if isinstance(output, dict) else output[0]


def _further_names(module: nn.Module) -> dict[str, str]:
    """Map each further name of a shared parameter or buffer to its first, the core's if the core has it.

    Files of tensors (safetensors), which the Trainer writes, hold every tensor once.
    """
    first: dict[int, str] = {}
    further = {}
    for named in (module.named_parameters, module.named_buffers):
        for name, tensor in named(remove_duplicate=False):
            if first.setdefault(id(tensor), name) != name:
                further[name] = first[id(tensor)]
    return further


def _drop_further_names(module: nn.Module, state: dict, prefix: str, metadata) -> None:
    for name in _further_names(module):
        state.pop(f"{prefix}{name}", None)


def _restore_further_names(module: nn.Module, state: dict, prefix: str, *others) -> None:
    for name, first in _further_names(module).items():
        if f"{prefix}{first}" in state:
            state.setdefault(f"{prefix}{name}", state[f"{prefix}{first}"])
