"""What two processes do under FSDP version 2, for tests/training/test_fsdp.py; launched by torchrun.

Every scenario is a training run. Rank 0 saves the whole weights that it ends with, and every rank what it saw.
"""

import gc
import os
import sys
from pathlib import Path

import torch
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import MarianMTModel, TrainerCallback

from benchmarks.collectives import CountCollectives
from benchmarks.distributed import shard_on_cpu
from hf_ats.checkpoint import export_core, export_full
from hf_ats.run.architectures import keep_pad_row_zero_
from hf_ats.trainers import ATSSeq2SeqTrainer
from tests.support.distributed.worker import refusal
from tests.support.models import partitioned
from tests.support.training import SaveAt, SequentialTrainer, arguments, collator, make_trainer, sentences


class WatchShards(TrainerCallback):
    """This rank's shards of weights and optimizer state before each step and after the last, and the gradients."""

    def __init__(self):
        self.weights, self.states, self.with_gradient = [], [], []

    def _look(self, model, optimizer):
        names = {parameter: name for name, parameter in model.named_parameters()}
        self.weights.append({name: local(parameter) for parameter, name in names.items()})
        self.states.append(
            {
                f"{names[parameter]}/{key}": local(torch.as_tensor(value))
                for parameter, state in optimizer.state.items()
                for key, value in state.items()
            }
        )

    def on_step_begin(self, args, state, control, model, optimizer, **kwargs):
        self._look(model, optimizer)

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        self.with_gradient.append([name for name, p in model.named_parameters() if p.grad is not None])

    def on_train_end(self, args, state, control, model, optimizer, **kwargs):
        self._look(model, optimizer)


class CountSteps(TrainerCallback):
    """The bytes of all collectives of each step, from its first forward pass to its update."""

    def __init__(self):
        self.bytes, self._counting = [], None

    def on_step_begin(self, args, state, control, **kwargs):
        self._counting = CountCollectives()
        self._counting.__enter__()

    def on_step_end(self, args, state, control, **kwargs):
        self._counting.__exit__(None, None, None)
        self.bytes.append(dict(self._counting.bytes))


def local(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return tensor.detach().clone()


# By kind of state, the steps after which a run is stopped: in the first epoch, and in the second.
RESUMED_AT = {"FULL_STATE_DICT": (2, 7), "SHARDED_STATE_DICT": (7,)}

# What `accelerate launch` sets for a configuration with `fsdp_version: 2`.
LAUNCHED = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}


def make_sharded_trainer(model, output_dir, trainer_class=SequentialTrainer, launched=False, **fields):
    keywords = {name: fields.pop(name) for name in ("eval_dataset", "callbacks", "compute_metrics") if name in fields}
    sharding = dict(fsdp=True, fsdp_config={"version": 2, **fields.pop("fsdp_config", {})})
    if launched:
        os.environ.update(LAUNCHED)
        sharding = {}
    args = arguments(output_dir, **sharding, **fields)
    assert args.world_size == 2  # which also sets the process group up
    shard_on_cpu()
    trainer = trainer_class(
        model=model, args=args, train_dataset=sentences(), data_collator=collator(model), **keywords
    )
    assert trainer.accelerator.is_fsdp2 and trainer.accelerator.num_processes == 2
    return trainer


def main(out: Path):
    torch.set_num_threads(1)
    refused = {"on the cpu": refusal(lambda: make_trainer(partitioned(), out / "refused", fsdp=True))}

    def run(name, *, resume=None, trainer_class=SequentialTrainer, model=None, double=True, **fields):
        model = model or partitioned(dropout=fields.pop("dropout", 0.0))
        if double:
            model = model.double()
        defaults = dict(per_device_train_batch_size=2, weight_decay=0.1, label_smoothing_factor=0.1)
        trainer = make_sharded_trainer(model, out / name, trainer_class, **(defaults | fields))
        trainer.train(resume_from_checkpoint=resume and str(resume))
        assert isinstance(trainer.model, FSDPModule)
        weights = trainer.accelerator.get_state_dict(trainer.model)
        if trainer.is_world_process_zero():
            torch.save(weights, out / f"{name}.pt")
        return trainer

    watch, count = WatchShards(), CountSteps()
    alternating = run("alternating", logging_strategy="steps", logging_steps=2, callbacks=[watch, count])
    alternating.save_model(str(out / "saved"))
    whole = alternating.whole_model()
    assert (whole is None) != alternating.is_world_process_zero()
    if whole is not None:
        assert type(whole) is MarianMTModel
        for name, export in (("full", export_full), ("core", export_core)):
            export(whole, out / "exported" / name)
    run("accumulated", per_device_train_batch_size=1, gradient_accumulation_steps=2)
    run("checkpointing", gradient_checkpointing=True)
    run("gathered_once", fsdp_config={"reshard_after_forward": False})
    run("slimmable", schedule="slimmable")
    slimmable_count = CountSteps()
    run(
        "slimmable_accumulated",
        schedule="slimmable",
        per_device_train_batch_size=1,
        gradient_accumulation_steps=2,
        callbacks=[slimmable_count],
    )
    run("core", schedule="core")
    ladder_watch = WatchShards()
    run("ladder", model=partitioned(partition="rank ladder"), callbacks=[ladder_watch])
    width_count, width_watch = CountSteps(), WatchShards()
    run("width", model=partitioned(partition="width"), callbacks=[width_count])
    run("width_ladder", model=partitioned(partition="width ladder"), callbacks=[width_watch])
    depth_count, composition_watch = CountSteps(), WatchShards()
    run("depth", model=partitioned(partition="depth"), callbacks=[depth_count])
    run("composition", model=partitioned(partition="composition"), callbacks=[composition_watch])
    run("t5", model=partitioned("t5"))
    run("own_embeddings", model=partitioned(share_encoder_decoder_embeddings=False, decoder_vocab_size=96))
    run("padded", model=keep_pad_row_zero_(partitioned()), weight_decay=0.0)
    bf16_watch = WatchShards()
    bf16 = run("bf16", bf16=True, double=False, logging_strategy="steps", logging_steps=1, callbacks=[bf16_watch])

    common = dict(trainer_class=ATSSeq2SeqTrainer, dropout=0.1, double=False, max_tokens=40, max_steps=9)
    for kind in RESUMED_AT:
        options = dict(fsdp_config={"state_dict_type": kind}, **common)
        run(f"whole_{kind}", callbacks=[SaveAt(2, 7, 9)], **options)
        for stop in RESUMED_AT[kind]:
            torch.manual_seed(1234)
            run(f"resumed{stop}_{kind}", resume=out / f"whole_{kind}" / f"checkpoint-{stop}", **options)
    core_only = dict(schedule="core", max_steps=4)
    run("whole_core", callbacks=[SaveAt(2)], **core_only)
    run("resumed_core", resume=out / "whole_core" / "checkpoint-2", **core_only)

    # Seven sentences, which two processes cannot share evenly.
    evaluating = run(
        "evaluated",
        max_steps=2,
        eval_dataset=sentences(7, seed=1),
        per_device_eval_batch_size=2,
        predict_with_generate=True,
        generation_max_length=6,
        compute_metrics=lambda prediction: {"sentences": len(prediction.predictions)},
    )
    run("launched", launched=True)
    untrained = make_sharded_trainer(partitioned(), out / "untrained", eval_dataset=sentences(4))
    refused["measured"] = refusal(lambda: make_sharded_trainer(partitioned(), out / "measured", criteria_steps=2))
    refused["again"] = refusal(evaluating.train)
    refused["before training"] = refusal(untrained.evaluate)
    record = dict(
        bytes={"rank": count.bytes, "width": width_count.bytes, "depth": depth_count.bytes},
        slimmable_bytes=slimmable_count.bytes,
        weights=watch.weights,
        states=watch.states,
        with_gradient=watch.with_gradient,
        composition_with_gradient=composition_watch.with_gradient,
        ladder_with_gradient=ladder_watch.with_gradient,
        width_ladder_with_gradient=width_watch.with_gradient,
        log=alternating.state.log_history,
        bf16_log=bf16.state.log_history,
        bf16_weights=bf16_watch.weights,
        metrics=evaluating.evaluate(),
        refused=refused,
    )
    torch.save(record, out / f"rank{alternating.args.process_index}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    torch.distributed.destroy_process_group()
    gc.collect()  # what holds the group beside, so that its threads end before the interpreter
