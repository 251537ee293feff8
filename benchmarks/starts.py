r"""Show how cores of a pretrained model begin, before any training: the table in docs/networks.md.

    python -m benchmarks.starts measure --model runs/experiments/multi30k/full-seed1/full --data data/multi30k
    python -m benchmarks.starts render --update docs/networks.md --block starts

`measure` partitions the model for each core and each start that there is, and writes down the loss of that core for a
target token of the validation part, and its greedy BLEU on the first sentences of the test part. The calibration
sentences are the first sources of the training part.
"""

import argparse
import copy
from pathlib import Path

import torch

from benchmarks.record import build_record, read_record, write_record
from hf_ats.checkpoint import load_network, load_tokenizer
from hf_ats.data import TranslationCollator, load_parallel
from hf_ats.evaluation import decoding_threads, in_eval_mode, input_moments, score_translations, translate
from hf_ats.partition import PartitionConfig, at_level, partition_
from hf_ats.results import align
from hf_ats.scripts.compare_runs import add_update_flags, print_or_update

RECORD = Path(__file__).parent / "results" / "starts" / "multi30k.json"
CORES = {
    "rank 0.25": dict(ratios=[0.25]),
    "rank 0.125": dict(ratios=[0.125]),
    "vocabulary of rank 0.25": dict(ratios=[0.25], target_modules=["embeddings"]),
    "width 0.5": dict(method="width", ratios=[0.5]),
    "width 0.25": dict(method="width", ratios=[0.25]),
}


@torch.no_grad()
def loss_of(model, tokenizer, pairs: list[dict], batch_size: int = 64) -> float:
    """Return the negative log-likelihood of a target token, in nats."""
    collator, total, tokens = TranslationCollator(tokenizer), 0.0, 0
    with in_eval_mode(model), decoding_threads(model):
        for start in range(0, len(pairs), batch_size):
            part = pairs[start : start + batch_size]
            rows = tokenizer([one["de"] for one in part], text_target=[one["en"] for one in part])
            batch = collator([{name: rows[name][i] for name in rows} for i in range(len(part))])
            counted = int((batch["labels"] != -100).sum())
            total += counted * model(**batch).loss.item()
            tokens += counted
    return total / tokens


def measure(model_dir: Path, data: Path, counts: list[int], scored: int) -> dict:
    """Return the measurements of each core and start by name."""
    stock, tokenizer = load_network(model_dir, dtype=torch.float32), load_tokenizer(model_dir)
    training, validation, test = (
        list(load_parallel(data / part, "de", "en")["translation"]) for part in ("train", "val", "test_2016_flickr")
    )
    moments = {
        count: input_moments(stock, tokenizer, [one["de"] for one in training[:count]], progress=False)
        for count in counts
    }
    sources, references = ([one[side] for one in test[:scored]] for side in ("de", "en"))

    def figures(model) -> dict:
        translations = translate(model, tokenizer, sources, num_beams=1, progress=False)
        bleu = score_translations(translations, references)["bleu"]
        return {"nats_per_token": loss_of(model, tokenizer, validation), "bleu": bleu}

    found = {"full": figures(stock)}
    for name, fields in CORES.items():
        by_weights = ["first", "importance"] if "width" in name else ["svd"]
        starts = {init: (init, None) for init in by_weights}
        starts |= {f"{by_weights[-1]}, {count} sentences": (by_weights[-1], moments[count]) for count in counts}
        for start, (init, given) in starts.items():
            model = partition_(copy.deepcopy(stock), PartitionConfig(init=init, **fields), given)
            with at_level(model, "core"):
                found[f"{name}: {start}"] = figures(model)
            print(name, start, found[f"{name}: {start}"], flush=True)
    return found


def render(record: dict) -> str:
    """Return a table with a row for each core and start."""
    rows = []
    for name, figures in record["measurements"].items():
        core, _, start = name.partition(": ")
        rows.append([core, start, f"{figures['nats_per_token']:.2f}", f"{figures['bleu']:.1f}"])
    return align(["core", "start", "loss (nats a token)", "BLEU"], rows, "markdown", left=2)


def main() -> None:
    """Measure, or render."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["measure", "render"])
    parser.add_argument("--model", type=Path, help="the full/ export of a run on Multi30k, German to English")
    parser.add_argument("--data", type=Path, help="the folder of Multi30k")
    parser.add_argument("--calibration", type=int, nargs="+", default=[20, 200], help="numbers of sentences")
    parser.add_argument("--scored", type=int, default=200, help="test sentences that are translated")
    parser.add_argument("--output", type=Path, default=RECORD)
    add_update_flags(parser)
    arguments = parser.parse_args()
    if arguments.what == "render":
        print_or_update(render(read_record(arguments.output)), arguments)
        return
    settings = {"model": str(arguments.model), "calibration": arguments.calibration, "scored": arguments.scored}
    found = measure(arguments.model, arguments.data, arguments.calibration, arguments.scored)
    write_record(arguments.output, build_record("starts", settings=settings, measurements=found, ratios={}))


if __name__ == "__main__":
    main()
