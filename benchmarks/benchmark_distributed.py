r"""Measure what the steps of alternating training send between processes, and what that costs.

    python benchmarks/benchmark_distributed.py
    python benchmarks/benchmark_distributed.py --architecture tiny --vocab_size 2000 --rounds 30
    python benchmarks/benchmark_distributed.py --device cuda --processes 8 --sentences 64 \
        --output benchmarks/results/distributed.json

The script starts the processes itself, by torchrun on this machine. For several machines start it by torchrun on each:

    torchrun --nnodes 2 --nproc_per_node 8 --rdzv_backend c10d --rdzv_endpoint HOST:29500 \
        benchmarks/benchmark_distributed.py --device cuda

The steps, at the full network and at its core:

    DDP, ours                        the core alone is reduced in a core step, as our trainers do
    DDP, find_unused_parameters      the plain way: DDP searches each step's graph for what has no gradient
    FSDP 2                           parameters sharded by fully_shard through accelerate, each W a unit of its own

Bytes are counted at every collective of PyTorch in one step, as whole tensors: a gathered parameter, a reduced
gradient; how often a link carries them depends on the backend. The steps of DDP are timed in turns, so that what
drifts on the machine hits all of them alike, and the slowest process counts; quote the ratios. `limit` is the core's
share of the trainable parameters. The weights that both ways of DDP train, and the losses under FSDP, are compared
before.
"""

import os
import sys

import torch

from .command import benchmark_parser, show
from .distributed import DistributedBenchmark, launch, launched_processes, run_distributed_benchmark


def main() -> None:
    """Start the processes, or, in each of them, measure; the first prints, and writes the record if asked to."""
    parser = benchmark_parser(DistributedBenchmark, __doc__)
    try:
        settings, others = parser.parse_args_into_dataclasses()
        if not launched_processes():
            sys.exit(launch(sys.argv, settings))
        record = run_distributed_benchmark(settings)
    except ValueError as error:
        sys.exit(f"benchmark_distributed.py: {error}")
    if os.environ["RANK"] == "0":
        show(record, others.output)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
