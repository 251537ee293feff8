r"""Time whole epochs as a user runs them, what the trainer adds to a bare loop, and the way to the first step.

    python benchmarks/benchmark_epoch.py --train_prefix data/multi30k/train --output epoch.json
    python benchmarks/benchmark_epoch.py --train_prefix data/multi30k/train --sentences 29000 --rounds 1 \
        --parts epoch --ways stock_random full_budget
    python benchmarks/benchmark_epoch.py --device cuda --bf16 --architecture iwslt --max_tokens 12000 --sentences 20000

Without --train_prefix it runs on generated text. Three parts, each of which can be left out:

epoch      The stock Seq2SeqTrainer as transformers' run_translation example sets it up (a fixed number of sentences,
           at random, DataCollatorForSeq2Seq), the same with sentences grouped by length, and ATSSeq2SeqTrainer with
           such random batches and with batches by token budget, the full network alone and alternating. All begin
           with the same network and see every sentence once in an epoch, at the same precision. The fixed number of
           sentences is chosen so that a step of either kind sees as many real tokens on average: then an epoch has
           as many steps of each kind, and trains on as much in each of them. What differs is the padding.
overhead   ATSSeq2SeqTrainer over a bare PyTorch loop of the same alternating steps on the same batches, and
           Seq2SeqTrainer over its own bare loop; data loading included, and by itself.
start      New processes, from their start to the first finished step, stage by stage.

Everything that is compared runs in turns of a few steps, so that a drifting machine hits all alike.
"""

import datasets
import transformers

from .command import run_command
from .epoch import run_epoch_benchmark
from .epoch_setup import EpochBenchmark

if __name__ == "__main__":
    transformers.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    run_command(EpochBenchmark, run_epoch_benchmark, __doc__)
