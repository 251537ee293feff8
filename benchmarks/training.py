r"""Measure what a training step costs: the stock model's, the full network's, its core's, and both in one step.

    python -m benchmarks.training
    python -m benchmarks.training --architecture tiny --vocab_size 2000 --batch_tokens 4096 --dtype bfloat16
    python -m benchmarks.training --device cuda --dtype bfloat16 --batch_tokens 12000 --compile \
        --output benchmarks/results/training-h200.json

All steps run in one process in turns, over the same batches with the same optimizer, so that what drifts on the
machine hits all of them alike; quote the ratios. The steps:

    stock step            a MarianMTModel of transformers with the stock Trainer's loss, nothing of this package
    stock step, our loss  the same model with the loss of our trainers, to tell what is the loss's and what is not
    full step, core step  the partitioned model at its two levels
    slimmable step        both levels in one step, gradients summed
    alternating mean      the mean of a full and a core step, the price of a step of alternating training

`limit` is what the ratio would be if time were proportional to floating-point operations. Peak memory is measured in
a process for each.
"""

import contextlib
from dataclasses import asdict, dataclass, field

import torch
from torch import nn
from transformers import MarianMTModel
from transformers.trainer_pt_utils import LabelSmoother

from hf_ats.evaluation import ratio, spread, time_in_turns
from hf_ats.partition import FlopsLedger, PartitionConfig, at_level, blank_sentences, partition_
from hf_ats.run import keep_freed_memory
from hf_ats.training import label_smoothed_cross_entropy, levels_at_step

from .command import run_command
from .memory import peak_memory
from .profiles import profile_shares
from .record import build_record
from .workload import build_untrained, random_batch

STOCK = "stock step"
STOCK_OUR_LOSS = "stock step, our loss"
FULL = "full step"
CORE = "core step"
SLIMMABLE = "slimmable step"
ALTERNATING = "alternating mean"
_LEVELS = {FULL: ("full",), CORE: ("core",), SLIMMABLE: ("core", "full")}


@dataclass
class TrainingBenchmark:
    """What to measure. A step is forward, loss, backward, clipping of the gradients to norm 1, and AdamW."""

    architecture: str = field(default="iwslt", metadata={"help": "tiny, iwslt or wmt, the sizes of Table 4"})
    method: str = field(default="rank", metadata={"help": "of the core: rank or width", "choices": ["rank", "width"]})
    ratios: list[float] = field(default_factory=lambda: [0.03125], metadata={"help": "rank or width of the core"})
    vocab_size: int = field(default=10_000, metadata={"help": "entries of the joint vocabulary"})
    batch_tokens: int = field(
        default=4_000, metadata={"help": "tokens of a batch, source and target together; no padding"}
    )
    length: int = field(default=25, metadata={"help": "tokens of each sentence, on both sides"})
    dtype: str = field(
        default="float32",
        metadata={
            "help": "float32, or bfloat16: autocast, as the Trainer's --bf16",
            "choices": ["float32", "bfloat16"],
        },
    )
    attn_implementation: str = field(default="sdpa", metadata={"help": "sdpa, eager, ... as from_pretrained has it"})
    label_smoothing: float = field(default=0.1, metadata={"help": "of the loss"})
    dropout: float | None = field(default=None, metadata={"help": "by default the architecture's"})
    compile: bool = field(default=False, metadata={"help": "torch.compile for every model"})
    device: str = field(default="cpu", metadata={"help": "cpu or cuda"})
    rounds: int = field(default=12, metadata={"help": "how often each step is timed"})
    memory: bool = field(default=True, metadata={"help": "also peak memory, each in a process of its own"})
    profile: bool = field(default=True, metadata={"help": "also what the time of a step goes into"})
    seed: int = field(default=0, metadata={"help": "of weights and batches"})
    keep_freed_memory: bool = field(
        default=True, metadata={"help": "on a CPU keep freed memory for the next step, as train_translation.py does"}
    )

    def __post_init__(self):
        if self.batch_tokens < 2 * self.length:
            raise ValueError(
                f"batch_tokens={self.batch_tokens} holds no pair of {self.length} and {self.length} tokens; raise it "
                "or lower length."
            )

    @property
    def sentences(self) -> int:
        """Sentence pairs of a batch."""
        return self.batch_tokens // (2 * self.length)


def run_training_benchmark(settings: TrainingBenchmark) -> dict:
    """Measure, and return the record (`build_record`).

    Before anything is timed, the full network's loss is compared with the stock model's.

    Raises:
        ValueError: the two losses differ, so that the times would be of different things.
    """
    if settings.keep_freed_memory and settings.device == "cpu":
        keep_freed_memory()
    steps = TrainingSteps(settings)
    steps.check()
    timed = {name: lambda name=name: steps.run(name) for name in (STOCK, STOCK_OUR_LOSS, *_LEVELS)}
    seconds = time_in_turns(timed, settings.rounds, warmup=2, device=settings.device, progress="steps")
    seconds[ALTERNATING] = [(a + b) / 2 for a, b in zip(seconds[FULL], seconds[CORE], strict=True)]
    tokens = settings.sentences * 2 * settings.length
    measurements = {
        name: {"seconds": spread(values), "tokens_per_second": tokens / spread(values)["median"]}
        for name, values in seconds.items()
    }
    if settings.profile:
        for name in (STOCK, FULL, CORE):
            measurements[name]["profile"] = steps.profile(name)
    flops = steps.flops()
    for name, count in flops.items():
        measurements[name]["flops"] = count
    ratios = _ratios(seconds, flops)
    if settings.memory:
        peaks = {
            name: peak_memory(_train_a_little, settings, name, device=settings.device) for name in (STOCK, ALTERNATING)
        }
        for name, peak in peaks.items():
            measurements[name]["peak_bytes"] = peak
        ratios["peak memory, alternating / stock training"] = {"value": peaks[ALTERNATING] / peaks[STOCK]}
    return build_record(
        "training", settings=asdict(settings), measurements=measurements, ratios=ratios, device=settings.device
    )


def _ratios(seconds: dict[str, list[float]], flops: dict[str, int]) -> dict[str, dict]:
    pairs = [(FULL, STOCK), (CORE, STOCK), (ALTERNATING, STOCK), (ALTERNATING, SLIMMABLE), (STOCK_OUR_LOSS, STOCK)]
    ratios = {f"{a} / {b}": ratio(seconds[a], seconds[b]) | {"limit": flops[a] / flops[b]} for a, b in pairs}
    apart = [a + b for a, b in zip(seconds[STOCK], seconds[CORE], strict=True)]
    ratios[f"{ALTERNATING} / ({STOCK} + {CORE})"] = ratio(seconds[ALTERNATING], apart) | {
        "limit": flops[ALTERNATING] / (flops[STOCK] + flops[CORE])
    }
    return ratios


class TrainingSteps:
    """The models, their optimizers and the batches, ready to run any of the steps.

    Args:
        settings: what to build.
        only: the one kind of step that will be run; the models that it does not need are then not held.
    """

    def __init__(self, settings: TrainingBenchmark, only: str | None = None):
        self.settings = settings
        self.device = torch.device(settings.device)
        ours = build_untrained(
            settings.architecture, settings.vocab_size, seed=settings.seed, dropout=settings.dropout
        )
        ours.set_attn_implementation(settings.attn_implementation)
        ours.config.use_cache = False  # as the Trainer sets it
        self.models: dict[str, nn.Module] = {}
        if only in (None, STOCK, STOCK_OUR_LOSS):
            stock = MarianMTModel._from_config(ours.config, attn_implementation=settings.attn_implementation)
            stock.load_state_dict(ours.state_dict())
            self.models["stock"] = stock.train().to(self.device)
        if only not in (STOCK, STOCK_OUR_LOSS):
            self.models["ours"] = partition_(ours, PartitionConfig(settings.method, settings.ratios)).to(self.device)
        self.optimizers = {
            name: torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
            for name, model in self.models.items()
        }
        self._called = {
            name: torch.compile(model) if settings.compile else model for name, model in self.models.items()
        }
        generator = torch.Generator().manual_seed(settings.seed)
        self.batches = [
            random_batch(settings.sentences, settings.length, settings.vocab_size, generator, self.device)
            for _ in range(4)
        ]
        self._runs = 0

    def check(self) -> None:
        """Check that the full network computes what the stock model computes, and that both losses are the same."""
        losses = {}
        for name in (STOCK, FULL, STOCK_OUR_LOSS):
            model = self.models[self._key(name)].eval()
            with torch.no_grad():
                losses[name] = self._loss(name, self.batches[0]).item()
            model.train()
        # An untrained network of any kind is within a percent of the logarithm of the vocabulary.
        tolerance = 1e-5 if self.settings.dtype == "float32" else 1e-3
        if any(abs(loss / losses[STOCK] - 1) > tolerance for loss in losses.values()):
            raise ValueError(f"the losses differ, {losses}, so the steps are not of the same network.")

    def run(self, name: str) -> None:
        """Take one optimizer step."""
        batch = self.batches[self._runs % len(self.batches)]
        self._runs += 1
        key = self._key(name)
        for level in _LEVELS.get(name, (None,)):
            with self._level(level):
                self._loss(name, batch).backward()
        nn.utils.clip_grad_norm_(self.models[key].parameters(), 1.0)
        self.optimizers[key].step()
        self.optimizers[key].zero_grad(set_to_none=True)

    def profile(self, name: str) -> dict[str, float]:
        """Return the shares of a step's time, see `profile_shares`."""
        return profile_shares(lambda: self.run(name), self.settings.vocab_size, self.device)

    def flops(self) -> dict[str, int]:
        """Count the operations of the forward and backward pass of each step."""
        batch = blank_sentences(self.settings.sentences, self.settings.length, self.settings.length)
        stock = FlopsLedger(self.models["stock"]).training_flops(batch)
        ours = FlopsLedger(self.models["ours"])
        full, core = (ours.training_flops(batch, level) for level in ("full", "core"))
        return {
            STOCK: stock,
            STOCK_OUR_LOSS: stock,
            FULL: full,
            CORE: core,
            SLIMMABLE: full + core,
            ALTERNATING: (full + core) // 2,
        }

    def _loss(self, name: str, batch: dict) -> torch.Tensor:
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        with self._autocast():
            output = self._called[self._key(name)](**inputs)
        if name == STOCK:
            return LabelSmoother(self.settings.label_smoothing)(output, batch["labels"])
        return label_smoothed_cross_entropy(output, batch["labels"], label_smoothing=self.settings.label_smoothing)

    def _autocast(self):
        if self.settings.dtype == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def _level(self, level: str | None):
        return contextlib.nullcontext() if level is None else at_level(self.models["ours"], level)

    def _key(self, name: str) -> str:
        return "stock" if name in (STOCK, STOCK_OUR_LOSS) else "ours"


def _train_a_little(settings: TrainingBenchmark, name: str) -> None:
    """Take four steps, over which the peak of memory is measured: of alternating training each kind twice."""
    steps = TrainingSteps(settings, only=name)
    for step in range(4):
        if name == ALTERNATING:
            (level,) = levels_at_step("alternating", step, num_levels=2)
            steps.run((CORE, FULL)[level])
        else:
            steps.run(name)


def main() -> None:
    """Measure what the command line asks for."""
    run_command(TrainingBenchmark, run_training_benchmark, __doc__)


if __name__ == "__main__":
    main()
