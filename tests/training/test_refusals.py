"""Law 10: what would break a law in silence is refused."""

import pytest
import torch

from hf_ats.partition import PartitionConfig, partition_
from hf_ats.trainers import ATSSeq2SeqTrainer, ATSTrainer
from hf_ats.training import ATSSeq2SeqTrainingArguments
from tests.support.models import partitioned, pictures, tiny_model, tiny_resnet
from tests.support.training import arguments, make_trainer, plain_arguments, sentences


@pytest.mark.law(number=10)
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(schedule="both"), "schedule='both' is not known; write one of alternating, core, full, slimmable"),
        (dict(alternate_lr_coef=0.0), "alternate_lr_coef=0.0 must be positive"),
        (dict(alternate_lr_coef=-1.0), "alternate_lr_coef=-1.0 must be positive"),
        (dict(max_tokens=0), "max_tokens=0 must be positive"),
        (dict(average_tokens_across_devices=False), "leave it at True"),
    ],
)
def test_arguments_out_of_range_are_refused(fields, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **fields)


@pytest.mark.law(number=10)
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(metric_for_best_model="bleu"), "metric_for_best_model='bleu' names no level.*'core_bleu', 'full_bleu'"),
        (dict(metric_for_best_model="core_loss", schedule="full"), "names no level that this schedule trains.*'full_"),
        (
            dict(metric_for_best_model="loss", eval_dataset={"a": []}),
            r"no evaluation set and level.*'a_core_loss', 'a_f",
        ),
        (dict(metric_for_best_model="full_loss", eval_dataset={"a": []}), "no evaluation set and level"),
        (dict(optim="lomo"), "optim='lomo' updates during the backward pass"),
        (dict(optim="galore_adamw_layerwise"), "optim='galore_adamw_layerwise' updates during the backward pass"),
    ],
)
def test_what_would_break_silently_is_refused_at_construction(fields, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make_trainer(partitioned(), tmp_path, **fields)


@pytest.mark.law(number=10)
def test_several_gpus_in_one_process_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(ATSSeq2SeqTrainingArguments, "n_gpu", 2)
    with pytest.raises(ValueError, match=r"2 GPUs are visible to one process.*torchrun --nproc_per_node 2"):
        make_trainer(partitioned(), tmp_path)


def test_a_stream_has_no_batches_by_tokens(tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from sentences()

    trainer = make_trainer(partitioned(), tmp_path, dataset=Stream(), max_tokens=64)
    with pytest.raises(
        ValueError, match=r"max_tokens=64 needs the length of every sentence, and a Stream is a stream"
    ):
        trainer.train()


def test_an_unpartitioned_model_is_refused_for_a_schedule_with_cores(tmp_path):
    with pytest.raises(ValueError, match=r"schedule='alternating' needs a partitioned model.*schedule='full'"):
        make_trainer(tiny_model("marian"), tmp_path)


def test_stock_arguments_are_refused(tmp_path):
    from transformers import Seq2SeqTrainingArguments

    with pytest.raises(TypeError, match="Seq2SeqTrainingArguments, which has no schedule; write ATSSeq2Seq"):
        ATSSeq2SeqTrainer(partitioned(), Seq2SeqTrainingArguments(str(tmp_path), use_cpu=True))


@pytest.mark.law(number=10)
@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("is_deepspeed_enabled", "DeepSpeed takes a missing gradient for zero"),
        ("is_model_parallel", "spread over several devices"),
    ],
)
def test_launchers_that_break_a_law_are_refused(attribute, message, tmp_path):
    from hf_ats.training.refusals import refuse_unkept_laws

    trainer = make_trainer(partitioned(), tmp_path)
    setattr(trainer, attribute, True)
    with pytest.raises(ValueError, match=message):
        refuse_unkept_laws(trainer, ["core", "full"])


@pytest.mark.law(number=10)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(fsdp_version=1), r"FSDP version 1 flattens parameters.*use version 2 \(fsdp_config=\{'version': 2\}"),
        (dict(cpu_ram_efficient_loading=True), "cpu_ram_efficient_loading=True leaves the weights empty.*write False"),
        (dict(auto_wrap_policy="size_based_wrap", min_num_params=100), "write 'TRANSFORMER_BASED_WRAP'"),
        (dict(activation_checkpointing=True), "write gradient_checkpointing=True in the training arguments"),
        (dict(ignored_modules="lm_head"), "ignored_modules='lm_head' are not reduced.*requires_grad_"),
    ],
)
def test_sharding_that_breaks_a_law_is_refused(options, message, tmp_path, monkeypatch):
    from accelerate.utils import FullyShardedDataParallelPlugin

    from hf_ats.training.refusals import refuse_unkept_laws

    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "False")  # which the plugin overwrites
    trainer = make_trainer(partitioned(), tmp_path)
    trainer.is_fsdp_enabled = True
    sharding = {"fsdp_version": 2, "auto_wrap_policy": "transformer_based_wrap"}
    monkeypatch.setattr(trainer.accelerator.state, "fsdp_plugin", FullyShardedDataParallelPlugin(**sharding), False)
    refuse_unkept_laws(trainer, ["core", "full"])
    plugin = FullyShardedDataParallelPlugin(**(sharding | options))
    monkeypatch.setattr(trainer.accelerator.state, "fsdp_plugin", plugin)
    with pytest.raises(ValueError, match=message):
        refuse_unkept_laws(trainer, ["core", "full"])


@pytest.mark.law(number=10)
def test_a_batch_normalization_per_level_is_refused_under_sharding(tmp_path):
    from hf_ats.training.refusals import refuse_unkept_laws

    model = partition_(tiny_resnet(), PartitionConfig(method="width", ratios=[0.5]))
    trainer = ATSTrainer(model, plain_arguments(tmp_path), train_dataset=pictures(4))
    refuse_unkept_laws(trainer, ["core", "full"])
    trainer.is_fsdp_enabled = True
    with pytest.raises(ValueError, match=r"this model has PartitionedBatchNorm2d, PartitionedConv2d.*drop the fsdp"):
        refuse_unkept_laws(trainer, ["core", "full"])
