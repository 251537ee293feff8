"""The commands of the benchmarks in this process, and a network that decodes the same on every processor."""

import sys

import datasets
import pytest
import torch
import transformers
from transformers import MarianMTModel

from tests.support.models import tiny_config


@pytest.fixture
def command(monkeypatch, capsys):
    """`python -m benchmarks.NAME` in this process: given the module and its flags, it returns what was printed."""
    verbosity = transformers.utils.logging.get_verbosity()

    def run(module, *arguments) -> str:
        monkeypatch.setattr(sys, "argv", [module.__file__, *map(str, arguments)])
        module.main()
        return capsys.readouterr().out

    yield run
    transformers.utils.logging.set_verbosity(verbosity)
    datasets.enable_progress_bars()


@torch.no_grad()
def chain_model() -> MarianMTModel:
    """A tiny model that says words 2 to 7 in their order and ends, by margins that no rounding closes.

    The layers change the embedding of the last word little, and the output projection is made of what they make of it,
    for each word and for `<pad>`, by which decoding starts.
    """
    torch.manual_seed(0)
    untied = dict(tie_word_embeddings=False, share_encoder_decoder_embeddings=False)
    model = MarianMTModel(tiny_config("marian", **untied)).eval()
    eos, pad = model.config.eos_token_id, model.config.pad_token_id
    embeddings = model.get_decoder().embed_tokens.weight
    embeddings.copy_(4 * torch.nn.functional.normalize(torch.randn_like(embeddings)))
    embeddings[pad] = 0  # as CTranslate2 reads it
    words = torch.arange(2, 8)
    # Each word stands in the middle of a translation, <pad> at its beginning.
    inputs = torch.cat([torch.full((len(words), 1), pad), words.view(-1, 1), words.view(-1, 1)], dim=1)
    states = model.model(input_ids=words.view(-1, 1), decoder_input_ids=inputs).last_hidden_state
    model.lm_head.weight.zero_()
    model.lm_head.weight[torch.tensor([*words[1:], eos])] = 4 * torch.nn.functional.normalize(
        states[:, 1:].mean(dim=1)
    )
    model.lm_head.weight[words[0]] += 4 * torch.nn.functional.normalize(states[:, 0].mean(dim=0), dim=0)
    return model
