"""Adapter exports: factors beside the base, which merge to the full network."""

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForSeq2SeqLM,
)

from hf_ats.checkpoint import (
    export_adapter,
    export_full,
)
from hf_ats.partition import PartitionedRankLinear, partitioned_layers
from tests.support.models import (
    partitioned,
)


@pytest.mark.parametrize("partition", ["rank ladder", "composition"])
def test_merging_the_adapter_gives_the_full_export(partition, tmp_path):
    model = partitioned("t5", partition)
    export_full(model, tmp_path / "full")
    export_adapter(model, tmp_path / "adapter")
    full = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "full")
    base = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "adapter" / "base")
    untouched = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    merged = PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload()
    assert type(merged) is type(full)
    assert merged.state_dict().keys() == full.state_dict().keys()
    for name, tensor in full.state_dict().items():
        torch.testing.assert_close(merged.state_dict()[name], tensor)
    moved = {name for name in untouched if not torch.equal(untouched[name], merged.state_dict()[name])}
    layers = partitioned_layers(model)
    assert moved == {f"{name}.weight" for name in layers if isinstance(layers[name], PartitionedRankLinear)}


def test_exporting_an_adapter_warns_of_nothing(tmp_path, recwarn):
    export_adapter(partitioned("marian"), tmp_path / "adapter")
    assert [str(warning.message) for warning in recwarn if "torch/jit" not in warning.filename] == []


def test_the_adapter_names_each_rank_and_scales_by_one(tmp_path):
    model = partitioned("marian", encoder_ffn_dim=16)  # a feed-forward layer below the model's width has a lower rank
    ranks = {name: layer.ranks[-1] for name, layer in partitioned_layers(model).items()}
    assert set(ranks.values()) == {4, 8}
    export_adapter(model, tmp_path / "adapter")
    base = type(model).from_pretrained(tmp_path / "adapter" / "base")
    adapter = PeftModel.from_pretrained(base, tmp_path / "adapter").base_model.model
    for name, layer in partitioned_layers(model).items():
        lora = adapter.get_submodule(name)
        assert lora.scaling["default"] == 1
        assert torch.equal(lora.lora_A["default"].weight, layer.U[0])
        assert torch.equal(lora.lora_B["default"].weight, layer.V[0])
        assert torch.equal(lora.base_layer.weight, layer.weight)
