"""How a super-network is trained: schedules, arguments, the loss, and the trainer's part that alternates.

It knows nothing of results, cards, the Hub or command lines; `hf_ats.trainers` assembles the trainers that a user
takes.
"""

from .arguments import ATSSeq2SeqTrainingArguments, ATSTrainingArguments, refuse_no_training
from .criteria import CRITERIA
from .loss import label_smoothed_cross_entropy
from .reduction import all_reduce_gradients
from .refusals import refuse_another_model, refuse_another_training
from .schedules import SCHEDULES, levels_at_step, trained_levels
from .token_budget import TokenBudgetBatches
from .trainer import AlternatingTraining

__all__ = [
    "CRITERIA",
    "SCHEDULES",
    "ATSSeq2SeqTrainingArguments",
    "ATSTrainingArguments",
    "AlternatingTraining",
    "TokenBudgetBatches",
    "all_reduce_gradients",
    "label_smoothed_cross_entropy",
    "levels_at_step",
    "refuse_another_model",
    "refuse_another_training",
    "refuse_no_training",
    "trained_levels",
]
