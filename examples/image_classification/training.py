"""How image networks are trained: the paper's optimizer as defaults, the loss, the accuracy, the cost of an epoch."""

import ast
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional as F
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from hf_ats.partition import FlopsLedger
from hf_ats.trainers import ATSTrainer
from hf_ats.training import ATSTrainingArguments


@dataclass
class ImageTrainingArguments(ATSTrainingArguments):
    """`ATSTrainingArguments` with the defaults of the paper's runs on CIFAR-10 (Appendix D), those that it names.

    SGD with momentum 0.9 and weight decay 5e-4 on every parameter, as `torch.optim.SGD` does it, and gradients as they
    are. The paper does not say the learning rate, its schedule, the batch size and the number of epochs: here 0.1, a
    cosine to 0, 128 and 200, the usual ones.
    """

    optim: OptimizerNames | str = field(default="sgd", metadata={"help": "The optimizer."})
    optim_args: str | None = field(
        default="momentum=0.9",
        metadata={"help": "Its arguments; of sgd: momentum, dampening, nesterov."},
    )
    weight_decay: float = field(default=5e-4, metadata={"help": "Weight decay."})
    weight_decay_on: str = field(
        default="all",
        metadata={
            "help": "What --weight_decay applies to. 'weights': the Trainer's rule, no biases; 'all': every "
            "parameter, as torch.optim.SGD.",
            "choices": ["weights", "all"],
        },
    )
    learning_rate: float = field(default=0.1, metadata={"help": "The initial learning rate."})
    max_grad_norm: float = field(
        default=0.0, metadata={"help": "Clip gradients to this norm; 0 leaves them as they are."}
    )
    lr_scheduler_type: SchedulerType | str = field(default="cosine", metadata={"help": "How it falls."})
    num_train_epochs: float = field(default=200.0, metadata={"help": "Epochs."})
    per_device_train_batch_size: int = field(default=128, metadata={"help": "Images a batch and process."})
    per_device_eval_batch_size: int = field(default=500, metadata={"help": "Images a batch when it is scored."})

    def __post_init__(self):
        super().__post_init__()
        if self.optim != "sgd" and self.optim_args == "momentum=0.9":
            self.optim_args = None  # the default, which belongs to sgd
        # The rows of the data set are not columns of `datasets`, and the collator takes what they hold.
        self.remove_unused_columns = False


def sgd(args: ImageTrainingArguments) -> tuple[type[torch.optim.Optimizer], dict] | None:
    """Return `optimizer_cls_and_kwargs` of the Trainer for `optim="sgd"`; None for another optimizer.

    transformers 4 does not read the arguments of this optimizer, and would train without the momentum.
    """
    if args.optim != OptimizerNames.SGD:
        return None
    given = dict(word.split("=") for word in (args.optim_args or "").replace(" ", "").split(",") if word)
    arguments = {name: ast.literal_eval(value.capitalize()) for name, value in given.items()}  # true is True
    return torch.optim.SGD, {"lr": args.learning_rate, **arguments}


def image_cross_entropy(label_smoothing: float = 0.0) -> Callable:
    """Return `compute_loss_func` of the Trainer: cross-entropy per image of the whole optimizer step.

    So the gradient does not depend on how a batch is cut into micro-batches and between processes, except through the
    network itself (law 8): a batch normalization takes the statistics of each piece.

    Args:
        label_smoothing: the weight of the uniform distribution over the classes.
    """

    def loss(outputs, labels: torch.Tensor, num_items_in_batch=None) -> torch.Tensor:
        total = F.cross_entropy(outputs.logits.float(), labels, reduction="sum", label_smoothing=label_smoothing)
        return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)

    return loss


def epoch_forward_flops(trainer: ATSTrainer, image_shape: tuple[int, ...], images: int) -> int:
    """Count the operations of the forward passes of one epoch, the convention of the paper's Table 3.

    A multiply-add is 2. Half of the images of alternating training pass through each of two networks, and all images
    of slimmable training through both.

    Args:
        trainer: whose schedule and model are counted, at any level.
        image_shape: `(channels, height, width)`.
        images: how many an epoch has.
    """
    ledger = FlopsLedger(trainer.model)
    parameter = next(trainer.model.parameters())
    image = {"pixel_values": torch.zeros(1, *image_shape, device=parameter.device, dtype=parameter.dtype)}
    costs = [ledger.forward_flops(image, level) for level in range(len(trainer.level_names))]
    # As many steps as make whole turns through the levels, so that none has a step more than another.
    turn = len(costs)
    steps = turn * math.ceil(max(trainer.state.max_steps, 1) / turn)
    total = sum(costs[level] for step in range(steps) for level in trainer.levels_at_step(step))
    return round(images * total / steps)


@torch.no_grad()
def count_correct(model: nn.Module, loader) -> int:
    """Count the images of a loader's batches that a network classifies right, in its present mode and level."""
    device = next(model.parameters()).device
    correct = 0
    for batch in loader:
        logits = model(pixel_values=batch["pixel_values"].to(device)).logits
        correct += (logits.argmax(dim=-1) == batch["labels"].to(device)).sum().item()
    return correct
