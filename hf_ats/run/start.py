"""How every run starts: logging, seed, memory, the checkpoint to go on from, and room for the exports."""

import logging
import re
import tempfile
import time
from pathlib import Path

import torch
import transformers
from transformers import set_seed

from ..checkpoint import check_replaceable
from ..partition import names_of_levels
from ..results import RESULTS
from ..storage import CHECKPOINT, check_checkpoint, checkpoints_in, last_checkpoint, read_checkpoint, remove_drafts
from ..training import ATSTrainingArguments, refuse_another_training, refuse_no_training, trained_levels
from .memory import keep_freed_memory

logger = logging.getLogger(__name__)


def start(args: ATSTrainingArguments, cores: int, settings: dict | None = None) -> None:
    """Set the process up for a run, and make its output directory.

    Args:
        args: the training arguments, of either trainer; `resume_from_checkpoint="True"` becomes the last checkpoint.
        cores: how many cores the model will have; 0 for one that is not partitioned.
        settings: what the flags beside the training arguments say, compared with those of a checkpoint.

    Raises:
        OSError, ValueError: there is nothing to train, or no whole checkpoint to go on from; the directory cannot be
            written to, or holds an earlier run that this one does not go on with, or something that no export wrote
            where an export goes.
    """
    logging.basicConfig(level=logging.INFO if args.process_index == 0 else logging.ERROR, format="%(message)s")
    for client in ("httpx", "httpx2"):  # whose line for every request to the Hub helps nobody
        logging.getLogger(client).setLevel(logging.WARNING)
    transformers.utils.logging.set_verbosity(args.get_process_log_level())
    refuse_no_training(args)
    if not args.output_dir:
        raise ValueError("--output_dir '' names no directory; give one.")
    set_seed(args.seed)
    if args.device.type == "cpu":
        keep_freed_memory()
        warn_of_slow_halves(args)
    output_dir = Path(args.output_dir)
    if args.local_process_index == 0:
        remove_drafts(output_dir)
    find_checkpoint(args)
    if args.resume_from_checkpoint is not None:
        refuse_another_training(args.resume_from_checkpoint, args)
        compare_settings(args.resume_from_checkpoint, settings or {})
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir):
            pass
    except OSError as error:
        raise OSError(
            f"--output_dir {output_dir} cannot be written to ({error.strerror}); give a directory that can be made."
        ) from error
    refuse_earlier_run(args)
    names = names_of_levels(cores)
    for level in trained_levels(args.schedule, len(names)):
        check_replaceable(output_dir / names[level])


def warn_of_slow_halves(args: ATSTrainingArguments) -> None:
    """Log a warning if a flag asks for numbers of 16 bits, and this CPU is slower with them than with float32.

    What PyTorch says of a CPU does not tell: it calls bfloat16 supported where it has to be emulated.
    """
    for flag, dtype in (
        ("bf16", torch.bfloat16),
        ("bf16_full_eval", torch.bfloat16),
        ("fp16_full_eval", torch.float16),
    ):
        if getattr(args, flag):
            seconds, full = product_seconds(dtype), product_seconds(torch.float32)
            if seconds > 2 * full:
                logger.warning(
                    "--%s: this CPU takes %.1f times as long for a matrix product in %s as in float32 (measured, %.2g "
                    "against %.2g ms); leave the flag out, or write --%s false if a recipe has it.",
                    flag, seconds / full, str(dtype).removeprefix("torch."), 1e3 * seconds, 1e3 * full, flag,
                )  # fmt: skip


def product_seconds(dtype: torch.dtype) -> float:
    """Return how long a product of two matrices of 256 x 256 takes on the CPU, the shortest of five."""
    matrix = torch.ones(256, 256, dtype=dtype)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def find_checkpoint(args: ATSTrainingArguments) -> None:
    """Make `--resume_from_checkpoint` the directory of a checkpoint: True and a run's folder mean its last one."""
    given = args.resume_from_checkpoint
    if given is None:
        return
    path = Path(args.output_dir if given.lower() == "true" else given)
    if not path.is_dir():
        raise ValueError(
            f"--resume_from_checkpoint {given}: {path} is not a directory; give a checkpoint-N, True for the last one "
            "in --output_dir, or leave it out to train from the start."
        )
    is_checkpoint = (path / CHECKPOINT).exists() or re.fullmatch(r"checkpoint-\d+", path.name)
    args.resume_from_checkpoint = str(path if is_checkpoint else last_checkpoint(path))
    check_checkpoint(args.resume_from_checkpoint)


def refuse_earlier_run(args: ATSTrainingArguments) -> None:
    """Refuse to train from the start where another run has left something."""
    output_dir = Path(args.output_dir)
    left = [*checkpoints_in(output_dir), *(path for path in [output_dir / RESULTS] if path.exists())]
    if args.resume_from_checkpoint is None and left:
        raise ValueError(
            f"--output_dir {output_dir} holds {left[0].name} of an earlier run, which this one would overwrite; go on "
            "with it by --resume_from_checkpoint True, give another directory, or remove this one."
        )


# Without these a checkpoint is another model, or the same one read in another way.
_FIXED = (
    *("architecture", "layers", "width", "feed_forward", "heads", "vocab_size", "separate_vocabularies"),
    *("source_normalization_rule_name", "target_normalization_rule_name"),
    *("model_name_or_path", "adapter_name_or_path", "source_prefix"),
    *("source_lang", "target_lang", "tokenizer_source_lang", "tokenizer_target_lang"),
)


def compare_settings(checkpoint: str, settings: dict) -> None:
    """Refuse flags under which a checkpoint would be another model, and log what else differs from its run.

    Raises:
        ValueError: one of them differs; the message names both values.
    """
    before = read_checkpoint(checkpoint)["settings"]
    changed = {name: value for name, value in settings.items() if name in before and before[name] != value}
    for name, value in changed.items():
        if name in _FIXED and not _same_place(before[name], value):
            raise ValueError(
                f"--{name} is {_shown(value)}, and {_shown(before[name])} in the run of {checkpoint}; give the same, "
                "or begin a new run in another --output_dir."
            )
        logger.warning("--%s is %s instead of %s", name, _shown(value), _shown(before[name]))


def _same_place(one, other) -> bool:
    paths = isinstance(one, str) and isinstance(other, str) and Path(one).exists()
    return paths and Path(one).resolve() == Path(other).resolve()


def _shown(value) -> str:
    return "not given" if value is None else repr(value) if isinstance(value, str) else str(value)
