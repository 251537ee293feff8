"""A whole run of translation training, as the training script does it: flags, preparation, report."""

from .flags import CardArguments, DataArguments, ModelArguments, PartitionArguments, parse_flags
from .memory import keep_freed_memory
from .preparation import Run, prepare
from .recipes import FlagParser, Recipe
from .report import report, report_trained
from .start import start

__all__ = [
    "CardArguments",
    "DataArguments",
    "FlagParser",
    "ModelArguments",
    "PartitionArguments",
    "Recipe",
    "Run",
    "keep_freed_memory",
    "parse_flags",
    "prepare",
    "report",
    "report_trained",
    "start",
]
