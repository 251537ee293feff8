"""What the tests of deployment share: a run whose networks say words of their own, which no rounding changes."""

import pytest
import torch

from hf_ats.checkpoint import export_core, export_full
from hf_ats.data import pad_rows
from hf_ats.partition import PartitionConfig, partition_
from tests.support.checkpoints import GERMAN, trained_tokenizer
from tests.support.decodings import teach_
from tests.support.models import tiny_model

SENTENCES = GERMAN[:3]
LENGTH = 7
UNTIED = dict(
    d_model=128,
    encoder_layers=1,
    decoder_layers=1,
    tie_word_embeddings=False,
    share_encoder_decoder_embeddings=False,
)


def taught(folder, partition: PartitionConfig):
    """A partitioned Marian whose core and full network translate `SENTENCES`, each in its own words; its tokenizer."""
    tokenizer = trained_tokenizer(folder / "tokenizer")
    model = tiny_model("marian", **UNTIED)
    with torch.no_grad():
        model.get_decoder().embed_tokens.weight[tokenizer.pad_token_id] = 0
    partition_(model, partition)
    rows = tokenizer(SENTENCES)["input_ids"]
    batch = {
        "input_ids": torch.from_numpy(pad_rows(rows, tokenizer.pad_token_id)),
        "attention_mask": torch.from_numpy(pad_rows([[1] * len(row) for row in rows], 0)),
    }
    teach_(model, [batch], LENGTH, levels=("core", "full"))
    return model, tokenizer


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A partitioned checkpoint `checkpoint-1`, and its exports `full`, `core` and `core-dense`."""
    folder = tmp_path_factory.mktemp("run")
    model, tokenizer = taught(folder, PartitionConfig(ratios=[0.125]))
    model.save_pretrained(folder / "checkpoint-1")
    tokenizer.save_pretrained(folder / "checkpoint-1")
    export_full(model, folder / "full", tokenizer=tokenizer)
    export_core(model, folder / "core", tokenizer=tokenizer)
    export_core(model, folder / "core-dense", tokenizer=tokenizer, dense=True)
    return folder


@pytest.fixture
def exports(run):
    return run
