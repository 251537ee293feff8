"""Cores at their own size: what they hold, the class that they are of, and which models have one."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoModelForSeq2SeqLM,
    BlenderbotSmallConfig,
    BlenderbotSmallForConditionalGeneration,
    MBartConfig,
    MBartForConditionalGeneration,
    MT5Config,
    MT5ForConditionalGeneration,
    PegasusConfig,
    PegasusForConditionalGeneration,
    T5EncoderModel,
)

from hf_ats.checkpoint import (
    check_core_class,
    export_core,
    export_full,
)
from hf_ats.checkpoint.files import save_network
from hf_ats.partition import (
    PartitionConfig,
    at_level,
    count_exported_parameters,
    partition_,
    partitioned_layers,
)
from hf_ats.remote_code.attention_ats import NarrowKeyAttention
from hf_ats.remote_code.modeling_ats import LowRankLinear
from tests.support.checkpoints import assert_close_logits, logits
from tests.support.decodings import assert_greedy, beam_scores
from tests.support.exports import CODE, FILES, WEIGHTS, files
from tests.support.models import (
    ALL_FAMILIES,
    FAMILIES,
    QUERIES_AND_KEYS,
    partition_of,
    partitioned,
    probe_batch,
    tiny_config,
    tiny_model,
)
from tests.support.versions import BEFORE_5


@pytest.mark.law(number=6)
@pytest.mark.parametrize("family", FAMILIES)
def test_cores_hold_factors_and_full_exports_hold_the_merged_weight(family, tmp_path):
    model = partitioned(family, "rank ladder")
    export_core(model, tmp_path / "core", level="level1")
    export_full(model, tmp_path / "full")
    core, full = (AutoModelForSeq2SeqLM.from_pretrained(tmp_path / name) for name in ("core", "full"))
    assert type(full) is type(model)
    for name, layer in partitioned_layers(model).items():
        low_rank, linear = core.get_submodule(name), full.get_submodule(name)
        assert (type(low_rank), type(linear)) == (LowRankLinear, nn.Linear)
        assert torch.equal(low_rank.U.weight, torch.cat(list(layer.U)))
        assert torch.equal(low_rank.V.weight, torch.cat(list(layer.V), dim=1))
        V, U = torch.cat(list(layer.V), dim=1), torch.cat(list(layer.U))
        torch.testing.assert_close(linear.weight, layer.weight + V @ U)


@pytest.mark.law(number=6)
@pytest.mark.parametrize("family", ["marian", "t5"])
def test_a_core_holds_one_V_and_one_U_of_a_shared_table_and_the_full_export_one_sum(family, tmp_path):
    model = partitioned(family, PartitionConfig(ratios=[0.25], target_modules=["embeddings"]))
    U, V = model.lm_head.factors(0)
    tables = {"core": [U, V], "full": [model.lm_head.merged_weight(1)]}
    if family == "marian":
        model.final_logits_bias.normal_()
    for level, expected in tables.items():
        {"core": export_core, "full": export_full}[level](model, tmp_path / level)
        stored = load_file(tmp_path / level / "model.safetensors")
        found = [tensor for name, tensor in stored.items() if tensor.shape in {one.shape for one in (*expected, V)}]
        assert sorted(map(len, found)) == sorted(map(len, expected))
        assert all(any(torch.equal(one, tensor) for tensor in found) for one in expected)
        network = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / level)
        assert network.lm_head.weight is network.get_input_embeddings().weight
        with at_level(model, level):
            assert_close_logits(logits(network, probe_batch(model)), logits(model, probe_batch(model)))


@pytest.mark.law(number=6)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("level", ["core", "level1"])
def test_a_core_by_width_is_physically_smaller_and_generates_what_the_model_does(family, level, tmp_path):
    if BEFORE_5 and family in ("bart", "m2m_100"):
        pytest.skip("transformers 4 cannot load what it saves of such a model without tied embeddings")
    model = partitioned(family, "width ladder", tie_word_embeddings=False)
    export_core(model, tmp_path / "core", level=level)
    core = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "core")
    assert type(core).__name__ == f"ATS{type(model).__name__}"
    neurons, dimensions = {"core": (16, 2), "level1": (32, 4)}[level]
    shapes = {"fc1": (neurons, 32), "fc2": (32, neurons), "q_proj": (4 * dimensions, 32)}
    shapes |= {"wi": shapes["fc1"], "wo": shapes["fc2"]}
    shapes |= dict.fromkeys(("k_proj", "q", "k"), shapes["q_proj"])
    stored = load_file(tmp_path / "core" / "model.safetensors")
    for name in partitioned_layers(model):
        assert isinstance(core.get_submodule(name), nn.Linear)
        assert stored[f"{name}.weight"].shape == shapes[name.rpartition(".")[2]]
    if family != "t5":  # whose own attention takes one size of heads, filled up with zeros
        attention = core.model.decoder.layers[0].encoder_attn
        assert isinstance(attention, NarrowKeyAttention) and type(attention.k_proj) is nn.Linear
    batch = probe_batch(model)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    options = dict(num_beams=4, min_new_tokens=10, max_new_tokens=10, return_dict_in_generate=True, output_scores=True)
    found = core.generate(**inputs, **options)
    with at_level(model, level):
        expected = beam_scores(model, inputs, found.sequences)
    torch.testing.assert_close(found.sequences_scores, expected, atol=1e-4, rtol=0)
    assert (beam_scores(model, inputs, found.sequences) - expected).abs().max() > 1e-3, (
        "the full network scores them otherwise"
    )
    keys, _, *_ = next(iter(found.past_key_values.self_attention_cache))
    assert keys.shape[-1] == (dimensions if family != "t5" else 8)
    # A core saves itself again, with its code.
    core.save_pretrained(tmp_path / "again")
    assert files(tmp_path / "again") == WEIGHTS | CODE
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "again")
    assert torch.equal(logits(again, batch), logits(core, batch))


FEED_FORWARD_FIELDS = {
    family: {"d_ff"} if family in ("t5", "mt5") else {"encoder_ffn_dim", "decoder_ffn_dim"} for family in ALL_FAMILIES
}


@pytest.mark.law(number=6)
@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_a_core_of_narrower_feed_forward_layers_is_a_stock_model(family, tokenizer, tmp_path):
    model = tiny_model(family)
    model.generation_config.update(num_beams=3, max_new_tokens=11)
    save_network(model, tmp_path / "before")
    config = partition_of(family, "feed-forward width", ratios=[0.25, 0.5], init="importance")
    partition_(model, config)
    for level, size in (("core", 16), ("level1", 32)):
        report = export_core(model, tmp_path / level, tokenizer=tokenizer, level=level)
        assert files(tmp_path / level) == FILES["full"], "no code"
        assert report.kind == "core" and report.parameters == count_exported_parameters(model, level)
        before, after = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("before", level))
        assert {name for name in after if after[name] != before.get(name)} == FEED_FORWARD_FIELDS[family]
        assert before.keys() == after.keys()
        assert {after[name] for name in FEED_FORWARD_FIELDS[family]} == {size}
        generation = [(tmp_path / name / "generation_config.json").read_text() for name in ("before", level)]
        assert generation[0] == generation[1]
        core = type(model).from_pretrained(tmp_path / level)
        assert core.num_parameters() == report.parameters < model.num_parameters()
        with at_level(model, level):
            assert_close_logits(logits(core, probe_batch(core)), logits(model, probe_batch(core)))


LAYER_FIELDS = {
    family: {"num_layers", "num_decoder_layers"} if family in ("t5", "mt5") else {"encoder_layers", "decoder_layers"}
    for family in ALL_FAMILIES
}


def shorter(family):
    """Three layers in each half; cores with one and two of each, and a quarter and half of the feed-forward neurons.

    The smallest core has the last layer of the decoder, but that of T5, which needs its first.
    """
    smallest = [0] if family in ("t5", "mt5") else [2]
    depth = PartitionConfig(method="depth", decoder_layers=[smallest, [0, 2]], encoder_layers=[1, 2])
    width = partition_of(family, "feed-forward width", ratios=[0.25, 0.5])
    return tiny_model(family, **dict.fromkeys(LAYER_FIELDS[family], 3)), [depth, width]


@pytest.mark.law(number=6)
@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_a_core_of_fewer_layers_and_narrower_ones_is_a_stock_model(family, tokenizer, tmp_path):
    model, partitions = shorter(family)
    save_network(model, tmp_path / "before")
    partition_(model, partitions)
    for level, number in (("core", 1), ("level1", 2)):
        report = export_core(model, tmp_path / level, tokenizer=tokenizer, level=level)
        assert files(tmp_path / level) == FILES["full"], "no code"
        assert report.parameters == count_exported_parameters(model, level)
        before, after = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("before", level))
        changed = {name for name in after if after[name] != before.get(name)} - {"num_hidden_layers"}
        assert before.keys() == after.keys() and changed == LAYER_FIELDS[family] | FEED_FORWARD_FIELDS[family]
        assert {after[name] for name in LAYER_FIELDS[family] | {"num_hidden_layers"} & set(after)} == {number}
        core = type(model).from_pretrained(tmp_path / level)
        with at_level(model, level):
            assert_close_logits(logits(core, probe_batch(core)), logits(model, probe_batch(core)))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_decodes_at_the_depth_and_rank_of_its_level_with_a_cache_beams_and_an_assistant(family, tmp_path):
    model, partitions = shorter(family)
    model.generation_config.update(max_length=9)
    vocabulary = PartitionConfig(ratios=[0.25, 0.5], target_modules=[*QUERIES_AND_KEYS[family], "embeddings"])
    partition_(model, [*partitions, vocabulary])
    batch = probe_batch(model)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    one = {name: tensor[:1] for name, tensor in inputs.items()}
    beams = dict(num_beams=3, min_new_tokens=8, return_dict_in_generate=True, output_scores=True)
    export_core(model, tmp_path / "core", level="core")
    assistant = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "core")
    for level, number in (("full", 3), ("level1", 2), ("core", 1)):
        with at_level(model, level):
            found = model.generate(**inputs, **beams)
            torch.testing.assert_close(
                found.sequences_scores, beam_scores(model, inputs, found.sequences), atol=1e-4, rtol=0
            )
            cached = [found.past_key_values.get_seq_length(layer) for layer in range(number)]
            assert cached == [found.sequences.shape[1] - 1] * number
            for network, helper in ((model, assistant), (assistant, model)):
                ids = network.generate(**one, num_beams=1, assistant_model=helper)
                assert_greedy(network, one, ids[0].tolist())


@pytest.mark.law(number=6)
@pytest.mark.parametrize(
    ("exclude", "field"),
    [
        (r".*encoder.*", "decoder_ffn_dim"),
        (r".*decoder.*", "encoder_ffn_dim"),
        (["decoder.layers.0.fc1", "decoder.layers.0.fc2"], None),
    ],
    ids=["decoder alone", "encoder alone", "all but one layer"],
)
def test_a_stock_core_has_one_width_in_each_half(exclude, field, tmp_path):
    config = PartitionConfig(method="width", ratios=[0.5], target_modules=["fc1", "fc2"], exclude_modules=exclude)
    model = partitioned("bart", config)
    export_core(model, tmp_path / "core")
    core = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "core")
    if field is None:  # which no stock config can say
        assert type(core).__name__ == "ATSBartForConditionalGeneration"
        assert [layer.fc1.out_features for layer in core.model.decoder.layers] == [64, 32]
        assert core.config.encoder_ffn_dim == core.config.decoder_ffn_dim == 64
    else:
        assert type(core) is type(model)
        other = ({"encoder_ffn_dim", "decoder_ffn_dim"} - {field}).pop()
        assert (getattr(core.config, field), getattr(core.config, other)) == (32, 64)
    with at_level(model, "core"):
        assert_close_logits(logits(core, probe_batch(core)), logits(model, probe_batch(core)))


def test_a_gated_feed_forward_core_is_a_stock_model(tmp_path):
    torch.manual_seed(0)
    config = MT5Config(vocab_size=96, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4, dropout_rate=0.0)
    model = MT5ForConditionalGeneration(config).eval()
    targets = ["wi_0", "wi_1", "wo"]
    partition_(model, PartitionConfig(method="width", ratios=[0.25], target_modules=targets, init="importance"))
    export_core(model, tmp_path / "core")
    core = MT5ForConditionalGeneration.from_pretrained(tmp_path / "core")
    assert core.config.d_ff == 16
    with at_level(model, "core"):
        assert_close_logits(logits(core, probe_batch(core)), logits(model, probe_batch(core)))


@pytest.mark.parametrize(
    ("config", "model_class"),
    [(PegasusConfig, PegasusForConditionalGeneration), (MBartConfig, MBartForConditionalGeneration)],
)
def test_narrow_feed_forward_cores_of_other_architectures_are_stock(config, model_class, tmp_path):
    sizes = {f"{half}_{what}": 2 for half in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    sizes |= dict(encoder_ffn_dim=64, decoder_ffn_dim=32, max_position_embeddings=64)
    model = model_class(config(vocab_size=96, d_model=32, **sizes)).eval()
    partition_(model, PartitionConfig("width", [0.25], target_modules=["fc1", "fc2"]))
    check_core_class(model)
    export_core(model, tmp_path / "core")
    core = model_class.from_pretrained(tmp_path / "core")
    assert (core.config.encoder_ffn_dim, core.config.decoder_ffn_dim) == (16, 8)
    with at_level(model, "core"):
        assert_close_logits(logits(core, probe_batch(model)), logits(model, probe_batch(model)))


# What is refused


@pytest.mark.parametrize("level", ["full", 2])
def test_the_full_level_is_no_core(level, tmp_path):
    with pytest.raises(ValueError, match=rf"level={level!r} is the full network.*export_full.*'core', 'level1'"):
        export_core(partitioned("marian", "rank ladder"), tmp_path / "out", level=level)


@pytest.mark.parametrize("level", ["level2", 3, -1, True])
def test_a_level_that_is_not_there_is_refused(level, tmp_path):
    with pytest.raises(ValueError, match=rf"level={level!r} is not a level"):
        export_core(partitioned("marian", "rank ladder"), tmp_path / "out", level=level)


def test_an_architecture_without_a_core_class_is_pointed_to_the_dense_core(tmp_path):
    torch.manual_seed(0)
    sizes = dict.fromkeys(("encoder_layers", "decoder_layers"), 1)
    sizes |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4)
    sizes |= dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 64)
    config = BlenderbotSmallConfig(vocab_size=96, d_model=32, **sizes)
    model = BlenderbotSmallForConditionalGeneration(config).eval()
    partition_(model, PartitionConfig(ratios=[0.25], target_modules=["fc1", "fc2"]))
    for refused in (check_core_class, lambda model: export_core(model, tmp_path / "core")):
        with pytest.raises(ValueError, match=r"no core class for Blenderbot.*MarianMTModel.*dense=True.* trained\.$"):
            refused(model)
    export_core(model, tmp_path / "core", dense=True)
    with at_level(model, "core"):
        expected = logits(model, probe_batch(model))
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "core")
    assert_close_logits(logits(again, probe_batch(model)), expected)


def test_a_class_without_cores_whose_config_can_be_narrower_is_pointed_to_that_too():
    model = partition_(T5EncoderModel(tiny_config("t5")), PartitionConfig(ratios=[0.25], target_modules=["wi", "wo"]))
    with pytest.raises(
        ValueError,
        match=r"no core class for T5EncoderModel.*dense=True.*only the feed-forward layers, by width: such cores",
    ):
        check_core_class(model)
