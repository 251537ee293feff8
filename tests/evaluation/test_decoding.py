import contextlib
import copy
import random

import pytest
import torch
from transformers import GenerationConfig

from hf_ats.data import default_corpus, train_tokenizer
from hf_ats.evaluation import (
    compare_decoding_speed,
    decoding,
    decoding_settings,
    decoding_threads,
    encode_sentences,
    translate,
)
from hf_ats.partition import PartitionConfig, at_level, partition_
from tests.support.models import tiny_model

VOCABULARY = 200
LIMIT = {"max_new_tokens": 12}


@pytest.fixture(scope="module")
def corpus():
    rows = default_corpus(sizes={"train": 400, "validation": 10, "test": 23})
    return {part: [(row["translation"]["de"], row["translation"]["en"]) for row in rows[part]] for part in rows}


@pytest.fixture(scope="module")
def tokenizer(corpus, tmp_path_factory):
    german, english = zip(*corpus["train"], strict=True)
    directory = tmp_path_factory.mktemp("tokenizer")
    return train_tokenizer(german, english, directory, vocab_size=VOCABULARY, source_lang="de", target_lang="en")


@pytest.fixture(scope="module")
def sentences(corpus):
    german = [german for german, _ in corpus["test"]]
    random.Random(0).shuffle(german)
    return german


@pytest.fixture(scope="module")
def model(corpus, tokenizer):
    """A Marian that learned for seconds: it answers differently to different sentences, and ends some of them.

    In double precision, where padding cannot tip which token is the likeliest.
    """
    pad = tokenizer.pad_token_id
    model = tiny_model("marian", vocab_size=VOCABULARY, pad_token_id=pad, decoder_start_token_id=pad)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    german, english = zip(*corpus["train"], strict=True)
    for step in range(80):
        part = slice(40 * step % 400, 40 * step % 400 + 40)
        batch = tokenizer(list(german[part]), text_target=list(english[part]), padding=True, return_tensors="pt")
        batch["labels"][batch["labels"] == pad] = -100
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.double()


def disturbed(model, seed):
    """A copy that translates a little differently."""
    torch.manual_seed(seed)
    model = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def translate_one_by_one(model, tokenizer, sentences, **generate_kwargs):
    """The slow and obvious way."""
    translations = []
    for sentence in sentences:
        ids = model.generate(**tokenizer(sentence, return_tensors="pt"), **LIMIT, **generate_kwargs)
        translations.append(tokenizer.decode(ids[0], skip_special_tokens=True).strip())
    return translations


@pytest.mark.parametrize("num_beams", [1, 3])
def test_batches_give_what_one_sentence_at_a_time_gives_in_the_same_order(model, tokenizer, sentences, num_beams):
    expected = translate_one_by_one(model, tokenizer, sentences, num_beams=num_beams)
    assert len(set(expected)) > len(expected) // 2, "the translations can be told apart"
    for batch_size in (1, 4, 100):
        assert translate(model, tokenizer, sentences, batch_size, num_beams=num_beams, **LIMIT) == expected


def test_beams_reach_the_model(model, tokenizer, sentences):
    greedy, beams = (translate(model, tokenizer, sentences, num_beams=n, **LIMIT) for n in (1, 4))
    assert greedy != beams


def test_empty_sentences_stay_empty_and_in_their_place(model, tokenizer, sentences):
    expected = translate(model, tokenizer, sentences[:2], **LIMIT)
    mixed = ["", sentences[0], " \u200b ", sentences[1], ""]
    assert translate(model, tokenizer, mixed, 2, **LIMIT) == ["", expected[0], "", expected[1], ""]
    assert translate(model, tokenizer, []) == []
    assert translate(model, tokenizer, [" "]) == [""]


def test_a_partitioned_model_translates_at_its_live_level(model, tokenizer, sentences):
    partitioned = partition_(copy.deepcopy(model), PartitionConfig(ratios=[0.125]))
    full = translate(partitioned, tokenizer, sentences, **LIMIT)
    assert full == translate(model, tokenizer, sentences, **LIMIT)
    with at_level(partitioned, "core"):
        assert translate(partitioned, tokenizer, sentences, **LIMIT) != full


def test_dropout_is_off_and_the_training_mode_comes_back(model, tokenizer, sentences):
    expected = translate(model, tokenizer, sentences, **LIMIT)
    model = copy.deepcopy(model)
    for module in model.modules():
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.5
    model.train()
    model.model.encoder.eval()
    modes = [module.training for module in model.modules()]
    assert translate(model, tokenizer, sentences, **LIMIT) == expected
    assert [module.training for module in model.modules()] == modes


def test_a_sentence_too_long_is_refused_before_any_work(model, tokenizer, sentences, monkeypatch):
    long = " ".join(["zwei Hunde"] * 40)
    length = len(tokenizer(long)["input_ids"])
    assert length > model.config.max_position_embeddings
    monkeypatch.setattr(model, "generate", lambda **_: pytest.fail("it began to translate"))
    with pytest.raises(ValueError, match=f"sentence 3 has {length} tokens.*MarianMTModel reads at most 64.*truncate"):
        translate(model, tokenizer, [*sentences[:2], long])
    with pytest.raises(ValueError, match="batch_size=0"):
        translate(model, tokenizer, sentences, 0)


def test_truncation_cuts_at_what_the_model_reads(model, tokenizer):
    long = " ".join(["zwei Hunde"] * 40)
    ids = tokenizer(long, truncation=True, max_length=64, return_tensors="pt")
    assert ids["input_ids"].shape == (1, 64)
    expected = tokenizer.decode(model.generate(**ids, **LIMIT)[0], skip_special_tokens=True).strip()
    assert translate(model, tokenizer, [long], truncate=True, num_beams=1, **LIMIT) == [expected]


def encoded(models, tokenizer, sentences) -> list[list[int]]:
    return encode_sentences(tokenizer, sentences, list(models.values()))


def test_the_network_that_reads_least_says_what_is_too_long(model, tokenizer):
    short, long = copy.deepcopy(model), "zwei Hunde rennen durch den Park"
    short.config.max_position_embeddings = 5
    (whole,) = encode_sentences(tokenizer, [long], [model])
    assert len(whole) > 5
    with pytest.raises(ValueError, match=f"sentence 1 has {len(whole)} tokens.*reads at most 5"):
        encode_sentences(tokenizer, [long], [model, short])
    assert encode_sentences(tokenizer, [long, ""], [model, short], truncate=True) == [[*whole[:4], whole[-1]], []]


class Clock:
    """A clock that only decoding moves: `cost[name]` seconds for each call of that model's `generate`."""

    def __init__(self, monkeypatch, models, cost):
        self.now = 0.0
        self.calls = []
        self.outputs = {name: [] for name in models}
        monkeypatch.setattr(decoding.time, "perf_counter", lambda: self.now)
        for name, model in models.items():
            monkeypatch.setattr(model, "generate", self._timed(name, model.generate, cost))

    def _timed(self, name, generate, cost):
        def timed(**keywords):
            self.calls.append(name)
            self.now += cost(name, self.calls.count(name))
            output = generate(**keywords)
            self.outputs[name].append(output)
            return output

        return timed


@pytest.fixture
def pair(model):
    return {"core": disturbed(model, 1), "full": disturbed(model, 2)}


def test_speed_is_the_median_of_tokens_without_padding_over_time(pair, tokenizer, sentences, monkeypatch):
    # 23 sentences in batches of 8 are 3 calls a repeat; after the warm-up the repeats cost 3, 30 and 6 seconds.
    seconds = {"core": [None, 1, 1, 1, 10, 10, 10, 2, 2, 2], "full": [None] + [4] * 9}
    clock = Clock(monkeypatch, pair, lambda name, call: seconds[name][call - 1] or 1000)
    speeds = compare_decoding_speed(
        pair, tokenizer, encoded(pair, tokenizer, sentences), batch_size=8, repeats=3, **LIMIT
    )
    for name, model in pair.items():
        model_outputs = clock.outputs[name][1:4]
        ends = model.config.eos_token_id
        tokens = 0
        for row in (row for output in model_outputs for row in output[:, 1:].tolist()):
            tokens += row.index(ends) + 1 if ends in row else len(row)
        assert tokens < 23 * 12, "some sentence ends early, so padding is there to be left out"
        assert speeds[name]["output_tokens"] == tokens
        slowest, median, fastest = (30, 6, 3) if name == "core" else (12, 12, 12)
        assert speeds[name]["tokens_per_second"] == pytest.approx(tokens / median)
        assert speeds[name]["slowest"] == pytest.approx(tokens / slowest)
        assert speeds[name]["fastest"] == pytest.approx(tokens / fastest)


def test_models_take_turns_and_take_turns_at_being_first(pair, tokenizer, sentences, monkeypatch):
    clock = Clock(monkeypatch, pair, lambda *_: 1)
    compare_decoding_speed(pair, tokenizer, encoded(pair, tokenizer, sentences), batch_size=8, repeats=2, **LIMIT)
    turns = [tuple(clock.calls[i : i + 2]) for i in range(0, len(clock.calls), 2)]
    forth, back = ("core", "full"), ("full", "core")
    assert turns == [forth, *(forth, back, forth), *(back, forth, back)]


def test_the_figure_says_how_it_was_measured(model, tokenizer, sentences, monkeypatch):
    calls = []
    generate = model.generate
    monkeypatch.setattr(model, "generate", lambda **keywords: calls.append(keywords) or generate(**keywords))
    pair = {"model": model}
    speed = compare_decoding_speed(
        pair, tokenizer, encoded(pair, tokenizer, ["", *sentences]), batch_size=8, num_beams=2, repeats=1, **LIMIT
    )["model"]
    assert speed["tokens_per_second"] > 0
    how = {"sentences": 23, "batch_size": 8, "num_beams": 2, "repeats": 1, "device": "cpu", "dtype": "float64"}
    assert speed.items() >= how.items()
    with decoding_threads(model):
        assert speed["threads"] == torch.get_num_threads()
    assert [len(call["input_ids"]) for call in calls] == [8, 8, 8, 7]
    assert {(call["num_beams"], call["max_new_tokens"]) for call in calls} == {(2, 12)}


@pytest.mark.parametrize(
    ("config", "given", "reaches", "settings"),
    [
        ({}, {"max_length": None}, {"num_beams": 4, "max_new_tokens": 64}, {"num_beams": 4, "max_new_tokens": 64}),
        ({"num_beams": 2, "max_length": 9}, {"num_beams": None}, {}, {"num_beams": 2, "max_length": 9}),
        ({"num_beams": 2}, {"max_length": 8}, {"max_length": 8}, {"num_beams": 2, "max_length": 8}),
        (
            {"num_beams": 2, "max_new_tokens": 7},
            {"num_beams": 3},
            {"num_beams": 3},
            {"num_beams": 3, "max_new_tokens": 7},
        ),
    ],
)
def test_what_neither_call_nor_config_sets_has_one_default(
    model, tokenizer, sentences, monkeypatch, config, given, reaches, settings
):
    pad, calls = tokenizer.pad_token_id, []
    tokens = {"decoder_start_token_id": pad, "eos_token_id": 0, "pad_token_id": pad}
    monkeypatch.setattr(model, "generation_config", GenerationConfig(**tokens, **config))
    generate = model.generate
    monkeypatch.setattr(model, "generate", lambda **keywords: calls.append(keywords) or generate(**keywords))
    translate(model, tokenizer, sentences[:2], **given)
    pair = {"model": model}
    speed = compare_decoding_speed(pair, tokenizer, encoded(pair, tokenizer, sentences[:2]), repeats=1, **given)[
        "model"
    ]
    assert len(calls) == 3
    for call in calls:
        assert {name: call[name] for name in call.keys() - {"input_ids", "attention_mask"}} == reaches
    assert decoding_settings(model, tokenizer, **given) == settings
    assert speed["num_beams"] == settings["num_beams"]


def test_what_cannot_be_measured_is_refused(model, tokenizer, sentences):
    ids = encoded({"model": model}, tokenizer, sentences)
    with pytest.raises(ValueError, match="repeats=0"):
        compare_decoding_speed({"model": model}, tokenizer, ids, repeats=0)
    with pytest.raises(ValueError, match="encoded holds 1 sentences, none with text"):
        compare_decoding_speed({"model": model}, tokenizer, encoded({"model": model}, tokenizer, [" "]))
    elsewhere = copy.deepcopy(model).to("meta")
    with pytest.raises(ValueError, match=r"different devices, \{'here': 'cpu', 'there': 'meta'\}"):
        compare_decoding_speed({"here": model, "there": elsewhere}, tokenizer, ids)


def test_a_device_goes_by_the_name_of_the_gpu_or_by_its_kind(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    assert decoding.device_name(torch.device("cuda:1")) == "GPU 1"
    assert decoding.device_name(torch.device("cpu")) == "cpu"


def test_the_settings_hold_whatever_else_was_given(model, tokenizer):
    given = dict(num_beams=2, max_length=9, length_penalty=0.6, early_stopping="never", no_repeat_ngram_size=None)
    expected = dict(num_beams=2, max_length=9, length_penalty=0.6, early_stopping="never")
    assert decoding_settings(model, tokenizer, **given) == expected


@pytest.mark.parametrize(
    ("parameters", "chosen", "threads"),
    [(4_000_000, None, 1), (4_000_001, None, 5), (1, "variable", 5), (1, "call", 3)],
)
def test_a_small_model_decodes_on_one_thread_unless_somebody_chose(parameters, chosen, threads, monkeypatch):
    used = [5]
    monkeypatch.setattr(torch, "get_num_threads", lambda: used[-1])
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    monkeypatch.setattr(decoding, "_OWN_THREADS", 5)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if chosen == "variable":
        monkeypatch.setenv("OMP_NUM_THREADS", "5")
    elif chosen == "call":
        used.append(3)
    model = tiny_model("marian")
    model.num_parameters = lambda: parameters
    before = used[-1]
    with contextlib.suppress(ZeroDivisionError), decoding_threads(model, model):
        assert used[-1] == threads
        raise ZeroDivisionError
    assert used[-1] == before, "as before, also after an error"


def test_a_token_that_the_tokenizer_lacks_ends_in_a_sentence(tokenizer, monkeypatch):
    def lacks(*_, **__):
        raise IndexError("piece id is out of range.")  # as sentencepiece does

    monkeypatch.setattr(type(tokenizer), "batch_decode", lacks)
    with pytest.raises(ValueError, match=rf"writes token \d+, and its tokenizer has {VOCABULARY} entries; give"):
        translate(tiny_model("marian", vocab_size=VOCABULARY), tokenizer, ["eins"], max_new_tokens=2)
