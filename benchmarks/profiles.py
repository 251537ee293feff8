"""What the time of a training step goes into, by kind of operation."""

from collections import defaultdict
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

# An operation belongs to the first kind with a name that it begins with. Backward passes have names of their own.
_KINDS = {
    "optimizer and clipping": ("_fused_adam", "linalg_vector_norm", "_foreach_", "clamp", "stack"),
    "layers: matrix products": ("mm", "addmm", "linear", "mkldnn", "_scaled_mm"),
    "attention": ("bmm", "baddbmm", "_softmax", "softmax", "scaled_dot", "_scaled_dot", "_flash", "_efficient"),
    "dropout": ("bernoulli", "native_dropout", "dropout"),
    "layer norm": ("native_layer_norm", "layer_norm"),
}
VOCABULARY = "vocabulary: projection and loss"
OTHER = "copies and elementwise"


def profile_shares(
    step: Callable[[], object], vocab_size: int, device: torch.device, steps: int = 2
) -> dict[str, float]:
    """Run `step` a few times under PyTorch's profiler, and say which share of the time each kind of operation took.

    Args:
        step: what to profile; it is run once before.
        vocab_size: an operation with a dimension of that size belongs to the vocabulary.
        device: where it computes; on a GPU the kernels' time counts.
        steps: how many steps.

    Returns:
        Shares by kind, in falling order; they sum to 1. What Python and the launching of operations take is not in it.
    """
    step()
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities, record_shapes=True) as profiled:
        for _ in range(steps):
            step()
    times: dict[str, float] = defaultdict(float)
    for event in profiled.key_averages(group_by_input_shape=True):
        spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if spent and event.key.startswith("aten::"):
            times[_kind(event.key.removeprefix("aten::"), event.input_shapes, vocab_size)] += spent
    total = sum(times.values())
    return {kind: times[kind] / total for kind in sorted(times, key=times.get, reverse=True)}


def _kind(name: str, shapes: list, vocab_size: int) -> str:
    optimizer, *others = _KINDS
    if name.startswith(_KINDS[optimizer]):
        return optimizer
    if any(vocab_size in shape for shape in shapes if isinstance(shape, list)):
        return VOCABULARY
    for kind in others:
        if name.startswith(_KINDS[kind]):
            return kind
    return OTHER
