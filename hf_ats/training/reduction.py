"""The gradient reduction of core steps: only what the core changes is sent (law 5)."""

from collections.abc import Iterable

import torch
from torch import nn

# The bucket size of DistributedDataParallel: large enough to fill a link, small enough to overlap copies and sends.
_BUCKET_BYTES = 25 * 2**20


def all_reduce_gradients(parameters: Iterable[nn.Parameter]) -> int:
    """Average the gradients of `parameters` over all processes, in place, as DistributedDataParallel does.

    Every process must pass the same parameters in the same order, and have a gradient for the same ones.

    Returns:
        The number of bytes that each process gave to be reduced.
    """
    world_size = torch.distributed.get_world_size()
    buckets = list(_buckets(parameter.grad for parameter in parameters if parameter.grad is not None))
    pending = []
    for gradients in buckets:
        # Divided before the sum, so that half precision does not overflow in it; DDP does the same.
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients]).div_(world_size)
        pending.append((flat, torch.distributed.all_reduce(flat, async_op=True)))
    for gradients, (flat, work) in zip(buckets, pending, strict=True):
        work.wait()
        parts = flat.split([gradient.numel() for gradient in gradients])
        torch._foreach_copy_(gradients, [part.view_as(g) for part, g in zip(parts, gradients, strict=True)])
    return sum(flat.nbytes for flat, _ in pending)


@torch.no_grad()
def broadcast_statistics(buffers: Iterable[torch.Tensor]) -> None:
    """Give every process the first one's floating-point buffers, in place: the statistics of batch normalizations.

    DistributedDataParallel does this in the forward passes whose gradients it reduces itself.
    """
    for bucket in _buckets(buffer for buffer in buffers if buffer.is_floating_point()):
        flat = torch.cat([buffer.reshape(-1) for buffer in bucket])
        torch.distributed.broadcast(flat, src=0)
        parts = flat.split([buffer.numel() for buffer in bucket])
        torch._foreach_copy_(bucket, [part.view_as(b) for part, b in zip(parts, bucket, strict=True)])


def _buckets(tensors: Iterable[torch.Tensor]) -> Iterable[list[torch.Tensor]]:
    """Yield groups of one dtype and device, each up to the bucket size (a larger tensor is a bucket of its own)."""
    open_buckets: dict[tuple, list[torch.Tensor]] = {}
    sizes: dict[tuple, int] = {}
    for tensor in tensors:
        kind = (tensor.dtype, tensor.device)
        if kind in open_buckets and sizes[kind] + tensor.nbytes > _BUCKET_BYTES:
            yield open_buckets.pop(kind)
            sizes.pop(kind)
        open_buckets.setdefault(kind, []).append(tensor)
        sizes[kind] = sizes.get(kind, 0) + tensor.nbytes
    yield from open_buckets.values()
