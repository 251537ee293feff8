"""What the trainer refuses, because a law would break in silence (law 10)."""

import json
from pathlib import Path

from torch import nn
from transformers.utils import CONFIG_NAME

from ..partition import is_partitioned, partition_config, stock_config_dict

_STEPS_IN_BACKWARD = ("lomo", "adalomo")


def refuse_unkept_laws(trainer, trained: list[str]) -> None:
    """Checks a trainer at the end of its construction.

    Args:
        trainer: the trainer.
        trained: the names of the levels that its schedule trains.

    Raises:
        ValueError: the launcher, an argument or the model would break a law; the message says what to use instead.
    """
    args = trainer.args
    if trainer.is_deepspeed_enabled:
        raise ValueError(
            "DeepSpeed takes a missing gradient for zero, so a core step would move the full network's weights; "
            "launch with torchrun or accelerate's MULTI_GPU, and drop the deepspeed argument."
        )
    if trainer.is_fsdp_enabled:
        raise ValueError(
            "FSDP is not supported yet, and its version 1 cannot be: it flattens parameters, so a core step could not "
            "leave the full network's weights alone; launch with torchrun or accelerate's MULTI_GPU, and drop the "
            "fsdp argument."
        )
    if args.n_gpu > 1:
        raise ValueError(
            f"{args.n_gpu} GPUs are visible to one process, and nn.DataParallel would fill in zeros for missing "
            f"gradients; launch with torchrun --nproc_per_node {args.n_gpu}, or set CUDA_VISIBLE_DEVICES to one GPU."
        )
    if trainer.is_model_parallel or getattr(trainer, "is_distributed_loading_by_transformers", False):
        raise ValueError(
            "the model is spread over several devices (device_map or a distributed config), which the trainer does "
            "not support; load it on one device, and launch with torchrun to use more."
        )
    if args.optim in _STEPS_IN_BACKWARD or "layerwise" in args.optim:
        raise ValueError(
            f"optim={str(args.optim.value)!r} updates during the backward pass, where the gradients of a step's "
            "levels are not summed yet and alternate_lr_coef has no effect; take another, such as 'adamw_torch'."
        )
    # The modules are asked, since they copied the config's value when they were made.
    dropped = max((getattr(module, "layerdrop", 0) or 0 for module in trainer.model.modules()), default=0)
    if args.world_size > 1 and dropped:
        raise ValueError(
            f"layerdrop={dropped} makes each process drop other layers, so that their gradients do not match; load "
            "the model by from_pretrained(..., encoder_layerdrop=0, decoder_layerdrop=0)."
        )
    sets = list(trainer.eval_dataset) if isinstance(trainer.eval_dataset, dict) else None
    _refuse_metric_without_level(args.metric_for_best_model, trained, sets)


def refuse_unpartitioned(model: nn.Module, schedule: str) -> None:
    """An unpartitioned model can only be trained as it is.

    Raises:
        ValueError: `schedule` needs a core and the model has none.
    """
    if schedule != "full" and not is_partitioned(model):
        raise ValueError(
            f"schedule={schedule!r} needs a partitioned model, and this {type(model).__name__} is not; call "
            "partition_(model, PartitionConfig(...)) first, or write schedule='full' to train it as it is."
        )


def _refuse_metric_without_level(metric: str | None, trained: list[str], sets: list[str] | None) -> None:
    if metric is None:
        return
    bare = metric.removeprefix("eval_")
    beginnings = trained if sets is None else [f"{name}_{level}" for name in sets for level in trained]
    if not any(bare.startswith(f"{beginning}_") for beginning in beginnings):
        last = bare.rpartition("_")[2]
        what = (
            "level that this schedule trains" if sets is None else "evaluation set and level that this schedule trains"
        )
        raise ValueError(
            f"metric_for_best_model={metric!r} names no {what}; write one such as "
            f"{', '.join(repr(f'{beginning}_{last}') for beginning in beginnings)}."
        )


def refuse_another_partition(checkpoint: str | Path, model: nn.Module) -> None:
    """Compares the partition of a checkpoint to resume from with that of the model.

    Raises:
        ValueError: they differ.
    """
    path = Path(checkpoint) / CONFIG_NAME
    if not path.is_file():
        return
    stored = json.loads(path.read_text(encoding="utf-8"))
    found = stock_config_dict(stored)[1] if "ats_partition" in stored else None
    expected = partition_config(model) if is_partitioned(model) else None
    # The start of the factors is the past of a checkpoint, not part of its shape.
    if _shape(found) != _shape(expected):
        raise ValueError(
            f"the checkpoint {checkpoint} holds {found or 'an unpartitioned model'}, but the model to resume is "
            f"{expected or 'unpartitioned'}; partition the model as the checkpoint's, or train from its start."
        )


def _shape(config) -> dict | None:
    if config is None:
        return None
    return {name: value for name, value in config.to_dict().items() if name != "init"}
