"""What the flags of a run become: a partition, facts of a card."""

import pytest

from hf_ats.run import PartitionArguments, parse_flags


def config(**fields):
    return PartitionArguments(**fields).config()


def test_words_with_a_rank_each_are_ranks():
    assert config(ranks=["fc1=16", "layers.0.q_proj=8"]).ranks == {"fc1": 16, "layers.0.q_proj": 8}
    for word in ("fc1", "fc1=", "fc1=x", "=4", "fc1=1.5"):
        with pytest.raises(ValueError, match=f"holds '{word}'; write a name and its rank"):
            config(ranks=["q_proj=8", word])


@pytest.mark.parametrize(
    ("words", "pattern"),
    [
        (["fc1"], ["fc1"]),
        (["encoder.layers.0.fc1"], ["encoder.layers.0.fc1"]),
        (["fc1", r".*\d"], ["fc1", r".*\d"]),
        ([r"model\.encoder\..*fc1"], r"model\.encoder\..*fc1"),
    ],
)
def test_a_single_word_that_is_no_name_is_a_regular_expression(words, pattern):
    made = config(ratios=[0.25], target_modules=words, exclude_modules=words)
    assert made.target_modules == made.exclude_modules == pattern


def test_words_with_an_equals_sign_are_roles_and_none_is_no_partition():
    made = config(method="width", ratios=[0.25], target_modules=["up=out", "layers.0.down=in"], exclude_modules=["up"])
    assert made.target_modules == {"up": "out", "layers.0.down": "in"} and made.exclude_modules == ["up"]
    assert config(method="none") is None


def test_ids_of_the_hub_are_facts_of_the_card_and_directories_are_not(tmp_path):
    def facts(*words):
        return parse_flags("a run", ["--output_dir", str(tmp_path), *words])[3].facts

    found = {"datasets": ["wmt17"], "base_model": "Helsinki-NLP/opus-mt-de-en"}
    assert facts()("wmt17", "Helsinki-NLP/opus-mt-de-en") == found
    assert facts()(str(tmp_path), str(tmp_path)) == facts()() == {}
    given = facts("--card_datasets", "a/b", "c/d", "--base_model", "e/f", "--card_languages", "de", "en")
    assert given("wmt17", "g/h") == {"datasets": ["a/b", "c/d"], "base_model": "e/f", "languages": ["de", "en"]}
