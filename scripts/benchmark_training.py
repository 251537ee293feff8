r"""Measure what a training step costs: the stock model's, the full network's, its core's, and both in one step.

    python scripts/benchmark_training.py
    python scripts/benchmark_training.py --architecture tiny --vocab_size 2000 --batch_tokens 4096 --dtype bfloat16
    python scripts/benchmark_training.py --device cuda --dtype bfloat16 --batch_tokens 12000 --compile \
        --output results/performance/training-h200.json

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

import argparse
import sys
from pathlib import Path

import torch
from transformers import HfArgumentParser

from hf_ats.benchmarks import render_record, write_record
from hf_ats.benchmarks.training import TrainingBenchmark, run_training_benchmark


def main() -> None:
    """Measure, print, and write the record if a file for it was named."""
    parser = HfArgumentParser(
        TrainingBenchmark, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, help="of PyTorch on the CPU (default: its own choice)")
    parser.add_argument("--output", type=Path, help="a JSON file for settings, times and ratios")
    try:
        settings, others = parser.parse_args_into_dataclasses()
        if others.threads:
            torch.set_num_threads(others.threads)
        record = run_training_benchmark(settings)
    except ValueError as error:
        sys.exit(f"benchmark_training.py: {error}")
    print(render_record(record))
    if others.output:
        write_record(others.output, record)
        print(f"\nwritten to {others.output}", file=sys.stderr)


if __name__ == "__main__":
    main()
