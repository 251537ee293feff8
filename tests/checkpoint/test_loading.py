"""`load_partitioned` gives back what was saved, bit by bit, and says what else a directory holds."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_ats.checkpoint import (
    export_adapter,
    export_core,
    export_full,
    load_network,
    load_partitioned,
    load_tokenizer,
    stored_levels,
)
from hf_ats.partition import (
    PartitionConfig,
    at_level,
    find_partition,
    get_level,
    level_names,
    num_levels,
    partition_,
    partitioned_layers,
    set_level,
)
from tests.support.checkpoints import assert_close_logits, logits, trained_tokenizer
from tests.support.models import FAMILIES, partitioned, probe_batch, tiny_model


def assert_equal_models(loaded, model) -> None:
    """Same class, partition and tied parameters; every tensor and the logits of every level bitwise the same."""
    assert type(loaded) is type(model)
    assert find_partition(loaded) == find_partition(model)
    assert {name: repr(layer) for name, layer in partitioned_layers(loaded).items()} == {
        name: repr(layer) for name, layer in partitioned_layers(model).items()
    }
    assert [name for name, _ in loaded.named_parameters()] == [name for name, _ in model.named_parameters()]
    state, expected = loaded.state_dict(), model.state_dict()
    assert state.keys() == expected.keys()
    for name in expected:
        assert state[name].dtype == expected[name].dtype, name
        assert torch.equal(state[name], expected[name]), name
    batch = probe_batch(model)
    for level in range(num_levels(model)):
        with at_level(model, level), at_level(loaded, level):
            assert torch.equal(logits(loaded, batch), logits(model, batch)), level


def tables(model) -> list[tuple[str, torch.Tensor]]:
    """Marian's and M2M100's sinusoidal positions, by name."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return [(name, tensor) for name, tensor in named if "embed_positions" in name and not tensor.requires_grad]


@pytest.mark.law(number=9)
@pytest.mark.parametrize(
    ("partition", "dtype"),
    [
        ("rank ladder", torch.float32),
        ("rank ladder", torch.bfloat16),
        ("width ladder", torch.float32),
        ("width", torch.bfloat16),
        ("feed-forward width", torch.float32),
        ("composition", torch.float32),
        ("vocabulary ladder", torch.float32),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_gives_back_the_model_bit_by_bit(family, partition, dtype, tmp_path):
    model = partitioned(family, partition, dtype=dtype)
    model.generation_config.max_new_tokens = 7
    set_level(model, "core")
    model.train().save_pretrained(tmp_path / "saved")
    set_level(model, "full")
    loaded = load_partitioned(tmp_path / "saved")
    assert loaded.dtype == dtype
    if dtype != torch.float32:  # tables of positions are not saved, but computed anew, before they are rounded
        for (name, table), (_, computed) in zip(tables(model), tables(loaded), strict=True):
            torch.testing.assert_close(table, computed, msg=name, rtol=0.01, atol=0.01, check_dtype=False)
            table.data = computed.data
    assert_equal_models(loaded, model.eval())
    assert get_level(loaded) == num_levels(model) - 1
    assert not any(module.training for module in loaded.modules())
    assert all(
        p.requires_grad == q.requires_grad for p, q in zip(loaded.parameters(), model.parameters(), strict=True)
    )
    assert loaded.generation_config.max_new_tokens == 7
    beside_the_point = {"_name_or_path": None, "dtype": None}
    assert loaded.config.to_dict() | beside_the_point == model.config.to_dict() | beside_the_point


def test_what_was_loaded_is_saved_and_loaded_again(tmp_path):
    model = partitioned("marian")
    model.save_pretrained(tmp_path / "first")
    load_partitioned(tmp_path / "first").save_pretrained(tmp_path / "second")
    for name in ("config.json", "model.safetensors", "generation_config.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_a_partition_of_chosen_modules_is_read_back(tmp_path):
    model = tiny_model("bart")
    config = PartitionConfig(ratios=[0.5], target_modules=r".*\.fc1", exclude_modules=["encoder.layers.0.fc1"])
    partition_(model, config).save_pretrained(tmp_path)
    assert list(partitioned_layers(load_partitioned(tmp_path))) == [
        "model.encoder.layers.1.fc1",
        "model.decoder.layers.0.fc1",
        "model.decoder.layers.1.fc1",
    ]


def test_a_sharded_checkpoint_is_read(tmp_path):
    model = partitioned("marian")
    model.save_pretrained(tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert_equal_models(load_partitioned(tmp_path), model)


def test_options_of_from_pretrained_are_taken(tmp_path):
    partitioned("marian").save_pretrained(tmp_path)
    assert load_partitioned(tmp_path, dtype=torch.bfloat16).dtype == torch.bfloat16
    assert load_partitioned(tmp_path, attn_implementation="eager").config._attn_implementation == "eager"
    assert load_partitioned(str(tmp_path)).device == torch.device("cpu")


@pytest.mark.parametrize("partition", ["rank", "width"])
def test_a_loaded_model_trains_and_exports(partition, tmp_path):
    partitioned("t5", partition).save_pretrained(tmp_path / "saved")
    model = load_partitioned(tmp_path / "saved").train()
    set_level(model, "core")
    logits_ = model(**probe_batch(model)).logits
    logits_.square().mean().backward()
    layer = next(iter(partitioned_layers(model).values()))
    core = {id(parameter) for parameter in layer.parameters_at(0)}
    assert core and all((p.grad is not None) == (id(p) in core) for p in layer.parameters())
    assert layer.parameters_at(0)[0].grad.abs().sum() > 0
    assert export_full(model, tmp_path / "full").parity < 1e-3


# What else a directory may hold


@pytest.mark.law(number=9)
def test_exports_are_told_apart_from_partitioned_checkpoints(tmp_path):
    model = partitioned("marian")
    for export in (export_full, export_core):
        kind = export(model, tmp_path / export.__name__).kind
        with pytest.raises(ValueError, match=rf"is the {kind} export of a run, not a partitioned checkpoint"):
            load_partitioned(tmp_path / export.__name__)
    export_adapter(model, tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"base is a checkpoint of model_type 'marian', not a partitioned checkpoint"):
        load_partitioned(tmp_path / "adapter" / "base")
    with pytest.raises(ValueError, match="is the adapter export of a run"):
        load_partitioned(tmp_path / "adapter")


def test_a_directory_without_a_config_is_refused_and_a_run_points_to_its_last_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no directory .*nowhere"):
        load_partitioned(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no config.json\.$"):
        load_partitioned(tmp_path)
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no config.json; its last checkpoint is .*checkpoint-10\.$"):
        load_partitioned(tmp_path)


def test_a_class_that_transformers_does_not_have_is_refused(tmp_path):
    partitioned("marian").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["MyMarian"]}))
    with pytest.raises(
        ValueError, match=r"a MyMarian, which is neither a class of transformers nor registered.*partition_structure_"
    ):
        load_partitioned(tmp_path)


@pytest.mark.law(number=9)
def test_damaged_weights_are_refused(tmp_path):
    partitioned("marian").save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"its files are damaged.*earlier checkpoint"):
        load_partitioned(tmp_path)
    weights.unlink()
    with pytest.raises(OSError, match=r"model.safetensors"):
        load_partitioned(tmp_path)


@pytest.mark.law(number=9)
def test_a_missing_shard_is_refused(tmp_path):
    partitioned("marian").save_pretrained(tmp_path, max_shard_size="60KB")
    sorted(tmp_path.glob("model-*.safetensors"))[1].unlink()
    with pytest.raises(OSError, match="model-00002"):
        load_partitioned(tmp_path)


@pytest.mark.law(number=9)
@pytest.mark.parametrize(
    ("partition", "lost"),
    [
        ("rank", "fc1.U.0"),
        ("rank", "fc1.residual.weight"),
        ("rank", "fc1.bias"),
        ("rank", "final_layer_norm.weight"),
        ("width", "fc1.core_weight"),
        ("width", "fc2.extensions.0.columns"),
        ("width", "self_attn.q_proj.extensions.0.bias"),
    ],
)
def test_missing_weights_are_refused(partition, lost, tmp_path):
    partitioned("marian", partition).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights[f"model.encoder.layers.0.{lost}"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"missing: model.encoder.layers.0.{lost} and 0 more"):
        load_partitioned(tmp_path)


@pytest.mark.law(number=9)
@pytest.mark.parametrize(
    "fields",
    [
        dict(ratios=[0.125]),
        dict(ratios=[0.1, 0.25]),
        dict(ratios=[0.25, 0.5]),
        dict(method="width", ratios=[0.25]),
        dict(method="depth", decoder_layers=[1]),
    ],
)
def test_weights_of_another_partition_are_refused(fields, tmp_path):
    partitioned("marian").save_pretrained(tmp_path / "one")
    partitioned("marian", PartitionConfig(**fields)).save_pretrained(tmp_path / "other")
    (tmp_path / "one" / "model.safetensors").write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"not those of the partition.*ratios=\[0.25\].*files of two checkpoints"):
        load_partitioned(tmp_path / "one")


@pytest.mark.parametrize("partition", ["rank ladder", "width ladder", "composition"])
def test_any_stored_network_is_loaded_by_its_level(partition, tmp_path):
    model = partitioned("marian", partition)
    model.save_pretrained(tmp_path / "checkpoint-1")
    names = level_names(model)
    stored = {name: level for level, name in enumerate(names[:-1])}
    for name, level in stored.items():
        export_core(model, tmp_path / name, level=level)
    export_full(model, tmp_path / "full")
    assert stored_levels(tmp_path / "checkpoint-1") == names
    batch = probe_batch(model)
    for level, name in enumerate(names):
        with at_level(model, level):
            expected = logits(model, batch)
        assert stored_levels(tmp_path / name) == [name]
        for network in (
            load_network(tmp_path / name),
            load_network(tmp_path / name, name),
            load_network(tmp_path / "checkpoint-1", name),
            load_network(tmp_path / "checkpoint-1", str(level)),
        ):
            assert_close_logits(logits(network.eval(), batch), expected)
    assert_close_logits(logits(load_network(tmp_path / "checkpoint-1"), batch), expected)


def test_an_adapter_export_is_its_full_network_also_after_it_was_moved(tmp_path):
    model = partitioned("marian")
    export_adapter(model, tmp_path / "written", tokenizer=trained_tokenizer(tmp_path / "tokenizer"))
    adapter = (tmp_path / "written").rename(tmp_path / "moved")
    assert stored_levels(adapter) == ["full"]
    batch = probe_batch(model)
    network = load_network(adapter, "full").eval()
    assert_close_logits(logits(network, batch), logits(model, batch))
    assert not any("lora" in name for name, _ in network.named_parameters())
    assert load_tokenizer(adapter).get_vocab() == load_tokenizer(tmp_path / "tokenizer").get_vocab()
    with pytest.raises(ValueError, match=r"level='core', but .*moved is one network, 'full'"):
        load_network(adapter, "core")


def test_a_level_that_is_not_stored_is_refused(tmp_path):
    model = partitioned("marian")
    export_core(model, tmp_path / "core")
    model.save_pretrained(tmp_path / "checkpoint-1")
    with pytest.raises(ValueError, match=r"level='full', but .*core is one network, 'core'"):
        load_network(tmp_path / "core", "full")
    with pytest.raises(ValueError, match="level='5' is not a level of this MarianMTModel"):
        load_network(tmp_path / "checkpoint-1", "5")
