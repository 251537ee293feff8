"""A whole run of translation training, as the training script does it: flags, preparation, report."""

from .flags import DataArguments, ModelArguments, PartitionArguments, parse_flags
from .memory import keep_freed_memory
from .preparation import Run, prepare
from .report import report

__all__ = [
    "DataArguments",
    "ModelArguments",
    "PartitionArguments",
    "Run",
    "keep_freed_memory",
    "parse_flags",
    "prepare",
    "report",
]
