r"""Measure what a training step costs: the stock model's, the full network's, its core's, and both in one step.

    python benchmarks/benchmark_training.py
    python benchmarks/benchmark_training.py --architecture tiny --vocab_size 2000 --batch_tokens 4096 --dtype bfloat16
    python benchmarks/benchmark_training.py --device cuda --dtype bfloat16 --batch_tokens 12000 --compile \
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

from .command import run_command
from .training import TrainingBenchmark, run_training_benchmark

if __name__ == "__main__":
    run_command(TrainingBenchmark, run_training_benchmark, __doc__)
