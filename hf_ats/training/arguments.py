"""The training arguments: those of Transformers, and what alternating training adds."""

import json
import math
import re
import sys
from dataclasses import MISSING, dataclass, field, fields

from transformers import Seq2SeqTrainingArguments, TrainingArguments
from transformers.trainer_utils import HubStrategy

from ..data import COUNTS
from .schedules import SCHEDULES, highest_level

_HUB_STRATEGY_HELP = (
    "When --push_to_hub publishes. 'end': both networks, when training is over; transformers' other choices would "
    "publish the partitioned model."
)


# Counts that have no meaning below 1. Most of them are used for the first time when a model is evaluated.
_POSITIVE = (
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "eval_accumulation_steps",
    "generation_max_length",
    "generation_num_beams",
    "criteria_steps",
)
# Where a number may lie, for fields of which PyTorch would say so only when training begins, or nobody.
_RANGES = {
    "learning_rate": (0, math.inf),
    "weight_decay": (0, math.inf),
    "adam_beta1": (0, 1),
    "adam_beta2": (0, 1),
    "adam_epsilon": (0, math.inf),
    "label_smoothing_factor": (0, 1),
    "neftune_noise_alpha": (0, math.inf),
}


def refuse_no_training(args: TrainingArguments) -> None:
    """Refuse a training without a step, of which an untrained network would be exported.

    Raises:
        ValueError: `max_steps`, or without it `num_train_epochs`, leaves nothing to train.
    """
    if args.max_steps == 0 or (args.max_steps < 0 and args.num_train_epochs <= 0):
        raise ValueError(
            f"max_steps={args.max_steps} and num_train_epochs={args.num_train_epochs:g} train nothing; write one of "
            "them, such as num_train_epochs=3."
        )


def _check_object(name: str, text: str) -> None:
    try:
        valid = isinstance(json.loads(text), dict)
    except ValueError:
        valid = False
    if not valid:
        raise ValueError(f'{name}={text!r} is not a JSON object; write one such as {{"name": 1}}.')


def refuse_hub_strategy(args: TrainingArguments) -> None:
    """Refuse to publish intermediate checkpoints: partitioned models, which nobody could load from the Hub (law 9).

    Raises:
        ValueError: `push_to_hub` is on, and `hub_strategy` would publish them.
    """
    if args.push_to_hub and HubStrategy(args.hub_strategy) != HubStrategy.END:
        raise ValueError(
            f"hub_strategy={HubStrategy(args.hub_strategy).value!r} publishes checkpoints during training, which hold "
            "the partitioned model and neither of its networks; write hub_strategy='end', under which push_to_hub() "
            "publishes both when training is over."
        )


# Fields of a base class that comes last in the method resolution order stand first, for example in a command's help;
# as they are keyword-only, `output_dir` stays the first positional argument.
@dataclass(kw_only=True)
class _AlternatingArguments:
    _argument_group_name = "the training: the fields of hf_ats, then those of transformers"

    schedule: str = field(
        default="alternating",
        metadata={
            "help": "Which network each optimizer step trains. 'alternating': even steps the full network, odd steps "
            "its core (over a ladder, full and the cores in turn); 'core' or 'full': only that one; 'slimmable': "
            "every network in every step, gradients summed; 'random': one network, drawn from the seed and the step; "
            "'sandwich': full, the smallest core and one drawn between them, gradients summed.",
            "choices": list(SCHEDULES),
        },
    )
    schedule_pattern: list[str] | None = field(
        default=None,
        metadata={
            "help": "The levels that the optimizer steps train in turn, over and over, in place of --schedule "
            "alternating, which is 'full core': 'core full' begins with the core, 'full full core' takes two full "
            "steps to one of the core; a ladder's levels are core, level1, level2, ..., full."
        },
    )
    # A number, or "auto"; the parser of Transformers would take `float | str` for a number alone.
    alternate_lr_coef: str = field(
        default=1.0,
        metadata={
            "help": "Factor on the learning rate of the steps that train a core (Table 4; the paper uses 1). 'auto' "
            "follows alpha_t of Theorem 1: the least of the last 5 measurements, from 0.1 to 1, of each core; it "
            "measures every 50 steps unless --criteria_steps says otherwise."
        },
    )
    criteria_steps: int | None = field(
        default=None,
        metadata={
            "help": "Measure the criteria of Theorem 1 (c_norm, c_sim, c_align, alpha, q, and the cosine of core and "
            "full gradients) every so many steps, on the first examples of the evaluation set, else of the training "
            "set, into the logs and OUTPUT_DIR/criteria.jsonl. The training is the same with and without."
        },
    )
    warmup_init_lr: float | None = field(
        default=None,
        metadata={
            "help": "Learning rate of the first step, from which --lr_scheduler_type inverse_sqrt warms up to "
            "--learning_rate over --warmup_steps (Table 4); a negative one is taken for 0, as in fairseq."
        },
    )
    weight_decay_on: str = field(
        default="weights",
        metadata={
            "help": "What --weight_decay applies to. 'weights': the Trainer's rule, no biases and no layer norms; "
            "'all': every parameter, as in fairseq.",
            "choices": ["weights", "all"],
        },
    )

    def changed_fields(self) -> dict:
        """Return the fields that were given a value other than their default, JSON-ready, for the report of a run.

        Secrets (`hub_token`, ...) are left out, and so is `output_dir`, which has no default.
        """
        return {name: getattr(value, "value", value) for name, value in self._given.items()}

    def _note_given(self):
        if self.alternate_lr_coef != "auto":
            try:
                self.alternate_lr_coef = float(self.alternate_lr_coef)
            except (TypeError, ValueError):
                raise ValueError(
                    f"alternate_lr_coef={self.alternate_lr_coef!r} is neither a number nor 'auto'; write one of them."
                ) from None
        self._given = {}
        for field_ in fields(self):
            default = field_.default_factory() if field_.default_factory is not MISSING else field_.default
            value = getattr(self, field_.name)
            if value != default and field_.name != "output_dir" and not field_.name.endswith("_token"):
                self._given[field_.name] = value

    def _check_numbers(self):
        """Refuse numbers that no training can go by, of all fields, before anything is begun."""
        if self.seed is None:
            raise ValueError("seed=None is not a number; write one, or leave it out for 42.")
        for name in (field_.name for field_ in fields(self)):
            value = getattr(self, name)
            # Norms that are clipped at infinity are logged as they are; steps may end what epochs do not.
            infinite = ("max_grad_norm", *(["num_train_epochs"] if self.max_steps > 0 else []))
            if isinstance(value, float) and not math.isfinite(value) and not (name in infinite and value > 0):
                raise ValueError(f"{name}={value} is not a number that training can go by; write a finite one.")
        for name in _POSITIVE:
            value = getattr(self, name, None)
            if value is not None and not 1 <= value <= sys.maxsize:
                raise ValueError(f"{name}={value} is not a count; write 1 or more, or leave it out.")
        for name, (least, limit) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not least <= value < limit:
                limits = f"{least} or more" + ("" if limit == math.inf else f", and less than {limit}")
                raise ValueError(f"{name}={value} is out of its range; write {limits}.")
        if self.optim_args and not all("=" in word for word in self.optim_args.split(",")):
            raise ValueError(f"optim_args={self.optim_args!r} is no list such as 'momentum=0.9,nesterov=True'.")
        for name in self._VALID_DICT_FIELDS:
            value = getattr(self, name)
            # Others than these may name a file.
            if isinstance(value, str) and (value.startswith("{") or name.endswith("_kwargs")):
                _check_object(name, value)

    def _check_alternating(self):
        self._take_pattern()
        if self.alternate_lr_coef == "auto":
            self.criteria_steps = 50 if self.criteria_steps is None else self.criteria_steps
        elif not self.alternate_lr_coef > 0:
            raise ValueError(
                f"alternate_lr_coef={self.alternate_lr_coef} must be positive; to train only the full network write "
                "schedule='full'."
            )
        if self.weight_decay_on not in ("weights", "all"):
            raise ValueError(f"weight_decay_on={self.weight_decay_on!r} is not known; write 'weights' or 'all'.")
        self._check_warmup()
        refuse_hub_strategy(self)
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
            self.metric_for_best_model = f"{highest_level(self.schedule)}_loss"

    def _take_pattern(self):
        """Make a pattern the schedule: the words that name its levels."""
        if self.schedule_pattern is not None:
            given = self.schedule_pattern
            words = " ".join([given] if isinstance(given, str) else given).split()
            if not words:
                raise ValueError(f"schedule_pattern={given!r} has no step; name levels, such as 'full full core'.")
            if self.schedule not in ("alternating", " ".join(words)):
                raise ValueError(
                    f"schedule={self.schedule!r} and schedule_pattern={given!r} are two schedules; leave one out."
                )
            self.schedule = " ".join(words)
        words = self.schedule.split() or [""]
        if self.schedule not in SCHEDULES and not all(re.fullmatch(r"core|full|level\d+", word) for word in words):
            raise ValueError(
                f"schedule={self.schedule!r} is not known; write one of {', '.join(SCHEDULES)}, or names of levels in "
                "turn, such as 'full full core'."
            )

    def _check_warmup(self):
        given = f"warmup_init_lr={self.warmup_init_lr}"
        if self.warmup_init_lr is None:
            return
        if self.lr_scheduler_type != "inverse_sqrt":
            raise ValueError(
                f"{given} starts the warm-up of lr_scheduler_type='inverse_sqrt', and this is "
                f"{getattr(self.lr_scheduler_type, 'value', self.lr_scheduler_type)!r}; write that type, or leave "
                "warmup_init_lr out."
            )
        if self.lr_scheduler_kwargs:
            raise ValueError(
                f"{given} is fairseq's schedule, which takes nothing else; leave lr_scheduler_kwargs="
                f"{self.lr_scheduler_kwargs} or warmup_init_lr out."
            )
        # A share of all steps if it is below 1; transformers 4 has `warmup_ratio` for that.
        if not (self.warmup_steps or getattr(self, "warmup_ratio", None)):
            raise ValueError(
                f"{given} needs steps to warm up in; write warmup_steps=4000, or leave warmup_init_lr out."
            )
        if not self.warmup_init_lr <= self.learning_rate:
            raise ValueError(
                f"{given} is more than learning_rate={self.learning_rate}, which a warm-up ends at; write less."
            )


@dataclass
class ATSTrainingArguments(TrainingArguments, _AlternatingArguments):
    """The arguments of `transformers.TrainingArguments`, and those of alternating training.

    Args:
        schedule (`str`, defaults to `"alternating"`): which network each optimizer step trains. `"alternating"`: even
            steps the full network, odd steps its core (Algorithm 2); over a ladder, the full network and the cores in
            turn. `"core"`, `"full"`: only that one. `"slimmable"`: every network in every step, gradients summed.
            `"random"`: one network in each step, drawn uniformly as a function of `seed` and the step. `"sandwich"`:
            the full network and the smallest core in every step, and one between them, drawn likewise (Yu and Huang,
            2019); with one core this is `"slimmable"`. Names of levels are a pattern: `"full full core"`.
        schedule_pattern (`list[str]`, *optional*): the levels that the steps train in turn, which become `schedule`:
            `["full", "full", "core"]`. `"alternating"` is `["full", "core"]`.
        alternate_lr_coef (`float` or `"auto"`, defaults to 1.0): factor on the learning rate of every step that trains
            only cores (Table 4). `slimmable` and `sandwich` have no such step. `"auto"` is for each core a running
            lower bound of the `alpha_t` of Theorem 1: the least of its last 5 measurements, but not below 0.1, which
            is also what an undefined one counts. It sets `criteria_steps` to 50 if that is left out.
        criteria_steps (`int`, *optional*): measure the criteria of Theorem 1 before the first step and after every so
            many, for each level below the full one, on one batch, half of a micro-batch: the first examples of the
            evaluation set, or of the training set if there is none. They go into the logs (`alpha_core`, ...) and into
            `criteria.jsonl` in `output_dir`, by block of the model too, and do not change the training.
        warmup_init_lr (`float`, *optional*): learning rate of the first step, from which it rises linearly, reaching
            `learning_rate` after `warmup_steps` (Table 4). Only for `lr_scheduler_type="inverse_sqrt"`, whose warm-up
            starts at 0 if this is left out. A negative one is taken for 0, as the code base behind the paper does.
        weight_decay_on (`str`, defaults to `"weights"`): what `weight_decay` applies to. `"weights"`: the Trainer's
            rule, which leaves out biases and layer norms. `"all"`: every parameter that is trained, as the code base
            behind the paper does.

    Changed defaults: `ddp_find_unused_parameters` is False; `metric_for_best_model` names the full network's loss
    (`"full_loss"`), since every metric carries its level; `hub_strategy` is `"end"`, the only choice.

    Raises:
        ValueError: an argument is not finite or out of its range, or would break the independence of the loss from how
            a batch is cut.
    """

    hub_strategy: HubStrategy | str = field(default="end", metadata={"help": _HUB_STRATEGY_HELP})

    def __post_init__(self):
        self._note_given()
        self._check_numbers()
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
    max_tokens_counts: str = field(
        default="both",
        metadata={
            "help": "What --max_tokens counts. 'both': padded source and target together; 'longest': the longer of "
            "the two, as in fairseq.",
            "choices": list(COUNTS),
        },
    )


@dataclass
class ATSSeq2SeqTrainingArguments(Seq2SeqTrainingArguments, _TokenBudgetArguments, _AlternatingArguments):
    """The arguments of `transformers.Seq2SeqTrainingArguments`, what `ATSTrainingArguments` adds, and a token budget.

    Args:
        max_tokens (`int`, *optional*): make training batches by a budget of tokens instead of a number of sentences:
            on each process, the number of sentences times the padded source and target length together is at most
            this. Replaces `per_device_train_batch_size`.
        max_tokens_counts (`str`, defaults to `"both"`): `"longest"` counts the longer one of the padded source and
            target instead of their sum, as the code base behind the paper does: up to twice as many sentences.
    """

    hub_strategy: HubStrategy | str = field(default="end", metadata={"help": _HUB_STRATEGY_HELP})

    def __post_init__(self):
        self._note_given()
        self._check_numbers()
        self._check_alternating()
        if self.max_tokens is not None and self.max_tokens <= 0:
            raise ValueError(f"max_tokens={self.max_tokens} must be positive; leave it out for batches of sentences.")
        if self.max_tokens_counts not in COUNTS:
            raise ValueError(
                f"max_tokens_counts={self.max_tokens_counts!r} is not known; write {' or '.join(map(repr, COUNTS))}."
            )
        super().__post_init__()
