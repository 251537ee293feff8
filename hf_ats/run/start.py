"""How every run starts: logging, seed, memory, the checkpoint to go on from, the partition, and where exports go."""

import logging
from dataclasses import dataclass
from pathlib import Path

import transformers
from transformers import set_seed
from transformers.trainer_utils import get_last_checkpoint

from ..checkpoint import check_replaceable
from ..partition import PartitionConfig, names_of_levels
from ..training import ATSTrainingArguments, trained_levels
from .memory import keep_freed_memory


@dataclass
class Start:
    """What is known of a run before its data and its model are there."""

    arguments: dict  # those of the training that differ from their defaults
    partition: PartitionConfig | None  # None also where an adapter brings it
    directories: dict[str, Path]  # of the exports, by level


def start(args: ATSTrainingArguments, partition_args, from_adapter: bool = False) -> Start:
    """Sets the process up for a run, and makes its output directory.

    Args:
        args: the training arguments, of either trainer; `resume_from_checkpoint="True"` becomes the last checkpoint.
        partition_args: the fields of `PartitionConfig`, where `method` may also be `"none"`.
        from_adapter: whether an adapter brings the partition, of one core, in their place.

    Raises:
        OSError, ValueError: there is no checkpoint to go on from, the partition is wrong, or something that no export
            wrote is where an export goes.
    """
    logging.basicConfig(level=logging.INFO if args.process_index == 0 else logging.ERROR, format="%(message)s")
    for client in ("httpx", "httpx2"):  # whose line for every request to the Hub is for nobody
        logging.getLogger(client).setLevel(logging.WARNING)
    transformers.utils.logging.set_verbosity(args.get_process_log_level())
    set_seed(args.seed)
    if args.device.type == "cpu":
        keep_freed_memory()
    find_checkpoint(args)
    arguments = args.changed_fields()
    if from_adapter or partition_args.method == "none":
        partition, names = None, names_of_levels(1) if from_adapter else ["full"]
    else:
        partition = PartitionConfig.from_flags(**vars(partition_args))
        names = names_of_levels(partition.num_cores)
    output_dir = Path(args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    directories = {names[level]: output_dir / names[level] for level in trained_levels(args.schedule, len(names))}
    for directory in directories.values():
        check_replaceable(directory)
    return Start(arguments, partition, directories)


def find_checkpoint(args: ATSTrainingArguments) -> None:
    """Makes `--resume_from_checkpoint True` the last checkpoint in the output directory, and checks any other."""
    given = args.resume_from_checkpoint
    if given is None:
        return
    if given.lower() != "true":
        if not Path(given).is_dir():
            raise ValueError(f"--resume_from_checkpoint {given} is no directory; give a checkpoint-N, or True.")
        return
    args.resume_from_checkpoint = get_last_checkpoint(args.output_dir) if Path(args.output_dir).is_dir() else None
    if args.resume_from_checkpoint is None:
        raise ValueError(
            f"--resume_from_checkpoint {given}, but {args.output_dir} holds no checkpoint-N; leave it out to train "
            "from the start, or give the directory of a checkpoint."
        )
