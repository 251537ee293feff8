"""How every run starts: logging, seed, memory, the checkpoint to go on from, and room for the exports."""

import logging
import tempfile
import time
from pathlib import Path

import torch
import transformers
from transformers import set_seed

from ..checkpoint import check_replaceable
from ..partition import names_of_levels
from ..results import RESULTS
from ..storage import remove_drafts
from ..training import CRITERIA, ATSTrainingArguments, refuse_another_training, refuse_no_training, trained_levels
from .command import check_output
from .memory import keep_freed_memory
from .resume import compare_settings, find_checkpoint, refuse_earlier_run

logger = logging.getLogger(__name__)

# What the report writes, beside a file of translations for each network.
_FILES = (RESULTS, "report.html", "training.png", "trainer_state.json", CRITERIA)


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
    trained = [names[level] for level in trained_levels(args.schedule, len(names))]
    for name in trained:
        check_replaceable(output_dir / name)
    for name in (*_FILES, *(f"translations.{name}.txt" for name in trained)):
        check_output("--output_dir", output_dir / name)


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
