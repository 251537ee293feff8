"""A whole run of translation training, as the training script does it: flags, preparation, report."""

from .flags import DataArguments, ModelArguments, PartitionArguments, parse_flags
from .preparation import Run, prepare
from .report import report

__all__ = ["DataArguments", "ModelArguments", "PartitionArguments", "Run", "parse_flags", "prepare", "report"]
