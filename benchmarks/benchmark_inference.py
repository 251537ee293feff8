r"""Measure what decoding costs: the stock model, the exported full network, the exported core, and core-dense.

    python benchmarks/benchmark_inference.py
    python benchmarks/benchmark_inference.py --run runs/demo --beams 5 --rounds 15
    python benchmarks/benchmark_inference.py --threads 1 --runtimes ctranslate2 onnxruntime --batch_sizes 1 \
        --output benchmarks/results/inference-runtimes.json
    python benchmarks/benchmark_inference.py --run runs/width --threads 1 --runtimes ctranslate2 --sources data/test.de
    python benchmarks/benchmark_inference.py --method width --ratios 0.25 --threads 1 --runtimes ctranslate2 \
        onnxruntime --batch_sizes 1 32 --memory false --profile false --output benchmarks/results/inference-width.json
    python benchmarks/benchmark_inference.py --device cuda --dtype bfloat16 --batch_sizes 1 32 256

Every network decodes the same sources, pieces of running text of equal length, to the same number of tokens: an
untrained model never stops, and trained ones stop at different places. All run in one process in turns, so that what
drifts on the machine hits all of them alike; quote the ratios. The networks:

    stock        a MarianMTModel of transformers, nothing of this package
    full         what export_full wrote: the stock class with W + V U merged
    core         what export_core wrote: the factors U and V, or by width of the feed-forward layers the stock class
                 with a smaller ffn_dim
    core-dense   of a core by rank: with V U multiplied out, the stock class
    overhead     as many layers and calls as stock and next to no arithmetic: what generate itself costs

and, with --runtimes, full and core-dense in CTranslate2 (float32 and int8), full and core in ONNX Runtime
(pip install ".[deploy]"); a core of the stock class goes through CTranslate2 as it is. Then use --threads 1: the
threads of ONNX Runtime go on spinning after each call, and slow down whatever is timed next.

Before anything is timed, all decode in float32: full must give what stock gives and core what the partitioned model
gives at its core level, token for token; core-dense and the runtimes what the same network gives in transformers, for
nine sentences in ten at least (`equal`, also of int8, for which nothing is required). Of a trained run, CTranslate2 is
compared by whole translations, which end by themselves. A mismatch ends the benchmark.

`limit` is what the ratio would be if time were proportional to floating-point operations. Peak memory is that of
loading the network and decoding the largest batch with the widest beam, measured in a process for each.
"""

from transformers.utils.logging import disable_progress_bar

from .command import run_command
from .inference import InferenceBenchmark, run_inference_benchmark

if __name__ == "__main__":
    disable_progress_bar()  # of loading and saving; the rounds have their own
    run_command(InferenceBenchmark, run_inference_benchmark, __doc__)
