"""What two processes do, for tests/training/test_distributed.py; launched by torchrun.

Every scenario is a training run. Rank 0 saves the weights that it ends with, and every rank what it saw.
"""

import gc
import os
import signal
import sys
from pathlib import Path

import torch
from transformers import MarianMTModel

from hf_ats.partition import PartitionConfig, layers_at_level, partition_
from hf_ats.run.architectures import keep_pad_row_zero_
from hf_ats.trainers import ATSSeq2SeqTrainer
from tests.support.models import partitioned
from tests.support.summed import BATCH, examples, summed_trainer
from tests.support.training import (
    BeforeStep,
    SaveAt,
    SequentialTrainer,
    make_trainer,
    sentences,
    train_pictures,
)
from tests.support.versions import BEFORE_5


class FindsUnusedParameters(SequentialTrainer):
    """The plain way: DistributedDataParallel searches each step's graph for the parameters without a gradient."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if BEFORE_5:  # where the handler is made from the arguments when training begins
            self.args.ddp_find_unused_parameters = True
        else:
            self.accelerator.ddp_handler.find_unused_parameters = True

    def training_step(self, model, inputs, num_items_in_batch=None):
        (level,) = self.levels_at_step(self.state.global_step)
        with layers_at_level(self._layers, level):
            return super(ATSSeq2SeqTrainer.__mro__[1], self).training_step(model, inputs, num_items_in_batch)


class Counting(ATSSeq2SeqTrainer):
    """Counts the bytes that DDP reduces and that are sent in all in each step; keeps what this rank trained on."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.reduced, self.sent, self.sentences, self.hooked = [], [], [], False

    def training_step(self, model, inputs, num_items_in_batch=None):
        if not self.hooked:
            model.register_comm_hook(self, self._count)
            self.hooked = True
        self.reduced.append(0)
        self.sent.append(0)
        self.sentences += [tuple(row[row != -100].tolist()) for row in inputs["labels"]]
        # What goes over the wire, whoever sends it; the hook below goes through here too.
        stock = torch.distributed.all_reduce

        def counted(tensor, *args, **kwargs):
            self.sent[-1] += tensor.nbytes
            return stock(tensor, *args, **kwargs)

        torch.distributed.all_reduce = counted
        try:
            return super().training_step(model, inputs, num_items_in_batch)
        finally:
            torch.distributed.all_reduce = stock

    @staticmethod
    def _count(self, bucket):
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

        self.reduced[-1] += bucket.buffer().nbytes
        return allreduce_hook(torch.distributed.group.WORLD, bucket)


def train_sum(out: Path) -> list[int]:
    """Trains a sum of two networks; returns the bytes that each step sends outside DistributedDataParallel."""
    sent, stock = [], torch.distributed.all_reduce

    def counted(tensor, *args, **kwargs):
        sent[-1] += tensor.nbytes
        return stock(tensor, *args, **kwargs)

    trainer = summed_trainer(out / "sum", examples(), per_device_train_batch_size=BATCH // 2, double=True)
    step = trainer.training_step

    def counting_step(*args, **kwargs):
        sent.append(0)
        torch.distributed.all_reduce = counted
        try:
            return step(*args, **kwargs)
        finally:
            torch.distributed.all_reduce = stock

    trainer.training_step = counting_step
    trainer.train()
    torch.save(trainer.model.state_dict(), out / f"sum{trainer.args.process_index}.pt")
    return sent


def main(out: Path):
    torch.set_num_threads(1)
    seen = {}

    def run(name, *, resume=None, trainer_class=SequentialTrainer, model=None, double=True, **fields):
        model = model or partitioned(dropout=fields.pop("dropout", 0.0))
        if double:
            model = model.double()
        defaults = dict(per_device_train_batch_size=2, weight_decay=0.1, label_smoothing_factor=0.1)
        trainer = make_trainer(model, out / name, trainer_class, **(defaults | fields))
        assert trainer.args.world_size == trainer.accelerator.num_processes == 2
        trainer.train(resume_from_checkpoint=resume and str(resume))
        if trainer.is_world_process_zero():
            torch.save(model.state_dict(), out / f"{name}.pt")
        seen[name] = trainer
        return trainer

    run("alternating", logging_strategy="steps", logging_steps=2)
    run("accumulated", per_device_train_batch_size=1, gradient_accumulation_steps=2)
    run("checkpointing", gradient_checkpointing=True)
    run("reentrant", gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": True})
    run("slimmable", schedule="slimmable")
    run("slimmable_accumulated", schedule="slimmable", per_device_train_batch_size=1, gradient_accumulation_steps=2)
    run("core", schedule="core")
    run("ladder", model=partitioned(partition="rank ladder"))
    run("width", model=partitioned(partition="width"))
    run("composition", model=partitioned(partition="composition"))
    run("vocabulary", model=partitioned(partition="vocabulary"))
    run("width_ladder", model=partitioned(partition="width ladder"), schedule="random")
    for schedule in ("alternating", "slimmable"):
        network = train_pictures(out / f"pictures_{schedule}", schedule=schedule)
        assert torch.distributed.get_world_size() == 2
        torch.save(network.state_dict(), out / f"pictures_{schedule}{torch.distributed.get_rank()}.pt")
    run("measured", criteria_steps=2, logging_strategy="steps", logging_steps=2)
    run("auto", alternate_lr_coef="auto", criteria_steps=2, logging_strategy="steps", logging_steps=2)
    run("padded", model=keep_pad_row_zero_(partitioned()), weight_decay=0.0)
    run("find_unused", trainer_class=FindsUnusedParameters)
    partition = PartitionConfig(ratios=[0.25])
    run("pretrained", model=partition_(MarianMTModel.from_pretrained(out / "stock"), partition), max_steps=3)

    common = dict(trainer_class=ATSSeq2SeqTrainer, dropout=0.1, double=False, max_tokens=40, max_steps=9)
    run("whole", callbacks=[SaveAt(2, 7)], **common)
    for stop in (2, 7):
        torch.manual_seed(1234)
        run(f"resumed{stop}", resume=out / "whole" / f"checkpoint-{stop}", **common)
    rank = torch.distributed.get_rank()
    stop = BeforeStep(4, lambda: os.kill(os.getpid(), signal.SIGTERM) if rank == 1 else None)
    try:
        run("stopped", callbacks=[stop], save_strategy="steps", save_steps=100, **common)
    except SystemExit as end:
        print(f"ended with status {end.code}")
    run("resumed4", resume=out / "stopped" / "checkpoint-4", **common)

    epoch = dict(trainer_class=Counting, max_tokens=40, max_steps=-1, num_train_epochs=1, double=False)
    counting = run("counting", **epoch)
    counting_width = run("counting_width", model=partitioned(partition="width ladder"), **epoch)
    # Seven sentences, which two processes cannot share evenly.
    evaluating = make_trainer(
        partitioned(),
        out / "evaluating",
        eval_dataset=sentences(7, seed=1),
        per_device_eval_batch_size=2,
        predict_with_generate=True,
        generation_max_length=6,
        compute_metrics=lambda prediction: {"sentences": len(prediction.predictions)},
    )
    record = dict(
        reduced=counting.reduced,
        sent=counting.sent,
        reduced_by_width=counting_width.reduced,
        sent_by_width=counting_width.sent,
        sentences=counting.sentences,
        log=seen["alternating"].state.log_history,
        measured_log=seen["auto"].state.log_history,
        metrics=evaluating.evaluate(),
        sent_by_sum=train_sum(out),
        refused=refusal(lambda: make_trainer(partitioned(encoder_layerdrop=0.1), out / "refused")),
    )
    torch.save(record, out / f"rank{counting.args.process_index}.pt")


def refusal(construct) -> str:
    """What `construct` is refused with."""
    try:
        construct()
    except ValueError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    torch.distributed.destroy_process_group()
    gc.collect()  # what holds the group beside, so that its threads end before the interpreter
