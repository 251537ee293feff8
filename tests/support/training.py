"""Small training runs for the tests of the trainers."""

import torch
from torch.utils.data import SequentialSampler
from transformers import TrainerCallback

from hf_ats.data import TranslationCollator
from hf_ats.partition import PartitionConfig, partition_
from hf_ats.trainers import ATSSeq2SeqTrainer, ATSTrainer
from hf_ats.training import ATSSeq2SeqTrainingArguments, ATSTrainingArguments
from tests.support.laws import snapshot
from tests.support.models import VOCABULARY, pictures, tiny_resnet


class PaddingTokenizer:
    """Pads like a tokenizer, which is all that a collator asks of one."""

    padding_side = "right"

    def __init__(self, pad_token_id):
        self.pad_token_id = pad_token_id

    def pad(self, features, padding=True, max_length=None, pad_to_multiple_of=None, return_tensors=None):
        width = max(len(feature["input_ids"]) for feature in features)
        rows = {"input_ids": self.pad_token_id, "attention_mask": 0}
        batch = {
            name: torch.tensor([list(f[name]) + [value] * (width - len(f[name])) for f in features])
            for name, value in rows.items()
        }
        if "labels" in features[0]:
            batch["labels"] = torch.tensor([list(f["labels"]) for f in features])
        return batch

    def save_pretrained(self, directory):
        """Nothing to save: the tests' words have no text."""


def sentences(number: int = 24, seed: int = 0) -> list[dict[str, list[int]]]:
    """Tokenized pairs of 3 to 8 random tokens a side."""
    generator = torch.Generator().manual_seed(seed)

    def draw():
        length = int(torch.randint(3, 9, (1,), generator=generator))
        return torch.randint(3, VOCABULARY - 1, (length,), generator=generator).tolist()

    pairs = [(draw(), draw()) for _ in range(number)]
    return [{"input_ids": s, "attention_mask": [1] * len(s), "labels": t} for s, t in pairs]


class InOrder:
    """Takes the training data in their order, so that a reference can take the same."""

    def _get_train_sampler(self, train_dataset=None):
        return SequentialSampler(self.train_dataset)


class SequentialTrainer(InOrder, ATSSeq2SeqTrainer):
    """Takes the sentences in their order."""


class SequentialPlainTrainer(InOrder, ATSTrainer):
    """Takes the pictures in their order."""


def collator(model) -> TranslationCollator:
    return TranslationCollator(PaddingTokenizer(model.config.pad_token_id))


def arguments(output_dir, **fields) -> ATSSeq2SeqTrainingArguments:
    defaults = dict(
        output_dir=str(output_dir),
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        max_steps=6,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    return ATSSeq2SeqTrainingArguments(**(defaults | fields))


_OF_TRAINER = ("eval_dataset", "callbacks", "compute_metrics", "compute_loss_func")


def make_trainer(model, output_dir, trainer_class=SequentialTrainer, dataset=None, **fields):
    keywords = {name: fields.pop(name) for name in _OF_TRAINER if name in fields}
    return trainer_class(
        model=model,
        args=arguments(output_dir, **fields),
        train_dataset=sentences() if dataset is None else dataset,
        data_collator=collator(model),
        **keywords,
    )


def plain_arguments(output_dir, **fields):
    quiet = dict(use_cpu=True, report_to=[], disable_tqdm=True, save_strategy="no", dataloader_pin_memory=False)
    return ATSTrainingArguments(str(output_dir), **(quiet | fields))


class FirstOfWindow(SequentialPlainTrainer):
    """Keeps the batch statistics of the first micro-batch of each two: those of the first of two processes."""

    def training_step(self, model, inputs, num_items_in_batch=None):
        first = self._first = not getattr(self, "_first", False)
        kept = None if first else {name: buffer.clone() for name, buffer in model.named_buffers()}
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not first:
            for name, buffer in model.named_buffers():
                buffer.copy_(kept[name])
        return loss


def train_pictures(output_dir, trainer_class=SequentialPlainTrainer, **fields):
    """A convolutional network in double precision after 6 steps of SGD; 4 pictures in each micro-batch."""
    model = partition_(tiny_resnet(), PartitionConfig(method="width", ratios=[0.25, 0.5])).double()
    sgd = dict(optim="sgd", optim_args="momentum=0.9", weight_decay=0.1, learning_rate=0.1, max_grad_norm=0.0)
    args = plain_arguments(
        output_dir,
        max_steps=6,
        per_device_train_batch_size=4,
        logging_strategy="no",
        **(sgd | fields),
    )
    data = [{**one, "pixel_values": one["pixel_values"].double()} for one in pictures(48)]
    trainer_class(model, args, train_dataset=data).train()
    return model


class Watch(TrainerCallback):
    """Copies of the weights and of the optimizer's state before each step, and after the last."""

    def __init__(self):
        self.weights, self.states = [], []

    def _look(self, model, optimizer):
        self.weights.append(snapshot(model))
        names = {parameter: name for name, parameter in model.named_parameters()}
        self.states.append(
            {
                f"{names[parameter]}/{key}": torch.as_tensor(value).clone()
                for parameter, state in optimizer.state.items()
                for key, value in state.items()
                if value is not None  # SGD without momentum keeps an empty place
            }
        )

    def on_step_begin(self, args, state, control, model, optimizer, **kwargs):
        self._look(model, optimizer)

    def on_train_end(self, args, state, control, model, optimizer, **kwargs):
        self._look(model, optimizer)


class SaveAt(TrainerCallback):
    """Saves a checkpoint after these steps."""

    def __init__(self, *steps: int):
        self._steps = steps

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = state.global_step in self._steps


class AfterStep(TrainerCallback):
    """Calls a function when a step, from 1, is done."""

    def __init__(self, step, function):
        self._step, self._function = step, function

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self._step:
            self._function()


class BeforeStep(AfterStep):
    """Calls a function when a step, from 1, begins."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step + 1 == self._step:
            self._function()

    def on_step_end(self, args, state, control, **kwargs):
        pass
