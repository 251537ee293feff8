"""Epochs of every way over the same text from the same network, counted right; and the command itself."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from benchmarks import epoch
from benchmarks.epoch import check_same_network, check_same_text, survey, training_flops
from benchmarks.epoch_setup import WAYS, EpochBenchmark, build, build_trainer, draw_pairs, equal_batch_size, load_text
from benchmarks.overhead import bare_loop, check_same_weights
from benchmarks.record import read_record
from benchmarks.turns import train_in_turns

SETTINGS = EpochBenchmark(
    sentences=300, max_tokens=256, layers=1, width=32, vocab_size=300, rounds=1, turn=3, ratios=[0.25]
)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return load_text(SETTINGS, tmp_path_factory.mktemp("tokenizer"))


def trainer_of(way: str, text, tmp_path, settings=SETTINGS, **changes):
    return build_trainer(WAYS[way], settings, text, tmp_path, epochs=1, **changes)


@pytest.mark.parametrize("way", WAYS)
def test_an_epoch_of_every_way_holds_each_sentence_once(way, text, tmp_path):
    rows = Counter((tuple(row["input_ids"]), tuple(row["labels"])) for row in text.dataset)
    tokens = sum(len(side) * count for pair, count in rows.items() for side in pair)
    found = survey(trainer_of(way, text, tmp_path).get_train_dataloader())
    assert found.rows == rows
    assert found.tokens == tokens
    assert 0 < found.padding_share < 1


def test_a_step_sees_as_many_real_tokens_by_either_kind_of_batch(text, tmp_path):
    ways = ("full_budget", "stock_grouped", "full_random", "stock_random")
    budget, *others = (survey(trainer_of(way, text, tmp_path).get_train_dataloader()) for way in ways)
    assert len(budget.shapes) > 20
    per_step = budget.tokens / len(budget.shapes)
    for one in others:
        # A whole number of sentences is as near as it gets.
        assert one.tokens / len(one.shapes) == pytest.approx(
            per_step, rel=0.5 * len(budget.shapes) / SETTINGS.sentences
        )
    shares = [one.padding_share for one in (budget, *others)]
    assert shares[0] < 0.8 * shares[1] < 0.64 * shares[2]


@pytest.mark.parametrize(("sentences", "batches", "size"), [(100, 10, 10), (100, 15, 7), (5, 9, 1)])
def test_the_equal_batch_size_is_the_nearest(sentences, batches, size):
    assert equal_batch_size(sentences, batches) == size


def test_padding_is_counted():
    batches = [
        {
            "input_ids": torch.tensor([[5, 6, 7], [8, 9, 9]]),
            "attention_mask": torch.tensor([[1, 1, 1], [1, 0, 0]]),
            "labels": torch.tensor([[4, 0], [0, -100]]),
        },
        {
            "input_ids": torch.tensor([[5, 6, 7]]),
            "attention_mask": torch.tensor([[1, 1, 1]]),
            "labels": torch.tensor([[4, 0]]),
        },
    ]
    found = survey(batches)
    assert found.shapes == [(2, 3, 2), (1, 3, 2)]
    assert (found.tokens, found.padded_tokens, found.padding_share) == (12, 15, pytest.approx(3 / 15))
    assert found.rows == {((5, 6, 7), (4, 0)): 2, ((8,), (0,)): 1}


def test_other_text_is_refused(text):
    batch = {"input_ids": torch.tensor([[5]]), "attention_mask": torch.tensor([[1]]), "labels": torch.tensor([[4]])}
    with pytest.raises(RuntimeError, match="epoch of second does not hold the same sentences"):
        check_same_text({"first": survey([batch]), "second": survey([batch, batch])})


def test_another_network_is_refused(text, tmp_path):
    ways = ("stock_random", "full_budget", "alternating_budget")
    trainers = {way: trainer_of(way, text, tmp_path) for way in ways}
    ids = torch.tensor([[5, 6, 7]])
    probe = {"input_ids": ids, "decoder_input_ids": ids}
    check_same_network(trainers, probe)
    trainers["other"] = trainer_of("alternating_budget", text, tmp_path, replace(SETTINGS, seed=1))
    with pytest.raises(RuntimeError, match="other begins with another network than stock_random"):
        check_same_network(trainers, probe)


@pytest.mark.parametrize("way", ["full_random", "alternating_budget"])
def test_the_operations_are_those_that_the_trainer_counts(way, text, tmp_path):
    trainer = trainer_of(way, text, tmp_path)
    found = survey(trainer.get_train_dataloader())
    trainer = trainer_of(way, text, tmp_path)
    expected = training_flops(WAYS[way], found.shapes, trainer.model)
    trainer.train()
    # Random batches come in another order, and so in other shapes; those by budget have the same.
    assert trainer.state.total_flos == pytest.approx(expected, rel=0 if way == "alternating_budget" else 0.1)


def test_real_text_is_drawn_by_seed(tmp_path):
    for language in ("de", "en"):
        (tmp_path / f"train.{language}").write_text("".join(f"{language} {n}\n" for n in range(50)), encoding="utf-8")
    settings = EpochBenchmark(train_prefix=str(tmp_path / "train"), sentences=20)
    first, same = (draw_pairs(settings)["translation"][:] for _ in range(2))
    assert first == same and len({pair["de"] for pair in first}) == 20
    assert draw_pairs(replace(settings, seed=1))["translation"][:] != first
    with pytest.raises(ValueError, match="--sentences 51 is more than the 50"):
        draw_pairs(replace(settings, sentences=51))


# ---- The overhead ----


def test_loops_that_end_with_other_weights_are_refused(text):
    batch = {
        "input_ids": torch.tensor([[5, 6, 7]]),
        "labels": torch.tensor([[4, 5]]),
        "decoder_input_ids": torch.tensor([[5, 6]]),
    }
    models = [build(SETTINGS, text.tokenizer, partitioned=True) for _ in range(2)]
    check_same_weights(*models)
    # Four steps that alternate against four at the full level.
    train_in_turns({"a": bare_loop(models[0], [batch] * 4, 1, SETTINGS, alternating=True)}, 1)
    train_in_turns({"b": bare_loop(models[1], [batch] * 4, 1, SETTINGS, alternating=False)}, 1)
    with pytest.raises(RuntimeError, match="end with another"):
        check_same_weights(*models)


# ---- The command ----


def test_the_command_prints_its_tables_and_writes_its_record(tmp_path, command):
    """The trainers and their bare loops end with the same weights, or it would raise."""
    model = "--layers 1 --width 32 --vocab_size 300 --sentences 100 --max_tokens 256 --ratios 0.25".split()
    short = "--rounds 1 --turn 4 --overhead_batches 4 --overhead_rounds 2".split()
    printed = command(epoch, *model, *short, "--output", tmp_path / "epoch.json")
    record = read_record(tmp_path / "epoch.json")
    measurements, ratios = record["measurements"], record["ratios"]
    assert record["command"].startswith("python -m benchmarks.epoch --layers 1")
    assert list(measurements)[:5] == list(WAYS)
    for way in WAYS:
        one = measurements[way]
        assert one["sentences"] == 100 and one["seconds"]["median"] > 0
        # Tokens per second are of real tokens.
        assert one["tokens_per_second"]["median"] == one["tokens"] / one["seconds"]["median"]
    flops = measurements["full_budget"]["flops"] / measurements["stock_random"]["flops"]
    name = "token-budget epoch / fixed-batch random epoch, equal precision"
    assert ratios[name]["limit"] == pytest.approx(flops) and flops < 1
    loops = ["stock_trainer", "ats_trainer", "ats_trainer_with_data", "stock_bare_loop", "ats_bare_loop"]
    assert list(measurements)[5:] == loops
    assert all(measurements[name]["seconds_per_step"]["median"] > 0 for name in loops)
    assert len(ratios) == 5 + 3 and "Trainer overhead over a bare loop, small model" in ratios
    for name in (*measurements, *ratios):
        assert name in printed


def test_a_mistake_ends_with_a_sentence(tmp_path, command):
    with pytest.raises(SystemExit, match=r"^epoch.py: .*none"):
        command(epoch, "--train_prefix", tmp_path / "none")
