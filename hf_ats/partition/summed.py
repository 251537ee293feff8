"""Two networks whose outputs are added: a core that stands alone, and an extension beside it (Section 3.4).

           inputs  (each network takes those that it names)
              |--------------------.
            core               extension
              |                    |
              |-- level 0, core    |
              '-------- + ---------'
                        |
                level 1, full

The middle case of the paper's Figure 1, of which wide-and-deep networks (Cheng et al., 2016) are the example.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers.utils import ModelOutput

from .layers import PartitionedLayer
from .levels import is_partitioned


@dataclass
class SummedOutput(ModelOutput):
    """What `SummedNetworks` returns where its networks return more than a tensor, or where there are labels.

    Attributes:
        loss: of the summed logits, where labels were given; a scalar.
        logits: those of the live level, of the networks' own shape.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None


class SummedNetworks(PartitionedLayer):
    """`core(x) + extension(x)` at full level, `core(x)` alone at core level: a super-network of any two networks.

    It is partitioned as it is: `set_level`, `at_level`, `parameters_at_level` and `ATSTrainer` take it, and there is
    nothing to call `partition_` on. A core step computes nothing of the extension and leaves its gradients at None
    (law 1). `.core` is the module that was given, and needs nothing of this class.

    Keyword inputs go to the networks whose `forward` names them, so the two may read different ones; a `forward` that
    takes any (`**kwargs`) also gets those that no network names. Positional inputs go to both.

    The outputs must have the same shape. They are tensors, mappings with `logits` (as the models of Transformers
    return), or tuples whose first entry is the logits; nothing else of them is kept. With `labels` the output carries
    a loss of the summed logits; the networks never see the labels, so no loss of their own is computed.

    A parameter that both networks hold takes part at both levels, as the core's; a state dict holds it once, under
    its name in the core.

    Args:
        core (`nn.Module`): the network that stands alone.
        extension (`nn.Module`): the network whose output is added to the core's.
        core_inputs, extension_inputs (`Sequence[str]`, *optional*): the names of the keyword inputs of each, where
            they cannot be read from the signature of its `forward`.
        loss_function (*optional*): from `(logits, labels)` to a scalar. By default the mean cross-entropy of a
            classifier: logits `(batch, classes)`, integer labels `(batch,)`. `compute_loss_func` of the trainers does
            without it.

    Raises:
        ValueError: a network is partitioned itself, or both are the same module.

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

    def __init__(
        self,
        core: nn.Module,
        extension: nn.Module,
        *,
        core_inputs: Sequence[str] | None = None,
        extension_inputs: Sequence[str] | None = None,
        loss_function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    ):
        super().__init__()
        for name, network in (("core", core), ("extension", extension)):
            if is_partitioned(network):
                raise ValueError(
                    f"{name} is a partitioned {type(network).__name__}; a sum has the levels core and full, and its "
                    "networks have none of their own. Give it unpartitioned, or train it without the sum."
                )
        if core is extension:
            raise ValueError(
                f"core and extension are the same {type(core).__name__}, whose output the sum would only double; give "
                "two networks, such as copy.deepcopy of it. They may share parameters."
            )
        self.core = core
        self.extension = extension
        self.loss_function = _cross_entropy if loss_function is None else loss_function
        self.level = 1
        self._core_inputs = _Inputs.of(core, core_inputs)
        self._extension_inputs = _Inputs.of(extension, extension_inputs)
        self.register_state_dict_post_hook(_drop_further_names)
        self.register_load_state_dict_pre_hook(_restore_further_names)
        # The Trainer reads there which columns of a data set the model takes, and drops the others.
        self.forward = functools.partial(type(self).forward, self)
        self.forward.__signature__ = _signature(self._core_inputs, self._extension_inputs)

    def parameters_at(self, level: int) -> list[nn.Parameter]:
        """Return the core's at core level, both networks' at full level, shared ones once."""
        return list((self.core if level == 0 else self).parameters())

    def stock_state(self, level: int) -> dict[str, torch.Tensor]:
        """Return the core's own state; at full level that of the sum, since no other module computes it."""
        return (self.core if level == 0 else self).state_dict()

    def forward(self, *inputs, labels: torch.Tensor | None = None, **named) -> torch.Tensor | SummedOutput:
        """The output of the live level: a tensor where the networks return tensors and there are no labels.

        Raises:
            TypeError: an input is one that neither network takes, or an output holds no logits.
            ValueError: the two outputs differ in shape, or the default loss does not know the labels.
        """
        for_core, for_extension = self._routed(named)
        output = self.core(*inputs, **for_core)
        logits = _logits(output, "core")
        if self.level == 1:
            added = _logits(self.extension(*inputs, **for_extension), "extension")
            if added.shape != logits.shape:
                raise ValueError(
                    f"the core's output has shape {tuple(logits.shape)} and the extension's {tuple(added.shape)}; "
                    "only outputs of one shape can be summed."
                )
            logits = logits + added
        if labels is not None:
            return SummedOutput(loss=self.loss_function(logits, labels), logits=logits)
        return logits if isinstance(output, torch.Tensor) else SummedOutput(logits=logits)

    def _routed(self, named: dict) -> tuple[dict, dict]:
        core, extension = self._core_inputs, self._extension_inputs
        for name in named:
            if not (name in core.names or name in extension.names or core.any or extension.any):
                raise TypeError(
                    f"neither network takes an input {name!r}: the core takes {_listed(core.names)}, the extension "
                    f"{_listed(extension.names)}. Leave it out, or name it in core_inputs or extension_inputs."
                )
        return tuple(
            {
                name: value
                for name, value in named.items()
                if name in own.names or (own.any and name not in other.names)
            }
            for own, other in ((core, extension), (extension, core))
        )

    def extra_repr(self) -> str:
        return f"level={self.level}"


@dataclass(frozen=True)
class _Inputs:
    """The keyword inputs of a network: by name, and whether it takes `any` other."""

    names: tuple[str, ...]
    any: bool

    @classmethod
    def of(cls, network: nn.Module, given: Sequence[str] | None) -> "_Inputs":
        if given is not None:
            return cls(tuple(given), any=False)
        parameters = inspect.signature(network.forward).parameters.values()
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        names = tuple(one.name for one in parameters if one.kind in named)
        return cls(names, any=any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters))


def _signature(core: _Inputs, extension: _Inputs) -> inspect.Signature:
    names = dict.fromkeys((*core.names, *extension.names, "labels"))
    return inspect.Signature([inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names])


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(map(repr, names)) or "none"


def _logits(output, what: str) -> torch.Tensor:
    if isinstance(output, torch.Tensor):
        return output
    logits = output.get("logits") if isinstance(output, dict) else output[0] if isinstance(output, tuple) else None
    if not isinstance(logits, torch.Tensor):
        raise TypeError(
            f"the {what} returned a {type(output).__name__} without logits; have it return a tensor, a mapping with "
            "'logits', or a tuple that begins with them."
        )
    return logits


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    if logits.ndim != 2 or labels.ndim != 1 or labels.is_floating_point():
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} and {labels.dtype} for logits of shape {tuple(logits.shape)} are "
            "not those of a classifier, (batch,) and integers for (batch, classes); give SummedNetworks a "
            "loss_function, or the trainer a compute_loss_func."
        )
    return F.cross_entropy(logits, labels)


def _further_names(module: nn.Module) -> dict[str, str]:
    """Map each further name of a shared parameter or buffer to its first, the core's where the core has it.

    Files of tensors (safetensors), which the Trainer writes, take every tensor once.
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
