"""What the trainer refuses, because a law would break in silence (law 10)."""

import json
import os
import re
from pathlib import Path

from safetensors import safe_open
from torch import nn
from transformers import TrainingArguments
from transformers.utils import CONFIG_NAME, strtobool

from ..partition import find_partition, is_partitioned, partitioned_layers, stock_config_dict
from ..storage import read_checkpoint
from .arguments import refuse_hub_strategy
from .sharding import is_sharded

_STEPS_IN_BACKWARD = ("lomo", "adalomo")


def refuse_unkept_laws(trainer, trained: list[str]) -> None:
    """Check a trainer at the end of its construction.

    Args:
        trainer: the trainer.
        trained: the names of the levels that its schedule trains.

    Raises:
        ValueError: the launcher, an argument or the model would break a law; the message says what to use instead.
    """
    args = trainer.args
    refuse_hub_strategy(args)  # `set_push_to_hub` may have changed it
    if trainer.is_deepspeed_enabled:
        raise ValueError(
            "DeepSpeed takes a missing gradient for zero, so a core step would move the full network's weights; "
            "launch with torchrun or accelerate's MULTI_GPU, and drop the deepspeed argument."
        )
    _refuse_sharding(trainer)
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
    if args.criteria_steps is not None and (trainer.is_fsdp_enabled or len(trainer.level_names) == 1):
        why = "FSDP shards them" if trainer.is_fsdp_enabled else "this model has no core (partition_ makes one)"
        raise ValueError(
            f"criteria_steps={args.criteria_steps} compares the gradients of a core and of the full network, and "
            f"{why}; leave it out, and alternate_lr_coef='auto' with it."
        )
    sets = list(trainer.eval_dataset) if isinstance(trainer.eval_dataset, dict) else None
    _refuse_metric_without_level(args.metric_for_best_model, trained, sets)


def _refuse_sharding(trainer) -> None:
    """Refuse FSDP version 1, and those options of version 2 under which a law or the request itself would be lost."""
    if not trainer.is_fsdp_enabled:
        requested = trainer.args.fsdp or strtobool(os.environ.get("ACCELERATE_USE_FSDP", "false"))
        if requested and trainer.args.world_size > 1:
            raise ValueError(
                "FSDP was asked for, but accelerate shards on GPUs and their like only, and here would replicate the "
                "model without a word; drop the fsdp argument (or use_fsdp of accelerate's config) on CPUs."
            )
        return
    layers = partitioned_layers(trainer.model).values()
    unknown = {type(layer).__name__ for layer in layers if not layer.is_shardable}
    if unknown:
        raise ValueError(
            f"FSDP is supported for partitioned linear layers and for depth, and this model has "
            f"{', '.join(sorted(unknown))}, where processes would drift apart or gather what a core step has no use "
            "for; drop the fsdp argument and launch with torchrun, or leave them out of the target modules."
        )
    plugin = trainer.accelerator.state.fsdp_plugin
    if plugin.fsdp_version != 2:
        raise ValueError(
            f"FSDP version {plugin.fsdp_version} flattens parameters, so a core step could not leave the full "
            "network's weights alone; use version 2 (fsdp_config={'version': 2}, or fsdp_version: 2 in accelerate's "
            "config), or drop the fsdp argument and launch with torchrun."
        )
    if plugin.cpu_ram_efficient_loading:
        raise ValueError(
            "cpu_ram_efficient_loading=True leaves the weights empty on every process but the first, where partition_ "
            "has to split them on each; write False (fsdp_cpu_ram_efficient_loading: false in accelerate's config)."
        )
    policy = getattr(plugin.auto_wrap_policy, "func", plugin.auto_wrap_policy)
    if getattr(policy, "__name__", None) == "size_based_auto_wrap_policy":
        raise ValueError(
            "auto_wrap_policy='SIZE_BASED_WRAP' leaves small W in the unit of their block, so that core steps would "
            "gather them; write 'TRANSFORMER_BASED_WRAP'."
        )
    if plugin.activation_checkpointing:
        raise ValueError(
            "accelerate's activation_checkpointing draws another dropout when it computes again, so that gradients "
            "would be those of another pass; write gradient_checkpointing=True in the training arguments instead."
        )
    if plugin.ignored_modules is not None:
        raise ValueError(
            f"ignored_modules={plugin.ignored_modules!r} are not reduced, so the processes would drift apart; freeze "
            "them by requires_grad_(False) instead."
        )


def refuse_unsharded_evaluation(trainer) -> None:
    """Refuse to evaluate a model under FSDP before it is sharded, which accelerate does together with its optimizer.

    Raises:
        ValueError: the trainer evaluates under FSDP before it has trained.
    """
    if trainer.is_fsdp_enabled and not is_sharded(trainer.model):
        raise ValueError(
            "under FSDP a model is sharded when its training starts, and this one has not; evaluate after train(), "
            "during it (eval_on_start=True), or in a run without FSDP."
        )


def refuse_second_training(trainer) -> None:
    """Refuse a second training under FSDP, which the optimizer of the first cannot be handed to.

    Raises:
        ValueError: the trainer has trained this model under FSDP before.
    """
    if trainer.is_fsdp_enabled and trainer.model is not None and is_sharded(trainer.model):
        raise ValueError(
            "under FSDP a trainer trains once, since accelerate cannot shard an optimizer again; make a new trainer "
            "around load_partitioned(checkpoint), or go on by resume_from_checkpoint in a new process."
        )


def refuse_unpartitioned(model: nn.Module, schedule: str) -> None:
    """Refuse to train cores of an unpartitioned model.

    Raises:
        ValueError: `schedule` needs a core and the model has none.
    """
    if set(schedule.split()) != {"full"} and not is_partitioned(model):
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


def refuse_another_model(checkpoint: str | os.PathLike, model: nn.Module) -> None:
    """Refuse a checkpoint whose partition or tensors are not those of the model to resume.

    Raises:
        ValueError: they differ.
    """
    _refuse_another_partition(checkpoint, model)
    _refuse_other_tensors(checkpoint, model)


def _refuse_another_partition(checkpoint, model: nn.Module) -> None:
    path = Path(checkpoint) / CONFIG_NAME
    if not path.is_file():
        return
    stored = json.loads(path.read_text(encoding="utf-8"))
    found = stock_config_dict(stored)[1] if "ats_partition" in stored else None
    expected = find_partition(model)
    # How the factors started is not part of a checkpoint's shape.
    if _shape(found) != _shape(expected):
        raise ValueError(
            f"the checkpoint {checkpoint} holds {found or 'an unpartitioned model'}, but the model to resume is "
            f"{expected or 'unpartitioned'}; partition the model as the checkpoint's, or train from its start."
        )


# Not of the training itself, or of one process.
_NOT_COMPARED = ("output_dir", "logging_dir", "run_name", "resume_from_checkpoint", "local_rank", "disable_tqdm")


def compared_arguments(args: TrainingArguments) -> dict:
    """Return the arguments of a training that a checkpoint keeps, in JSON's types."""
    arguments = {
        name: value for name, value in args.to_dict().items() if name not in _NOT_COMPARED and not name.startswith("_")
    }
    return json.loads(json.dumps(arguments, default=str))


def refuse_another_training(checkpoint: str | os.PathLike, args: TrainingArguments) -> None:
    """Refuse arguments that the state in a checkpoint does not fit.

    Raises:
        ValueError: the checkpoint has no optimizer or another one, or was trained by another schedule.
    """
    before, now = read_checkpoint(checkpoint)["arguments"], compared_arguments(args)
    if before.get("save_only_model"):
        raise ValueError(
            f"the checkpoint {checkpoint} was saved with save_only_model=True, without an optimizer to go on with; "
            "export it, and begin a new run from the full network."
        )
    follows_metric = {"reduce_lr_on_plateau", "greedy"} & {before["lr_scheduler_type"], now["lr_scheduler_type"]}
    fixed = [
        "optim",
        "schedule",
        "weight_decay_on",
        *(["lr_scheduler_type", "learning_rate"] if follows_metric else []),
    ]
    for name in fixed:
        if before[name] != now[name]:
            raise ValueError(
                f"the checkpoint {checkpoint} was trained with {name}={before[name]!r}, and this run has "
                f"{name}={now[name]!r}; go on with {before[name]!r}, or begin a new run in another output_dir."
            )


def _refuse_other_tensors(checkpoint, model: nn.Module) -> None:
    """Refuse tensors that are missing, unknown or of another shape: the Trainer would go on with fresh ones."""
    stored = {}
    for file in Path(checkpoint).glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            stored |= {name: tuple(tensors.get_slice(name).get_shape()) for name in sorted(tensors.keys())}
    if not stored:
        return
    state = model.state_dict(keep_vars=True)
    own = {name: tuple(tensor.shape) for name, tensor in state.items()}
    for name, shape in stored.items():
        if own.get(name) != shape:
            here = f"has {own[name]}" if name in own else "has none of this name"
            raise ValueError(
                f"the checkpoint {checkpoint} holds {name} of shape {shape}, and the model to resume {here}; build "
                "the model as the checkpoint's, or begin a new run in another output_dir."
            )
    there = {id(state[name]) for name in stored}
    unsaved = "|".join(getattr(model, "_keys_to_ignore_on_save", None) or ())
    for name, tensor in state.items():
        if id(tensor) not in there and not (unsaved and re.search(unsaved, name)):
            raise ValueError(
                f"the checkpoint {checkpoint} lacks {name} of the model to resume; build the model as the "
                "checkpoint's, or begin a new run in another output_dir."
            )


def _shape(config) -> list[dict] | None:
    if config is None:
        return None
    return [{name: value for name, value in part.to_dict().items() if name != "init"} for part in config.parts]
