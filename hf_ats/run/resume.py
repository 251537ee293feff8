"""What a run goes on from: which checkpoint, and whether the flags are those of its run."""

import logging
import re
from pathlib import Path

from ..results import RESULTS
from ..storage import CHECKPOINT, check_checkpoint, checkpoints_in, last_checkpoint, read_checkpoint
from ..training import ATSTrainingArguments

logger = logging.getLogger(__name__)

# Without these a checkpoint is another model, or the same one read in another way.
_FIXED = (
    *("architecture", "layers", "width", "feed_forward", "heads", "vocab_size", "separate_vocabularies"),
    *("source_normalization_rule_name", "target_normalization_rule_name"),
    *("model_name_or_path", "adapter_name_or_path", "calibration_sentences", "source_prefix"),
    *("source_lang", "target_lang", "tokenizer_source_lang", "tokenizer_target_lang"),
)


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
    if (path / CHECKPOINT).exists() or re.fullmatch(r"checkpoint-\d+", path.name):
        check_checkpoint(path)
    else:
        path = last_checkpoint(path)
    args.resume_from_checkpoint = str(path)


def refuse_earlier_run(args: ATSTrainingArguments) -> None:
    """Refuse to train from the start where another run has left something."""
    output_dir = Path(args.output_dir)
    left = [*checkpoints_in(output_dir), *(path for path in [output_dir / RESULTS] if path.exists())]
    if args.resume_from_checkpoint is None and left:
        raise ValueError(
            f"--output_dir {output_dir} holds {left[0].name} of an earlier run, which this one would overwrite; go on "
            "with it by --resume_from_checkpoint True, give another directory, or remove this one."
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
