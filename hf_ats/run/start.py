"""How every run starts: logging, seed, memory, the checkpoint to go on from, and room for the exports."""

import logging
from pathlib import Path

import transformers
from transformers import set_seed
from transformers.trainer_utils import get_last_checkpoint

from ..checkpoint import check_replaceable
from ..partition import names_of_levels
from ..training import ATSTrainingArguments, trained_levels
from .memory import keep_freed_memory


def start(args: ATSTrainingArguments, cores: int) -> None:
    """Set the process up for a run, and make its output directory.

    Args:
        args: the training arguments, of either trainer; `resume_from_checkpoint="True"` becomes the last checkpoint.
        cores: how many cores the model will have; 0 for one that is not partitioned.

    Raises:
        OSError, ValueError: there is no checkpoint to go on from, or something that no export wrote is where an
            export goes.
    """
    logging.basicConfig(level=logging.INFO if args.process_index == 0 else logging.ERROR, format="%(message)s")
    for client in ("httpx", "httpx2"):  # whose line for every request to the Hub helps nobody
        logging.getLogger(client).setLevel(logging.WARNING)
    transformers.utils.logging.set_verbosity(args.get_process_log_level())
    set_seed(args.seed)
    if args.device.type == "cpu":
        keep_freed_memory()
    find_checkpoint(args)
    output_dir = Path(args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    names = names_of_levels(cores)
    for level in trained_levels(args.schedule, len(names)):
        check_replaceable(output_dir / names[level])


def find_checkpoint(args: ATSTrainingArguments) -> None:
    """Make `--resume_from_checkpoint True` the last checkpoint in the output directory, and check any other."""
    given = args.resume_from_checkpoint
    if given is None:
        return
    if given.lower() != "true":
        if not Path(given).is_dir():
            raise ValueError(f"--resume_from_checkpoint {given} is not a directory; give a checkpoint-N, or True.")
        return
    args.resume_from_checkpoint = get_last_checkpoint(args.output_dir) if Path(args.output_dir).is_dir() else None
    if args.resume_from_checkpoint is None:
        raise ValueError(
            f"--resume_from_checkpoint {given}, but {args.output_dir} holds no checkpoint-N; leave it out to train "
            "from the start, or give the directory of a checkpoint."
        )
