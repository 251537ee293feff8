"""How a super-network is trained: schedules, arguments, the trainers, and the reduction of core steps."""

from .arguments import ATSSeq2SeqTrainingArguments, ATSTrainingArguments
from .loss import label_smoothed_cross_entropy
from .reduction import all_reduce_gradients
from .refusals import refuse_another_partition
from .schedules import SCHEDULES, levels_at_step, trained_levels
from .trainer import ATSSeq2SeqTrainer, ATSTrainer

__all__ = [
    "SCHEDULES",
    "ATSSeq2SeqTrainer",
    "ATSSeq2SeqTrainingArguments",
    "ATSTrainer",
    "ATSTrainingArguments",
    "all_reduce_gradients",
    "label_smoothed_cross_entropy",
    "levels_at_step",
    "refuse_another_partition",
    "trained_levels",
]
