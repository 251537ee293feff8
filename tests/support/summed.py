"""A tiny wide-and-deep classifier, its data, and its trainer."""

import torch
from torch import nn
from torch.utils.data import SequentialSampler

from hf_ats import ATSTrainer
from hf_ats.partition import SummedNetworks
from tests.support.training import plain_arguments

FEATURES, CROSSES, CLASSES, BATCH = 6, 8, 3, 4


class Deep(nn.Module):
    """`numbers` `(batch, FEATURES)` to `(batch, CLASSES)`."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(FEATURES, 5), nn.Tanh(), nn.Linear(5, CLASSES))

    def forward(self, numbers):
        return self.layers(numbers)


class Wide(nn.Module):
    """`crosses` `(batch, CROSSES)` to `(batch, CLASSES)`."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(CROSSES, CLASSES)

    def forward(self, crosses):
        return self.linear(crosses)


def wide_and_deep() -> SummedNetworks:
    torch.manual_seed(0)
    return SummedNetworks(Deep(), Wide())


def sharing() -> SummedNetworks:
    """Both networks end in the same layer, and the core begins and ends with one more."""
    torch.manual_seed(0)
    core, extension = Deep(), Deep()
    extension.layers[2] = core.layers[2]
    return SummedNetworks(core, extension)


def names_of(model, part: str) -> list[str]:
    """The parameters of one of its networks."""
    return [name for name, _ in model.named_parameters() if name.startswith(part)]


def examples(number: int = 24, seed: int = 0) -> list[dict]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "numbers": torch.randn(FEATURES, generator=generator).tolist(),
            "crosses": torch.randn(CROSSES, generator=generator).tolist(),
            "labels": int(torch.randint(CLASSES, (1,), generator=generator)),
        }
        for _ in range(number)
    ]


def collate(rows: list[dict], dtype=torch.float32) -> dict[str, torch.Tensor]:
    """A batch as the Trainer's default collator makes it."""
    inputs = {name: torch.tensor([row[name] for row in rows], dtype=dtype) for name in rows[0] if name != "labels"}
    return inputs | {"labels": torch.tensor([row["labels"] for row in rows])}


class _Sequential(ATSTrainer):
    """Takes the examples in their order, so that a plain loop can take the same."""

    def _get_train_sampler(self, train_dataset=None):
        return SequentialSampler(self.train_dataset)


def summed_trainer(output_dir, dataset, model=None, *, double=False, **fields) -> ATSTrainer:
    """Over `wide_and_deep`, with AdamW that decays weights."""
    keywords = {
        name: fields.pop(name) for name in ("callbacks", "eval_dataset", "compute_loss_func") if name in fields
    }
    defaults = dict(
        per_device_train_batch_size=BATCH,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        weight_decay=0.1,
        max_grad_norm=0.0,
        max_steps=6,
        logging_strategy="no",
    )
    model = wide_and_deep() if model is None else model
    return _Sequential(
        model=model.double() if double else model,
        args=plain_arguments(output_dir, **(defaults | fields)),
        train_dataset=dataset,
        data_collator=(lambda rows: collate(rows, torch.float64)) if double else collate,
        **keywords,
    )
