"""The wide-and-deep example: its words, its features, its networks, and the command on real sentences."""

import json
import sys

import pytest
import torch
from torch import nn

from examples.wide_and_deep import train
from examples.wide_and_deep.networks import (
    Deep,
    DeepConfig,
    Wide,
    collate,
    features,
    load_deep,
    save_deep,
    words_of_languages,
)
from hf_ats.data import default_corpus
from hf_ats.partition import SummedNetworks, at_level

LANGUAGES = ["de", "en"]


def run(monkeypatch, *arguments) -> None:
    """`python -m examples.wide_and_deep.train` in this process."""
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, arguments)])
    train.main()


def test_a_word_is_trained_on_or_tested_and_never_both():
    # Made of 26 * 26 words, and of the same in capitals with a number between.
    letters = "abcdefghijklmnopqrstuvwxyz"
    german = [f"{a}{b}ä" for a in letters for b in letters]
    english = [f"{a}{b}s" for a in letters for b in letters]
    shared = [f"{a}{b}" for a in letters for b in letters]
    texts = {
        "de": [" ".join(german), " 42, ".join(word.upper() for word in shared)],
        "en": [" ".join(english + shared)],
    }
    trained, test = words_of_languages(texts)
    assert sorted(trained + test) == sorted(
        [(word, "de") for word in german + shared] + [(word, "en") for word in english + shared]
    )
    assert not {word for word, _ in trained} & {word for word, _ in test}
    assert 0.15 < len(test) / len(trained + test) < 0.25
    assert words_of_languages(texts) == (trained, test)


def test_too_little_text_is_refused():
    with pytest.raises(ValueError, match=r"'en' has 0 words, none for the training part; give more text"):
        words_of_languages(
            {"de": default_corpus()["train"]["translation"][0]["de"].split() * 9 + _words(), "en": ["1"]}
        )


def _words():
    return [f"{a}{b}" for a in "abcdefgh" for b in "abcdefgh"]


def test_features_are_the_pieces_and_the_pairs_of_letter_pairs_of_a_word():
    short, long = features([("ab", "en"), ("abcd", "de")], LANGUAGES, 10**6, 10**6)
    # <ab>: 4 + 3 + 2 + 1 pieces; the pairs <a, ab, b> give 3 crosses.
    assert (len(short["pieces"]), len(short["crosses"]), short["labels"]) == (10, 3, 1)
    assert (len(long["pieces"]), len(long["crosses"]), long["labels"]) == (6 + 5 + 4 + 3, 10, 0)
    assert len(set(short["pieces"])) == 10 and len(set(long["crosses"])) == 10
    shared = set(short["crosses"]) & set(long["crosses"])
    assert len(shared) == 1, "<a with ab"
    assert all(1 <= id_ <= 7 for id_ in features([("abcd", "de")], LANGUAGES, 7, 5)[0]["pieces"])
    assert all(1 <= id_ <= 5 for id_ in features([("abcd", "de")], LANGUAGES, 7, 5)[0]["crosses"])


def test_padding_changes_nothing():
    torch.manual_seed(0)
    config = DeepConfig(buckets=50, width=4, hidden=5)
    model = SummedNetworks(Deep(config), Wide(40, 2))
    nn.init.normal_(model.extension.weights.weight)
    rows = features([("ab", "en"), ("abcdefg", "de")], LANGUAGES, 50, 40)
    batch = collate(rows)
    assert batch["labels"].tolist() == [1, 0] and (batch["pieces"][0] == 0).any()
    labels = batch.pop("labels")
    for level in ("core", "full"):
        with at_level(model, level):
            together = model(**batch)
            for row, logits in zip(rows, together, strict=True):
                alone = collate([row])
                torch.testing.assert_close(model(pieces=alone["pieces"], crosses=alone["crosses"])[0], logits)
    assert not torch.allclose(together, model.core(batch["pieces"])) and len(labels) == 2


def test_the_deep_network_is_saved_alone(tmp_path):
    deep = Deep(DeepConfig(buckets=50, width=4, hidden=5))
    save_deep(deep, LANGUAGES, tmp_path / "deep")
    other, languages = load_deep(tmp_path / "deep")
    assert languages == LANGUAGES and not other.training
    pieces = torch.randint(0, 51, (3, 6))
    assert torch.equal(other(pieces), deep(pieces))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Words that a rule tells apart, so that a few steps learn it: German ones end in -en or -ung, English in -ing."""
    folder = tmp_path_factory.mktemp("words")
    stems = [f"{a}{b}{c}" for a in "bdfghklmnprstw" for b in "aeiou" for c in "bdfgklmnprst"]
    (folder / "train.de").write_text("".join(f"{s}{'en' if i % 2 else 'ung'}\n" for i, s in enumerate(stems)))
    (folder / "train.en").write_text("".join(f"{s}ing\n" for s in stems))
    return folder


def test_the_command_trains_scores_and_saves_each_schedule(corpus, tmp_path, monkeypatch, capsys):
    options = "--seeds 1 2 --epochs 2 --batch_size 64 --wide_buckets 512"
    run(monkeypatch, "--train_prefix", corpus / "train", "--output_dir", tmp_path, *options.split())
    results = json.loads((tmp_path / "results.json").read_text())
    assert {name: list(levels) for name, levels in results["accuracy"].items()} == {
        "core": ["core"], "full": ["full"], "alternating": ["core", "full"],
    }  # fmt: skip
    for levels in results["accuracy"].values():
        for values in levels.values():
            assert len(values) == 2 and min(values) > 80, "far above chance"
    assert results["words"]["train"] + results["words"]["test"] == 2 * 14 * 5 * 12
    assert results["parameters"]["full"] - results["parameters"]["core"] == 2 * 513
    assert results["command"].startswith("python -m examples.wide_and_deep.train --train_prefix ")
    printed = capsys.readouterr().out
    lines = printed[printed.index("training ") :].splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["core", "full", "alternating"]
    deep, languages = load_deep(tmp_path / "alternating" / "deep")
    words = [("bagung", "de"), ("baging", "en")]
    batch = collate(features(words, languages, deep.config.buckets, 1))
    assert [languages[label] for label in deep(batch["pieces"]).argmax(dim=-1)] == ["de", "en"]
    with pytest.raises(SystemExit, match=r"^train.py: .*no"):
        run(monkeypatch, "--train_prefix", corpus / "no", "--output_dir", tmp_path)
