"""Two translation models from one training run: a full network and its small core, trained in turns.

An implementation for Transformers of Mohtashami, Jaggi and Stich, "Masked Training of Neural Networks with Partial
Gradients" (AISTATS 2022). Importing it makes cores and `pipeline("translation")` known to transformers.
"""

from hf_ats.checkpoint import export_adapter, export_core, export_full, load_partitioned
from hf_ats.evaluation import input_moments
from hf_ats.partition import (
    PartitionConfig,
    SummedNetworks,
    at_level,
    num_levels,
    partition_,
    partition_from_adapter_,
    set_level,
)
from hf_ats.trainers import ATSSeq2SeqTrainer, ATSTrainer
from hf_ats.training import ATSSeq2SeqTrainingArguments, ATSTrainingArguments

__version__ = "0.3.0"

__all__ = [
    "ATSSeq2SeqTrainer",
    "ATSSeq2SeqTrainingArguments",
    "ATSTrainer",
    "ATSTrainingArguments",
    "PartitionConfig",
    "SummedNetworks",
    "at_level",
    "export_adapter",
    "export_core",
    "export_full",
    "input_moments",
    "load_partitioned",
    "num_levels",
    "partition_",
    "partition_from_adapter_",
    "set_level",
]
