"""The warm-up that starts above zero, which Transformers' schedules do not have."""

from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def inverse_sqrt_schedule(optimizer: Optimizer, warmup_init_lr: float, warmup_steps: int) -> LambdaLR:
    """Return the inverse square root schedule of the code base behind the paper (fairseq).

    With `lr` the optimizer's learning rate, `W` the `warmup_steps`, and `n` the number of optimizer steps done before,
    step `n` (the first one is 0) runs at

        warmup_init_lr + n / W * (lr - warmup_init_lr)    for n < W
        lr * sqrt(W / n)                                  from n = W on

    From zero this is the `inverse_sqrt` of Transformers.

    Args:
        optimizer: its learning rates, which may differ between parameter groups, are what the warm-up reaches.
        warmup_init_lr: the learning rate of the first step (Table 4).
        warmup_steps: at least 1.
    """
    # PyTorch's schedulers keep in `initial_lr` what they scale.
    reached = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
    shares = [partial(_share_of_learning_rate, start=warmup_init_lr / lr, warmup=warmup_steps) for lr in reached]
    return LambdaLR(optimizer, shares)


def _share_of_learning_rate(step: int, *, start: float, warmup: int) -> float:
    if step < warmup:
        return start + step / warmup * (1 - start)
    return (warmup / step) ** 0.5
