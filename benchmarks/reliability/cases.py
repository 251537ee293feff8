"""What a trial of bad input is: a command in a copy of the material, and what would be right."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .material import SIZES, TRAINING

STEPS = "--max_steps 2 --save_strategy steps --save_steps 1 --eval_strategy steps --eval_steps 1 --logging_steps 1"
PREFIXES = " ".join(f"--{part}_prefix corpus/{part}" for part in ("train", "validation", "test"))
RATIOS = "--ratios 0.25"
LIKE_RUN = (
    f"{SIZES} {RATIOS} {TRAINING} {STEPS} --max_steps 4 --save_steps 2 --eval_steps 2 --predict_with_generate "
    "--lr_scheduler_type constant"
)
"""How the run of the material was trained, beside its corpus; its steps are the same when more follow them."""

BASES = {
    "train": f"--output_dir new {SIZES} {RATIOS} {TRAINING} {STEPS} --predict_with_generate {PREFIXES}",
    "translate": "--model run/core --input text.de",
    "evaluate": "--model run/core --test_prefix corpus/test",
    "export": "--checkpoint run/checkpoint-4 --output_dir out",
    "choose": "--run run --max_parameters 1M --output_dir out",
    "compare": "run/results.json",
    "report": "run",
    "push": "run --name numbers --license mit --dry_run out",
}
"""By command, words with which it succeeds in a copy of the material."""


@dataclass(frozen=True)
class Case:
    """Something bad that a command is given.

    Attributes:
        kind: the row of the table.
        name: what is bad; unique with the kind and the command.
        command: a name of `hf_ats_command.COMMANDS`.
        words: the words after it.
        prepare: what makes the copy of the material bad.
        right: `"refuse"`: a sentence; `"accept"`: a sound result; `"either"` of them; `"same"`: a sentence, or what
            the command does with the material as it was.
        damaged: the file that `prepare` changed, which is not compared.
    """

    kind: str
    name: str
    command: str
    words: tuple[str, ...]
    prepare: Callable[[Path], None] | None = field(default=None, compare=False)
    right: str = "refuse"
    damaged: str | None = None

    @property
    def title(self) -> str:
        """What the case is called in the record."""
        return f"{self.kind}: {self.command}, {self.name}"


def base_words(command: str, without: str = "") -> list[str]:
    """Return the words with which a command succeeds, but for some flags and their values."""
    dropped = without.split()
    kept, keep = [], True
    for word in BASES[command].split():
        keep = word not in dropped if word.startswith("--") else keep
        kept += [word] if keep else []
    return kept
