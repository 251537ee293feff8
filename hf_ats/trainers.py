"""The trainers that a user takes: alternating training, and the publication of its run, over Transformers' own."""

import contextlib

from transformers import Seq2SeqTrainer, Trainer

from .evaluation import decoding_threads
from .hub import PublishesRuns
from .training import AlternatingTraining, ATSSeq2SeqTrainingArguments, ATSTrainingArguments, TokenBudgetBatches


class ATSTrainer(AlternatingTraining, PublishesRuns, Trainer):
    """`transformers.Trainer` over a partitioned model: alternating training of a network and its cores.

    It takes what `Trainer` takes, with `ATSTrainingArguments`. It adds to the logs `loss_<level>`, `grad_norm_<level>`
    (not of steps that sum several levels' gradients, as under `slimmable`) and `learning_rate_<level>`, and evaluates
    every level that the schedule trains (`eval_core_loss`, `eval_full_loss`). With `criteria_steps` it measures how
    far the gradients of the networks agree (`alpha_<level>`, `cosine_<level>`, ..., and `criteria.jsonl`).

    The loss of a translation model is `label_smoothed_cross_entropy` per target token of the whole optimizer step, so
    that accumulation and the number of processes do not change the gradient (law 8; the stock loss of Marian does not
    keep it), and its evaluation loss is per target token of the whole set. A `compute_loss_func` of your own replaces
    both. Other models compute their own loss, as with `Trainer`.

    Raises:
        ValueError: at construction, for a launcher, argument or model under which a law would break: DeepSpeed, FSDP
            version 1 (version 2 is supported) and some options of version 2, nn.DataParallel, a model on several
            devices, layer dropping on several processes, an unpartitioned model with another schedule than `"full"`,
            `criteria_steps` of an unpartitioned model or under FSDP, a `metric_for_best_model` that names no trained
            level, `push_to_hub` of a model that does not translate; in `train`, for a checkpoint of another partition
            or criteria without a batch to measure them on; under FSDP, in `evaluate` and `predict` before `train`, and
            in a second `train`.
    """

    _arguments_class = ATSTrainingArguments


class ATSSeq2SeqTrainer(AlternatingTraining, TokenBudgetBatches, PublishesRuns, Seq2SeqTrainer):
    """`transformers.Seq2SeqTrainer` over a partitioned model: alternating training of a network and its cores.

    It takes what `Seq2SeqTrainer` takes, with `ATSSeq2SeqTrainingArguments`. It adds what `ATSTrainer` adds, and
    batches by token budget (`max_tokens`).

    Raises:
        ValueError: as `ATSTrainer`.

    Example:

    ```python
    >>> model = partition_(model, PartitionConfig(ratios=[0.03125]))
    >>> args = ATSSeq2SeqTrainingArguments(output_dir="out", schedule="alternating", max_tokens=4096)
    >>> ATSSeq2SeqTrainer(model, args, train_dataset=train, data_collator=collator).train()
    ```
    """

    _arguments_class = ATSSeq2SeqTrainingArguments

    def prediction_step(self, *positional, **keywords):
        """Predict as the Trainer does; on a CPU a small model decodes on one thread, see `decoding_threads`."""
        decodes = self.args.predict_with_generate
        with decoding_threads(self.model) if decodes else contextlib.nullcontext():
            return super().prediction_step(*positional, **keywords)
