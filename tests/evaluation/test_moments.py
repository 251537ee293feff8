"""What a model's modules read on its own translations of some sentences."""

import logging

import pytest
import torch
from torch import nn

from hf_ats.evaluation import encode_sentences, input_moments
from hf_ats.partition import PartitionConfig, partition_
from tests.support.checkpoints import GERMAN, trained_tokenizer
from tests.support.models import FAMILIES, tiny_model, tiny_resnet


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_moments_are_sums_over_what_was_read_sentence_by_sentence(family, tmp_path, caplog):
    tokenizer, model = trained_tokenizer(tmp_path), tiny_model(family)
    model.generation_config.update(max_length=7, max_new_tokens=30, num_beams=3)  # of its own, not of the calibration
    modes = [module.training for module in model.train().modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    long = " ".join(GERMAN * 3)
    with caplog.at_level(logging.WARNING):
        found = input_moments(model, tokenizer, [GERMAN[0], " ", long], progress=False)
    assert not caplog.text
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())

    model.eval()
    seen: dict[str, list[torch.Tensor]] = {}
    sources, targets = [], []
    for row in encode_sentences(tokenizer, [GERMAN[0], long], [model], truncate=True):
        source, most = torch.tensor([row]), min(11 + 2 * len(row), 64 if family != "t5" else 10**9)
        target = model.generate(source, num_beams=1, max_length=most, max_new_tokens=None, do_sample=False)
        handles = [
            module.register_forward_pre_hook(
                lambda _, x, name=name: seen.setdefault(name, []).append(x[0].flatten(0, -2))
            )
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear)
        ]
        model(input_ids=source, decoder_input_ids=target)
        for handle in handles:
            handle.remove()
        sources.append(source[0])
        targets.append(target[0])
    assert len(sources[1]) == 64 or family == "t5", "what is too long is cut"
    assert seen.keys() <= found.keys() and len(seen) == 2 * 6 + 2 * 10 + 1
    for name, rows in seen.items():
        rows = torch.cat(rows)
        torch.testing.assert_close(found[name].products, rows.T @ rows, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(found[name].total, rows.sum(0), rtol=1e-4, atol=1e-3)
        assert found[name].count == len(rows)
    lookups = [found[name] for name in found.keys() - seen.keys()]
    assert all(one.products is None for one in lookups)
    looked_up = sum(one.total for one in lookups)
    assert torch.equal(looked_up, torch.cat([*sources, *targets]).bincount(minlength=96).float())


def test_what_cannot_be_measured_is_refused(tmp_path):
    tokenizer, model = trained_tokenizer(tmp_path), tiny_model("marian")
    with pytest.raises(ValueError, match="the calibration has 1 sentences, none with text; give some"):
        input_moments(model, tokenizer, [" "])
    for wrong in (partition_(model, PartitionConfig()), tiny_resnet()):
        with pytest.raises(
            ValueError, match=r"translation model before it is partitioned, and this \w+ is none; give"
        ):
            input_moments(wrong, tokenizer, GERMAN)
