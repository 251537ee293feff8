"""The training arguments: those of Transformers, and what alternating training adds."""

from dataclasses import MISSING, dataclass, field, fields

from transformers import Seq2SeqTrainingArguments, TrainingArguments

from .schedules import SCHEDULES


# Fields of a base class that comes last in the method resolution order stand first, in a command's help for one;
# being keyword-only they leave `output_dir` the first positional argument.
@dataclass(kw_only=True)
class _AlternatingArguments:
    _argument_group_name = "the training: the fields of hf_ats, then those of transformers"

    schedule: str = field(
        default="alternating",
        metadata={
            "help": "Which network each optimizer step trains. 'alternating': even steps the full network, odd steps "
            "its core (over a ladder, full and the cores in turn); 'core' or 'full': that one alone; 'slimmable': "
            "every network in every step, gradients summed.",
            "choices": list(SCHEDULES),
        },
    )
    alternate_lr_coef: float = field(
        default=1.0,
        metadata={"help": "Factor on the learning rate of the steps that train a core (Table 4; the paper uses 1)."},
    )

    def changed_fields(self) -> dict:
        """The fields that were given a value other than their default, JSON-ready: what a report of a run has to name.

        Secrets (`hub_token`, ...) are left out, and so is `output_dir`, which has no default.
        """
        return {name: getattr(value, "value", value) for name, value in self._given.items()}

    def _note_given(self):
        self._given = {}
        for one in fields(self):
            default = one.default_factory() if one.default_factory is not MISSING else one.default
            value = getattr(self, one.name)
            if value != default and one.name != "output_dir" and not one.name.endswith("_token"):
                self._given[one.name] = value

    def _check_alternating(self):
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule={self.schedule!r} is not known; write one of {', '.join(SCHEDULES)}.")
        if not self.alternate_lr_coef > 0:
            raise ValueError(
                f"alternate_lr_coef={self.alternate_lr_coef} must be positive; to train the full network alone write "
                "schedule='full'."
            )
        if not getattr(self, "average_tokens_across_devices", True):
            raise ValueError(
                "average_tokens_across_devices=False makes the loss depend on how a batch is cut between processes; "
                "leave it at True."
            )
        # Only full steps go through DDP's own reduction, and there every parameter has a gradient: the search for
        # unused ones would walk the graph of every step for nothing.
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = False
        # Evaluation names its metrics by level, so the Trainer's default of plain "loss" would never be found.
        if self.metric_for_best_model is None and (
            self.load_best_model_at_end or self.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy")
        ):
            self.metric_for_best_model = "core_loss" if self.schedule == "core" else "full_loss"


@dataclass
class ATSTrainingArguments(TrainingArguments, _AlternatingArguments):
    """The arguments of `transformers.TrainingArguments`, and those of alternating training.

    Args:
        schedule (`str`, defaults to `"alternating"`): which network each optimizer step trains. `"alternating"`: even
            steps the full network, odd steps its core (Algorithm 2); over a ladder, the full network and the cores in
            turn. `"core"`, `"full"`: that one alone. `"slimmable"`: every network in every step, gradients summed.
        alternate_lr_coef (`float`, defaults to 1.0): factor on the learning rate of every step that trains a core
            alone (Table 4). `slimmable` has no such step.

    Changed defaults: `ddp_find_unused_parameters` is False, and `metric_for_best_model` names the full network's
    loss (`"full_loss"`), since every metric carries its level.

    Raises:
        ValueError: an argument is out of its range, or would break the independence of the loss from how a batch is
            cut.
    """

    def __post_init__(self):
        self._note_given()
        self._check_alternating()
        super().__post_init__()


@dataclass(kw_only=True)
class _TokenBudgetArguments:
    max_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Training batches by token budget: sentences x (padded source + padded target length) per process "
            "and micro-batch is at most this. Replaces per_device_train_batch_size."
        },
    )


@dataclass
class ATSSeq2SeqTrainingArguments(Seq2SeqTrainingArguments, _TokenBudgetArguments, _AlternatingArguments):
    """The arguments of `transformers.Seq2SeqTrainingArguments`, what `ATSTrainingArguments` adds, and a token budget.

    Args:
        max_tokens (`int`, *optional*): make training batches by a budget of tokens instead of a number of sentences:
            on each process, the number of sentences times the padded source and target length together is at most
            this. Replaces `per_device_train_batch_size`.
    """

    def __post_init__(self):
        self._note_given()
        self._check_alternating()
        if self.max_tokens is not None and self.max_tokens <= 0:
            raise ValueError(f"max_tokens={self.max_tokens} must be positive; leave it out for batches of sentences.")
        super().__post_init__()
