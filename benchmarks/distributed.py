r"""Measure what the steps of alternating training send between processes, and what that costs.

    python -m benchmarks.distributed
    python -m benchmarks.distributed --architecture tiny --vocab_size 2000 --rounds 30
    python -m benchmarks.distributed --device cuda --processes 8 --sentences 64 \
        --output benchmarks/results/distributed.json

The command starts the processes itself, by torchrun on this machine. For several machines start it on each:

    torchrun --nnodes 2 --nproc_per_node 8 --rdzv_backend c10d --rdzv_endpoint HOST:29500 \
        -m benchmarks.distributed --device cuda

The steps, at the full network and at its core:

    DDP, ours                        only the core is reduced in a core step, as our trainers do
    DDP, find_unused_parameters      the plain way: DDP searches each step's graph for what has no gradient
    FSDP 2                           parameters sharded by fully_shard through accelerate, each W a unit of its own

Bytes are counted at every collective of PyTorch in one step, as whole tensors: a gathered parameter, a reduced
gradient; how often a link carries them depends on the backend. The steps of DDP are timed in turns, so that what
drifts on the machine hits all of them alike, and the slowest process counts; quote the ratios. `limit` is the core's
share of the trainable parameters. The weights that both ways of DDP train, and the losses under FSDP, are compared
before.
"""

import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field

import torch
from accelerate import Accelerator, DistributedType, PartialState
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hf_ats.evaluation import ratio, spread, time_in_turns
from hf_ats.partition import PartitionConfig, at_level, parameters_at_level, partition_, partitioned_layers
from hf_ats.training import all_reduce_gradients, label_smoothed_cross_entropy
from hf_ats.training.sharding import prepare_sharding_

from .collectives import CountCollectives
from .command import run_command
from .record import build_record
from .workload import build_untrained, random_batch

LEVELS = ("full", "core")
OURS, SEARCHED, SHARDED = "DDP, ours", "DDP, find_unused_parameters", "FSDP 2"


@dataclass
class DistributedBenchmark:
    """What to measure. A step is forward, loss, backward with its reduction, and AdamW."""

    architecture: str = field(default="iwslt", metadata={"help": "tiny, iwslt or wmt, the sizes of Table 4"})
    ratios: list[float] = field(default_factory=lambda: [0.03125], metadata={"help": "rank ratio of the core"})
    vocab_size: int = field(default=10_000, metadata={"help": "entries of the joint vocabulary"})
    sentences: int = field(default=8, metadata={"help": "sentence pairs of a batch, on each process"})
    length: int = field(default=25, metadata={"help": "tokens of each sentence, on both sides"})
    processes: int = field(default=2, metadata={"help": "how many to start; ignored under torchrun"})
    device: str = field(
        default="cpu", metadata={"help": "cpu (gloo), or cuda: a GPU for each process", "choices": ["cpu", "cuda"]}
    )
    rounds: int = field(default=15, metadata={"help": "how often each step is timed"})
    seed: int = field(default=0, metadata={"help": "of weights and batches"})


def launched_processes() -> int:
    """Return how many processes torchrun started, this one among them; 0 outside of it."""
    return int(os.environ.get("WORLD_SIZE", 0))


def launch(arguments: list[str], settings: DistributedBenchmark) -> int:
    """Run this module with the arguments once for each process, under torchrun, and return the exit status."""
    environment = dict(os.environ)
    if settings.device == "cpu":
        # So that nothing below assumes that the tensors are on a GPU.
        environment |= {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // settings.processes)))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, "--nproc_per_node", str(settings.processes), "-m", "benchmarks.distributed", *arguments]
    return subprocess.run(command, env=environment, check=False).returncode


def run_distributed_benchmark(settings: DistributedBenchmark) -> dict:
    """Measure, and return the record (`build_record`); call it on every process that torchrun started.

    Before anything is counted or timed, the weights that both ways of DDP train are compared, and the loss under FSDP.

    Raises:
        ValueError: there are not several processes; the weights or losses differ.
    """
    if launched_processes() < 2:
        raise ValueError("there is one process; launch the benchmark with torchrun --nproc_per_node 2.")
    state = PartialState(cpu=settings.device == "cpu")
    replicated = _Replicated(settings, state.device)
    replicated.check()
    counted = {OURS: replicated.count(OURS), SEARCHED: replicated.count(SEARCHED)}
    timed = {
        f"{way}, {level}": lambda way=way, level=level: replicated.step(way, level)
        for way in (OURS, SEARCHED)
        for level in LEVELS
    }
    seconds = _slowest(
        time_in_turns(
            timed,
            settings.rounds,
            warmup=2,
            device=state.device,
            progress="steps" if state.is_main_process else None,
        ),
        state.device,
    )
    shares = replicated.trainable_bytes()
    counted[SHARDED] = _count_sharded(settings, state.device)
    measurements = {
        f"{way}, {level} step": {f"{kind}_bytes": number for kind, number in sorted(counted[way][level].items())}
        | ({"seconds": spread(seconds[f"{way}, {level}"])} if way != SHARDED else {})
        for way in (OURS, SEARCHED, SHARDED)
        for level in LEVELS
    }
    return build_record(
        "distributed",
        settings=asdict(settings) | {"processes": state.num_processes},
        measurements=measurements,
        ratios=_ratios(counted, seconds, shares),
        device=state.device,
    )


def _ratios(counted: dict, seconds: dict, shares: dict[str, int]) -> dict[str, dict]:
    """Return the ratios; `shares` are the bytes of the trainable parameters at each level."""
    trainable = shares["core"] / shares["full"]

    def of_bytes(way, kind=None):
        core, full = (counted[way][level] for level in ("core", "full"))
        return core[kind] / full[kind] if kind else sum(core.values()) / sum(full.values())

    means = {
        way: [sum(pair) / 2 for pair in zip(*(seconds[f"{way}, {level}"] for level in LEVELS), strict=True)]
        for way in (OURS, SEARCHED)
    }
    return {
        "bytes of a core step / bytes of a full step, DDP": {"value": of_bytes(OURS), "limit": trainable},
        "bytes of a core step / bytes of a full step, DDP with find_unused_parameters": {
            "value": of_bytes(SEARCHED),
            "limit": trainable,
        },
        "bytes gathered in a core step / in a full step, FSDP 2": {"value": of_bytes(SHARDED, "gathered")},
        "bytes reduced in a core step / in a full step, FSDP 2": {
            "value": of_bytes(SHARDED, "scattered"),
            "limit": trainable,
        },
        **{
            f"{level} step / {level} step with find_unused_parameters": ratio(
                seconds[f"{OURS}, {level}"], seconds[f"{SEARCHED}, {level}"]
            )
            for level in LEVELS
        },
        "alternating mean / alternating mean with find_unused_parameters": ratio(means[OURS], means[SEARCHED]),
        "core step / full step, two processes": ratio(seconds[f"{OURS}, core"], seconds[f"{OURS}, full"]),
    }


class _Replicated:
    """One model in two replicas of DDP: as our trainers reduce, and with DDP's own search for what has no gradient."""

    def __init__(self, settings: DistributedBenchmark, device: torch.device):
        self.batch = _batch(settings, device)
        self.models = {
            OURS: _replicate(_model(settings).to(device), device),
            SEARCHED: _replicate(_model(settings).to(device), device, find_unused_parameters=True),
        }
        self.optimizers = {way: _optimizer(model) for way, model in self.models.items()}
        self.core = list(parameters_at_level(self.models[OURS], "core").values())

    def step(self, way: str, level: str) -> None:
        """Take one optimizer step, on every process at once."""
        model, core_only = self.models[way], way == OURS and level == "core"
        with at_level(model, level), model.no_sync() if core_only else nullcontext():
            _loss(model, self.batch).backward()
        if core_only:
            all_reduce_gradients(self.core)
        self.optimizers[way].step()
        self.optimizers[way].zero_grad(set_to_none=True)

    def check(self) -> None:
        """Check that both ways train the same weights, and that W moves in the full step and not in the core step."""
        W = [layer.weight for layer in partitioned_layers(self.models[OURS]).values()]
        for level in LEVELS:
            before = [weight.detach().clone() for weight in W]
            for way in self.models:
                self.step(way, level)
            still = all(torch.equal(a, b) for a, b in zip(before, W, strict=True))
            if still != (level == "core"):
                raise ValueError(f"W {'stays' if still else 'moves'} in a {level} step; nothing was measured.")
        pairs = zip(self.models[OURS].parameters(), self.models[SEARCHED].parameters(), strict=True)
        if not all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in pairs):
            raise ValueError("the two ways of reducing gradients train different weights; nothing was measured.")

    def count(self, way: str) -> dict[str, dict[str, int]]:
        """Return bytes by kind of collective, for a step at each level."""
        return {level: _counted(lambda level=level: self.step(way, level)) for level in LEVELS}

    def trainable_bytes(self) -> dict[str, int]:
        """Return the bytes of the parameters that take part at each level."""
        every = {level: parameters_at_level(self.models[OURS], level).values() for level in LEVELS}
        return {level: sum(p.nbytes for p in every[level] if p.requires_grad) for level in LEVELS}


def _count_sharded(settings: DistributedBenchmark, device: torch.device) -> dict[str, dict[str, int]]:
    """Return bytes by kind of collective for a step at each level, under FSDP version 2 as accelerate sets it up."""
    model, batch = _model(settings).to(device), _batch(settings, device)
    expected = {level: _loss_at(model, level, batch) for level in LEVELS}
    accelerator = sharding_accelerator(device)
    prepare_sharding_(model, accelerator)
    model, optimizer = accelerator.prepare(model, _optimizer(model))
    found = {level: _loss_at(model, level, batch) for level in LEVELS}
    if any(abs(found[level] / expected[level] - 1) > 1e-4 for level in LEVELS):
        raise ValueError(f"the losses under FSDP are {found}, and without it {expected}; nothing was measured.")

    def step(level):
        with at_level(model, level):
            _loss(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for level in LEVELS:
        step(level)
    return {level: _counted(lambda level=level: step(level)) for level in LEVELS}


def sharding_accelerator(device: torch.device | str) -> Accelerator:
    """Return an accelerator with FSDP version 2, to be made before any other of the process."""
    if torch.device(device).type == "cpu":
        shard_on_cpu()
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="transformer_based_wrap")
    return Accelerator(fsdp_plugin=plugin)


def shard_on_cpu() -> None:
    """Let accelerate use `fully_shard` on the CPU, which PyTorch can and accelerate offers for GPUs and the like."""
    PartialState()
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def _counted(step) -> dict[str, int]:
    with CountCollectives() as counted:
        step()
    return dict(counted.bytes)


def _model(settings: DistributedBenchmark) -> nn.Module:
    # Without dropout every way computes the same.
    model = build_untrained(settings.architecture, settings.vocab_size, seed=settings.seed, dropout=0.0)
    model.config.use_cache = False  # as the Trainer sets it
    return partition_(model, PartitionConfig(ratios=settings.ratios))


def _replicate(model: nn.Module, device: torch.device, **options) -> nn.Module:
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, **options)


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)


def _batch(settings: DistributedBenchmark, device: torch.device) -> dict[str, torch.Tensor]:
    """Return another batch on every process, of the same shape."""
    generator = torch.Generator().manual_seed(settings.seed + PartialState().process_index)
    return random_batch(settings.sentences, settings.length, settings.vocab_size, generator, device)


def _loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    outputs = model(**{name: value for name, value in batch.items() if name != "labels"})
    return label_smoothed_cross_entropy(outputs, batch["labels"], label_smoothing=0.1)


@torch.no_grad()
def _loss_at(model: nn.Module, level: str, batch: dict[str, torch.Tensor]) -> float:
    with at_level(model, level):
        return _loss(model, batch).item()


def _slowest(seconds: dict[str, list[float]], device: torch.device) -> dict[str, list[float]]:
    """Return for every step the time of the process that took longest."""
    times = torch.tensor(list(seconds.values()), dtype=torch.float64, device=device)
    torch.distributed.all_reduce(times, torch.distributed.ReduceOp.MAX)
    return dict(zip(seconds, times.tolist(), strict=True))


def measure(settings: DistributedBenchmark) -> dict | None:
    """Start the processes, or, in each of them, measure; only the first returns the record."""
    if not launched_processes():
        sys.exit(launch(sys.argv[1:], settings))
    record = run_distributed_benchmark(settings)
    torch.distributed.destroy_process_group()
    return record if os.environ["RANK"] == "0" else None


def main() -> None:
    """Measure what the command line asks for."""
    run_command(DistributedBenchmark, measure, __doc__)


if __name__ == "__main__":
    main()
