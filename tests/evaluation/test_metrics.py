import os
import random
import subprocess
import sys

import numpy as np
import pytest
import sacrebleu
from sacrebleu.metrics import BLEU
from transformers import EvalPrediction

from hf_ats.data import default_corpus, train_tokenizer
from hf_ats.evaluation import TRANSLATION_METRIC, bleu_tokenizer, build_compute_metrics, metrics, score_translations


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


@pytest.mark.parametrize(
    ("codes", "tokenizers"),
    [
        ("zh zho cmn zh_CN zho_Hans zho_Hant yue_Hant zh-TW ZH", "zh"),
        ("th th_TH tha_Thai lo lao_Laoo km khm_Khmr km_KH my my_MM mya_Mymr bod_Tibt shn_Mymr", "char"),
        ("de en fr_XX vie_Latn zho_Latn arb_Arab src tgt", "13a"),
        ("ja ja_XX jpn jpn_Jpan", "ja-mecab"),
        ("ko ko_KR kor_Hang", "ko-mecab"),
    ],
)
@pytest.mark.parametrize("installed", [True, False])
def test_the_target_language_says_which_tokenizer(codes, tokenizers, installed, monkeypatch):
    monkeypatch.setattr(metrics, "_is_installed", lambda name: installed)
    expected = "char" if "mecab" in tokenizers and not installed else tokenizers
    assert {bleu_tokenizer(code) for code in codes.split()} == {expected}
    assert bleu_tokenizer("tgt", None, "tha_Thai") == "char" and bleu_tokenizer(None) == "13a"


def test_what_is_not_installed_is_not_chosen():
    for code, name in BLEU._TOKENIZER_MAP.items():  # sacreBLEU's own choice, by `BLEU(trg_lang=code)`
        try:
            BLEU(trg_lang=code)
        except RuntimeError:
            name = "char"
        assert bleu_tokenizer(code) == name


def test_text_without_blanks_is_scored_by_its_language_and_otherwise_with_a_warning():
    hypotheses, references = ["今天天气很好我们去公园散步"] * 5, ["今天天气很好我们去公园跑步"] * 5
    scores = score_translations(hypotheses, references, tokenize=bleu_tokenizer("zho_Hans"))
    assert (
        scores["bleu"]
        == BLEU(trg_lang="zh").corpus_score(hypotheses, [references]).score
        == pytest.approx(84.2, abs=0.1)
    )
    assert "tok:zh" in scores["bleu_signature"]
    with pytest.warns(UserWarning, match="without blanks between words.*write tokenize='zh'"):
        assert score_translations(hypotheses, references)["bleu"] == 0
    thai = ["ฉันรักคุณมาก"], ["ฉันรักคุณ"]
    assert score_translations(*thai, tokenize="char")["bleu"] > 50


def test_what_cannot_be_scored_is_refused(references):
    with pytest.raises(ValueError, match=r"tokenize='english' is not a tokenizer of sacreBLEU; write one of .*13a"):
        score_translations(references, references, tokenize="english")
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


def test_scores_need_no_network_and_no_folder_and_nothing_slow(tmp_path):
    script = f"""
import os, socket, sys
def refuse(*_): raise OSError("a connection was tried")
socket.socket.connect = refuse
socket.getaddrinfo = refuse
from hf_ats.evaluation import score_translations
texts = dict(predictions=["a dog runs ."], references=["a dog runs ."])
scores = score_translations(**texts)
assert not {{"evaluate", "matplotlib"}} & set(sys.modules), "imported before it is used"
del os.environ["HF_HOME"]
for cache in ("HF_MODULES_CACHE", "HF_EVALUATE_CACHE", "HF_METRICS_CACHE"): os.environ[cache] = {str(tmp_path)!r}
import evaluate
assert evaluate.load({TRANSLATION_METRIC!r}).compute(**texts) == scores
print(round(scores["bleu"], 6))
"""
    environment = os.environ | {"HF_HOME": os.path.join(os.devnull, "home")}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment)
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


# What normalisation takes from a text cannot be decoded from its labels.
GERMAN = ["Raum 10 m² … gut!", "Preis 123 € … hoch!", "Ende … von allem!"]


@pytest.fixture(scope="module")
def perfect(tmp_path_factory):
    """A tokenizer, and the prediction of a model that has learned its labels by heart."""
    directory = tmp_path_factory.mktemp("tokenizer")
    english = ["the room", "the price", "the end"]
    made = train_tokenizer(english * 10, GERMAN * 10, directory, vocab_size=55, source_lang="en", target_lang="de")
    labels = made(text_target=GERMAN)["input_ids"]
    generated = [[made.pad_token_id, *ids] for ids in labels]
    return made, EvalPrediction(predictions=padded(generated, made.pad_token_id), label_ids=padded(labels, -100))


def test_raw_references_give_the_score_of_a_test_set(perfect):
    tokenizer, prediction = perfect
    decoded = tokenizer.batch_decode(tokenizer(text_target=GERMAN)["input_ids"], skip_special_tokens=True)
    of_the_text = score_translations(decoded, GERMAN)
    found = build_compute_metrics(tokenizer, GERMAN)(prediction)
    assert (found["bleu"], found["chrf"]) == (of_the_text["bleu"], of_the_text["chrf"])
    of_the_labels = build_compute_metrics(tokenizer)(prediction)
    assert found["gen_len"] == of_the_labels["gen_len"] and of_the_labels["bleu"] == pytest.approx(100)
    by_character = build_compute_metrics(tokenizer, GERMAN, tokenize="char")(prediction)["bleu"]
    assert by_character == score_translations(decoded, GERMAN, tokenize="char")["bleu"]


def test_references_of_another_number_are_refused(perfect):
    tokenizer, prediction = perfect
    with pytest.raises(ValueError, match="references has 2 sentences, and the evaluation gave 3; give one for each"):
        build_compute_metrics(tokenizer, GERMAN[:2])(prediction)


def test_batches_that_the_trainer_keeps_apart_are_scored_together(perfect):
    tokenizer, prediction = perfect
    apart = EvalPrediction(
        predictions=[prediction.predictions[:2, :-1], prediction.predictions[2:]],
        label_ids=[prediction.label_ids[:2, :-1], prediction.label_ids[2:]],
    )
    for references in (None, GERMAN):
        compute_metrics = build_compute_metrics(tokenizer, references)
        assert compute_metrics(apart) == compute_metrics(prediction)


def test_compute_metrics_refuses_logits(tokenizer):
    with pytest.raises(ValueError, match="predict_with_generate=True"):
        build_compute_metrics(tokenizer)(
            EvalPrediction(predictions=np.zeros((2, 3, 200)), label_ids=np.zeros((2, 3), dtype=int))
        )
