"""What processes send to each other, counted at every collective of PyTorch, for every caller."""

from collections import defaultdict

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_KINDS = {"gather": "gathered", "reduce_scatter": "scattered", "reduce": "reduced", "broadcast": "broadcast"}


class CountCollectives(TorchDispatchMode):
    """A context that counts the bytes of every collective that this process takes part in.

    A collective counts as the whole tensor that it is about, the parts of all processes together: what is gathered,
    what is reduced, what is reduced before it is scattered. How much of that a link carries depends on the algorithm
    of the backend, by a factor that is the same for all.

    Attributes:
        bytes: by kind: `"gathered"`, `"scattered"` (reduced first), `"reduced"`, `"broadcast"`, and the names of rarer
            collectives.

    Example:

    ```python
    >>> with CountCollectives() as counted:
    ...     loss.backward()
    >>> counted.bytes["reduced"]
    ```
    """

    def __init__(self):
        super().__init__()
        self.bytes: dict[str, int] = defaultdict(int)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        from torch.distributed.tensor import DTensor

        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # comes back as the operations on its local part
        result = function(*args, **(kwargs or {}))
        if getattr(function, "namespace", None) in ("c10d", "_c10d_functional"):
            name = function._schema.name.partition("::")[2]
            kind = next((kind for part, kind in _KINDS.items() if part in name.replace("allreduce", "reduce")), name)
            if not name.startswith(("wait", "_wrap")):  # what sends nothing
                # The larger of what goes in and what comes out is the whole.
                self.bytes[kind] += max(_bytes(value) for value in (*args, result))
        return result


def _bytes(value) -> int:
    if isinstance(value, torch.Tensor):
        return value.nbytes
    if isinstance(value, list | tuple):
        return sum(_bytes(item) for item in value)
    return 0
