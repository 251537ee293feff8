"""What the flags of a run become: a partition, facts of a card."""

import json

import pytest

from hf_ats.partition import Composition, PartitionConfig
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


def test_layers_are_numbers_or_indices_and_stand_alone_or_beside_another_method():
    alone = config(decoder_layers=["1", "0,5"], encoder_layers=["0,", "3"])
    assert alone == PartitionConfig(method="depth", decoder_layers=[1, [0, 5]], encoder_layers=[[0], 3])
    assert config(method="depth", decoder_layers=["2"]) == PartitionConfig(method="depth", decoder_layers=[2])
    narrow = dict(method="width", ratios=[0.5], target_modules=["fc1", "fc2"])
    two = Composition([PartitionConfig(**narrow), PartitionConfig(method="depth", decoder_layers=[1])])
    assert config(**narrow, decoder_layers=["1"]) == two
    for fields, message in (
        (dict(decoder_layers=["one"]), "--decoder_layers holds 'one'; write a number of layers for each core"),
        (dict(encoder_layers=["0,,5"]), "--encoder_layers holds '0,,5'"),
        (dict(decoder_layers=["1"], ratios=[0.5]), r"ratios=\[0.5\] says nothing of method='depth'"),
        (dict(decoder_layers=["1"], method="none"), "--method none leaves the model whole; leave out what a core"),
        (narrow | dict(decoder_layers=["1", "2"]), "equally many cores, and here method='width' has 1"),
    ):
        with pytest.raises(ValueError, match=message):
            config(**fields)


def test_partitions_of_a_recipe_or_the_command_line_are_one_ladder(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "partitions:\n"
        "  - {method: depth, decoder_layers: [[0], 2]}\n"
        "  - {method: width, ratios: [0.25, 0.5], target_modules: [fc1, fc2]}\n"
    )
    expected = Composition(
        [
            PartitionConfig(method="depth", decoder_layers=[[0], 2]),
            PartitionConfig(method="width", ratios=[0.25, 0.5], target_modules=["fc1", "fc2"]),
        ]
    )
    words = ["--output_dir", str(tmp_path), "--recipe", str(recipe)]
    assert parse_flags("a run", words)[2].config() == expected
    given = [json.dumps(part.to_dict()) for part in expected.parts]
    assert config(partitions=given) == expected and config(partitions=given[:1]) == expected.parts[0]
    layers = tmp_path / "layers.yaml"
    layers.write_text("decoder_layers: [[0], [0, 5]]\n")
    args = parse_flags("a run", [*words[:3], str(layers)])[2]
    assert args.config() == PartitionConfig(method="depth", decoder_layers=[[0], [0, 5]])
    for word in ("depth", "[]", '{"layers": [1]}', '{"ratios": 0.5}'):
        with pytest.raises(ValueError, match="which is not a JSON object of the fields method, ratios"):
            config(partitions=[given[0], word])
    with pytest.raises(ValueError, match="--partitions are the whole partition, and --ratios is a part; leave one"):
        config(partitions=given, ratios=[0.5])


def test_ids_of_the_hub_are_facts_of_the_card_and_directories_are_not(tmp_path):
    def facts(*words):
        return parse_flags("a run", ["--output_dir", str(tmp_path), *words])[3].facts

    found = {"datasets": ["wmt17"], "base_model": "Helsinki-NLP/opus-mt-de-en"}
    assert facts()("wmt17", "Helsinki-NLP/opus-mt-de-en") == found
    assert facts()(str(tmp_path), str(tmp_path)) == facts()() == {}
    given = facts("--card_datasets", "a/b", "c/d", "--base_model", "e/f", "--card_languages", "de", "en")
    assert given("wmt17", "g/h") == {"datasets": ["a/b", "c/d"], "base_model": "e/f", "languages": ["de", "en"]}
