import random
import subprocess
import sys

import numpy as np
import pytest
import sacrebleu
from transformers import EvalPrediction

from hf_ats.data import default_corpus, train_tokenizer
from hf_ats.evaluation import TRANSLATION_METRIC, build_compute_metrics, score_translations


@pytest.fixture(scope="module")
def corpus():
    """Real sentences: 60 of the embedded corpus, as (German, English)."""
    rows = default_corpus(sizes={"train": 400, "validation": 10, "test": 60})
    return {part: [(row["translation"]["de"], row["translation"]["en"]) for row in rows[part]] for part in rows}


@pytest.fixture(scope="module")
def references(corpus):
    return [english for _, english in corpus["test"]]


@pytest.fixture(scope="module")
def hypotheses(references):
    """Plausible mistakes: words dropped and swapped, case changed."""
    generator = random.Random(0)
    mistaken = []
    for reference in references:
        words = [word for word in reference.split() if generator.random() > 0.1]
        if generator.random() < 0.3:
            generator.shuffle(words)
        mistaken.append(" ".join(words) if generator.random() < 0.7 else " ".join(words).upper())
    return mistaken


@pytest.fixture(scope="module")
def tokenizer(corpus, tmp_path_factory):
    german, english = zip(*corpus["train"], strict=True)
    directory = tmp_path_factory.mktemp("tokenizer")
    return train_tokenizer(german, english, directory, vocab_size=200, source_lang="de", target_lang="en")


def test_scores_and_signatures_are_those_of_sacrebleu(hypotheses, references):
    scores = score_translations(hypotheses, references)
    bleu, chrf = sacrebleu.BLEU(), sacrebleu.CHRF()
    expected_bleu = bleu.corpus_score(hypotheses, [references])
    assert 20 < expected_bleu.score < 95
    assert scores["bleu"] == expected_bleu.score == sacrebleu.corpus_bleu(hypotheses, [references]).score
    assert scores["chrf"] == sacrebleu.corpus_chrf(hypotheses, [references]).score
    assert scores["length_ratio"] == expected_bleu.sys_len / expected_bleu.ref_len < 1
    assert scores["bleu_signature"] == str(bleu.get_signature())
    assert chrf.corpus_score(hypotheses, [references]).score == scores["chrf"]
    assert scores["chrf_signature"] == str(chrf.get_signature())
    assert scores["sentences"] == len(references)


def test_tokenizer_and_case_reach_sacrebleu(hypotheses, references):
    scores = score_translations(hypotheses, references, tokenize="char", lowercase=True)
    assert scores["bleu"] == sacrebleu.corpus_bleu(hypotheses, [references], tokenize="char", lowercase=True).score
    assert scores["chrf"] == sacrebleu.CHRF(lowercase=True).corpus_score(hypotheses, [references]).score
    assert "tok:char" in scores["bleu_signature"]
    assert "case:lc" in scores["bleu_signature"]
    assert scores["bleu"] != score_translations(hypotheses, references)["bleu"]


def test_several_references_for_each_sentence(hypotheses, references):
    second = [reference.lower() for reference in references]
    scores = score_translations(hypotheses, list(zip(references, second, strict=True)))
    assert scores["bleu"] == sacrebleu.corpus_bleu(hypotheses, [references, second]).score
    assert scores["chrf"] == sacrebleu.corpus_chrf(hypotheses, [references, second]).score
    assert "nrefs:2" in scores["bleu_signature"]


def test_perfect_and_hopeless_translations(references):
    assert score_translations(references, references)["bleu"] == pytest.approx(100)
    assert score_translations([""] * len(references), references)["bleu"] == 0


def test_what_cannot_be_scored_is_refused(references):
    with pytest.raises(ValueError, match="predictions and references are empty"):
        score_translations([], [])
    with pytest.raises(ValueError, match="predictions holds 59 translations and references 60 sentences"):
        score_translations(references[1:], references)
    with pytest.raises(ValueError, match="between 1 and 2 references"):
        score_translations(["a", "b"], [["a", "x"], ["b"]])


def test_a_refusal_does_not_spoil_the_next_score(hypotheses, references):
    before = score_translations(hypotheses, references)
    with pytest.raises(ValueError, match="references"):
        score_translations(["a", "b"], [["a", "x"], ["b"]])
    assert score_translations(hypotheses, references) == before


def test_the_module_loads_without_any_network_and_nothing_slow_is_imported_before():
    script = f"""
import socket, sys
def refuse(*_): raise OSError("a connection was tried")
socket.socket.connect = refuse
socket.getaddrinfo = refuse
import hf_ats.evaluation
assert not {{"evaluate", "matplotlib"}} & set(sys.modules), "imported before it is used"
import evaluate
scores = evaluate.load({TRANSLATION_METRIC!r}).compute(predictions=["a dog runs ."], references=["a dog runs ."])
print(round(scores["bleu"], 6))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "100.0", done.stderr


def padded(rows, value):
    width = max(map(len, rows)) + 2
    return np.array([row + [value] * (width - len(row)) for row in rows])


@pytest.mark.parametrize("start", ["pad_token_id", "eos_token_id"], ids=["as Marian", "as BART"])
def test_compute_metrics_decodes_what_the_trainer_hands_over(tokenizer, hypotheses, references, start):
    generated = [[getattr(tokenizer, start), *ids] for ids in tokenizer(text_target=hypotheses)["input_ids"]]
    labels = tokenizer(text_target=references)["input_ids"]
    metrics = build_compute_metrics(tokenizer)(
        EvalPrediction(predictions=padded(generated, -100), label_ids=padded(labels, -100))
    )
    decoded = [tokenizer.batch_decode(rows, skip_special_tokens=True) for rows in (generated, labels)]
    assert decoded[1][0], "the references survive the tokenizer"
    scores = score_translations(*decoded)
    assert metrics == {
        "bleu": scores["bleu"],
        "chrf": scores["chrf"],
        "gen_len": pytest.approx(np.mean([len(row) - 1 for row in generated])),
    }
    assert metrics["bleu"] > 20


def test_compute_metrics_reads_padding_of_either_kind(tokenizer, hypotheses, references):
    generated = [[tokenizer.pad_token_id, *ids] for ids in tokenizer(text_target=hypotheses)["input_ids"]]
    labels = padded(tokenizer(text_target=references)["input_ids"], -100)
    compute_metrics = build_compute_metrics(tokenizer)
    by_minus_100, by_pad = (
        compute_metrics(EvalPrediction(predictions=padded(generated, value), label_ids=labels))
        for value in (-100, tokenizer.pad_token_id)
    )
    assert by_minus_100 == by_pad


def test_compute_metrics_refuses_logits(tokenizer):
    with pytest.raises(ValueError, match="predict_with_generate=True"):
        build_compute_metrics(tokenizer)(
            EvalPrediction(predictions=np.zeros((2, 3, 200)), label_ids=np.zeros((2, 3), dtype=int))
        )
