"""The small JSON file of a finished run: its results, and of each sentence what paired significance needs."""

import base64
import logging
import re
import zlib

import numpy as np
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest

from hf_ats.data import load_parallel, read_lines
from hf_ats.results import RESULTS, fingerprint, write_results

from .grids import Run

TRIALS = 1000
"""Trials of the approximate randomization: p is no smaller than 1 / (TRIALS + 1)."""

# What a reader of the record has no use for: they are long, or of the run's own folder.
_LEFT_OUT = ("samples", "card", "recipe", "resumed_from", "files", "weights_sha256", "decoding_speed")


def write_record(run: Run) -> None:
    """Write the record of a run that is finished.

    It is the run's `results.json` without what is long, with paths below the folder of the data, the name of the run
    that it starts from in place of a path, the command as the grid gives it, `run`, the name in the grid, and
    `sentence_statistics`: by level the counts that BLEU is made of, a row of ten for each sentence, packed. They are
    not the translations, and say nothing of the references' text.

    Raises:
        ValueError: the results are of another run, or the translations beside them are.
    """
    results = run.check_results(run.folder / RESULTS)
    record = _without(results) | {"command": run.command(), "run": run.name, "model": run.portable(results["model"])}
    for name, value in record["data"].items():
        ours = [path for path in run.grid.setting.data.values() if str(value).endswith(f"/{path}")]
        record["data"][name] = ours[0] if ours else value
    if run.grid.train == "translation":
        record["sentence_statistics"] = _statistics(run, results)
    write_results(run.record, record)


def _without(value):
    if isinstance(value, dict):
        return {name: _without(item) for name, item in value.items() if name not in _LEFT_OUT}
    return value


def _statistics(run: Run, results: dict) -> dict[str, str]:
    _, data_args, _, _ = run.flags
    languages = (data_args.source_lang, data_args.target_lang)
    pairs = load_parallel(data_args.test_prefix, *languages, skip_bad_lines=data_args.skip_bad_lines)["translation"]
    sources, references = ([pair[language] for pair in pairs] for language in languages)
    if fingerprint(sources, references) != results["data"]["test_fingerprint"]:
        raise ValueError(
            f"{run.folder / RESULTS} was scored on other sentences than those of {data_args.test_prefix}; give the "
            "folder of the data that it was scored on as --data."
        )
    statistics = {}
    for level, figures in results["levels"].items():
        path = run.folder / f"translations.{level}.txt"
        translations = read_lines(path)
        tokenizer = re.search(r"tok:([^|]+)", figures["bleu_signature"])[1]
        bleu = BLEU(tokenize=tokenizer, effective_order=True)
        scores = [bleu.sentence_score(*pair) for pair in zip(translations, ([one] for one in references), strict=True)]
        rows = np.array([[one.sys_len, one.ref_len, *one.counts, *one.totals] for one in scores], dtype="<u2")
        length, reference_length, *counts = rows.sum(0).tolist()
        again = BLEU.compute_bleu(counts[:4], counts[4:], length, reference_length, smooth_method="exp").score
        if abs(again - figures["bleu"]) > 0.01:
            raise ValueError(
                f"{path} scores {again:.2f} BLEU, and {RESULTS} beside it says {figures['bleu']:.2f}, so they are not "
                "of one run; move the folder away, and train it again."
            )
        statistics[level] = base64.b64encode(zlib.compress(rows.tobytes(), 9)).decode()
    return statistics


class _OfStatistics(BLEU):
    """BLEU of sentences that are given as their statistics, ten numbers each, instead of as text."""

    def _extract_corpus_statistics(self, hypotheses, references):
        self.num_refs = 1
        return [list(map(int, row.split())) for row in hypotheses]


def significance(record: dict, baseline: dict, level: str) -> tuple[float, float]:
    """Compare the translations of a level of two runs, sentence by sentence.

    Args:
        record: one run's record, and
        baseline: another's on the same test set.
        level: of both.

    Returns:
        How much higher BLEU is than the baseline's, and the p of sacreBLEU's paired approximate randomization.
    """
    packed = [one["sentence_statistics"][level] for one in (baseline, record)]
    if packed[0] == packed[1]:  # of which sacreBLEU would count no trial, and so call them as different as can be
        return 0.0, 1.0
    logging.getLogger("sacrebleu").setLevel(logging.WARNING)
    systems = [(name, _rows(one)) for name, one in zip("01", packed, strict=True)]
    _, scores = PairedTest(systems, {"BLEU": _OfStatistics()}, None, test_type="ar", n_samples=TRIALS)()
    other, own = scores["BLEU"]
    return own.score - other.score, own.p_value


def _rows(packed: str) -> list[str]:
    rows = np.frombuffer(zlib.decompress(base64.b64decode(packed)), dtype="<u2").reshape(-1, 10)
    return [" ".join(map(str, row)) for row in rows]
