import json

import pytest

from hf_ats.partition import Composition, PartitionConfig
from hf_ats.partition.config import partition_from_dict


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(ratios=[]), r"ratios=\[\] must lie between 0 and 1 and increase strictly.*\[0.03125, 0.25\]"),
        (dict(ratios=[0.0]), r"ratios=\[0.0\] must lie"),
        (dict(ratios=[0.25, 1.0]), r"ratios=\[0.25, 1.0\] must lie"),
        (dict(ratios=[float("nan")]), r"ratios=\[nan\] must lie"),
        (dict(ratios=[0.25, 0.25]), r"ratios=\[0.25, 0.25\] must lie"),
        (dict(method="lowrank"), "method='lowrank' is not known; write one of 'rank', 'width'"),
        (dict(init="zeros"), "init='zeros' is not a start of method='rank'; write one of 'svd', 'random'"),
        (
            dict(method="width", init="svd"),
            "init='svd' is not a start of method='width'; write one of 'first', 'importa",
        ),
        (
            dict(target_modules={"fc1": "out"}),
            r"which method='width' knows; with method='rank' write a list.*\['fc1'\]",
        ),
        (
            dict(method="width", target_modules={"fc1": "half"}),
            "gives 'fc1' the role 'half'; write one of 'out', 'in'",
        ),
        (dict(target_modules="fc(1"), r"regular expression, and does not compile.*target_modules=\['fc\(1'\]"),
        (
            dict(ranks={}),
            r"ranks=\{\} must give modules whole numbers of at least 1; write such as ranks=\{'fc1': 16,",
        ),
        (dict(ranks={"fc1": 0}), r"ranks=\{'fc1': 0\} must give modules whole numbers"),
        (dict(ranks={"fc1": 0.25}), r"ranks=\{'fc1': 0.25\} must give modules whole numbers"),
        (dict(ranks={"fc1": True}), r"ranks=\{'fc1': True\} must give modules whole numbers"),
        (dict(ranks={"fc1": 4}, ratios=[0.5]), r"ranks=\{'fc1': 4\} say .*and so do ratios=\[0.5\]; leave one"),
        (dict(ranks={"fc1": 4}, target_modules=["fc1"]), r"and so do target_modules=\['fc1'\]; leave one"),
        (dict(ranks={"fc1": 4}, method="width"), r"are those of method='rank'; with method='width' write ratios"),
        (
            dict(init="adapter"),
            r"is how partition_from_adapter_\(model, adapter\) starts.*call that, or write .*'svd'",
        ),
        (dict(method="depth"), r"method='depth' keeps layers; say how many, such as decoder_layers=\[1\]"),
        (
            dict(decoder_layers=[1]),
            r"decoder_layers=\[1\] are those of method='depth', .*'rank'; leave",
        ),
        (dict(method="depth", decoder_layers=1), r"decoder_layers=1 must have an entry for each core, a number"),
        (dict(method="depth", decoder_layers=[0]), r"decoder_layers=\[0\] must have an entry .*=\[\[0\], \[0, 5\]\]"),
        (dict(method="depth", encoder_layers=[[]]), r"encoder_layers=\[\[\]\] must have an entry"),
        (dict(method="depth", encoder_layers=[[2, 0]]), r"encoder_layers=\[\[2, 0\]\] must .* which increase from 0"),
        (
            dict(method="depth", decoder_layers=[1], encoder_layers=[1, 2]),
            r"decoder_layers=\[1\] and encoder_layers=\[1, 2\] differ in the number of cores; write an entry for each",
        ),
        (
            dict(method="depth", decoder_layers=[1], ratios=[0.5]),
            r"ratios=\[0.5\] says nothing of .*second",
        ),
        (dict(method="depth", decoder_layers=[1], init="svd"), r"init='svd' says nothing of method='depth'"),
        (
            dict(method="width", target_modules=["fc1", "fc2", "embeddings"]),
            r"names 'embeddings', the vocabulary tables, .* method='width'; leave it out, or .*second partition",
        ),
        (dict(exclude_modules="*"), "exclude_modules='\\*' is a string, hence a regular expression"),
    ],
)
def test_a_bad_field_is_named_with_its_value_and_a_remedy(fields, message):
    with pytest.raises(ValueError, match=message):
        PartitionConfig(**fields)


@pytest.mark.parametrize(
    "config",
    [
        PartitionConfig(ratios=(0.1, 0.5), target_modules=("fc1",), exclude_modules=r".*\.0\.fc1", init="random"),
        PartitionConfig(ranks={"fc1": 4, "encoder.layers.0.fc1": 8}, exclude_modules=["x.fc1"], init="adapter"),
        PartitionConfig(method="width", ratios=[0.5], target_modules={"up": "out", "down": "in"}, init="importance"),
        PartitionConfig(method="depth", decoder_layers=(1, (0, 5)), encoder_layers=[[0], 3]),
        PartitionConfig(target_modules=["fc1", "embeddings"], tables=[["model.shared", "lm_head"]]),
        Composition([PartitionConfig(), PartitionConfig(method="depth", decoder_layers=[1])]),
    ],
)
def test_a_configuration_survives_its_dictionary(config):
    assert partition_from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_dictionary_of_before_there_were_ranks_is_read():
    fields = PartitionConfig(ratios=[0.1, 0.5]).to_dict()
    del fields["ranks"]
    assert PartitionConfig(**fields) == PartitionConfig(ratios=[0.1, 0.5])


@pytest.mark.parametrize(
    ("fields", "cores", "ratios"),
    [
        ({}, 1, [0.03125]),
        (dict(ratios=[0.1, 0.5]), 2, [0.1, 0.5]),
        (dict(ranks={"fc1": 4, "fc2": 8}), 1, []),
        (dict(method="depth", encoder_layers=[1, [0, 2]]), 2, []),
    ],
)
def test_the_number_of_cores_is_that_of_ratios_or_one_with_ranks(fields, cores, ratios):
    config = PartitionConfig(**fields)
    assert config.num_cores == cores and config.ratios == ratios


def test_each_method_has_a_start_of_its_own():
    assert PartitionConfig().init == "svd" and PartitionConfig(method="width").init == "first"


@pytest.mark.parametrize(
    ("ratio", "size", "width"), [(0.25, 2048, 512), (0.3, 8, 2), (0.3, 9, 3), (0.01, 64, 1), (0.03125, 512, 16)]
)
def test_a_core_keeps_the_rounded_share_and_at_least_one(ratio, size, width):
    assert PartitionConfig(method="width", ratios=[ratio]).width(ratio, size) == width
