"""What exports write so that both versions of transformers read it alike.

That they read it alike is seen in test_environments.py.
"""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedTokenizerFast, T5ForConditionalGeneration

from hf_ats.checkpoint import export_core, export_full
from hf_ats.checkpoint.files import save_tokenizer
from hf_ats.partition import PartitionConfig, at_level, partition_
from tests.support.checkpoints import GERMAN, assert_close_logits, logits
from tests.support.models import probe_batch, tiny_config, tiny_model
from tests.support.tokenizers import KINDS, tiny_tokenizer
from tests.support.versions import needs_5


def written(directory) -> tuple[dict, set[str]]:
    """The config, and the names of the weights."""
    return json.loads((directory / "config.json").read_text()), set(load_file(directory / "model.safetensors"))


def unscaled_t5(seed: int = 0):
    """A T5 as of version 1.1 and FLAN: its output layer is its own, and the states before it are not scaled."""
    torch.manual_seed(seed)
    model = T5ForConditionalGeneration(tiny_config("t5", tie_word_embeddings=False))
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    return model.eval()


@needs_5("transformers 4 has these words itself")
@pytest.mark.parametrize("export", [export_full, export_core])
@pytest.mark.parametrize("family", ["t5 1.1", "mt5"])
def test_a_t5_without_scaled_states_says_so_as_version_4_does(family, export, tmp_path):
    model = partition_(unscaled_t5() if family == "t5 1.1" else tiny_model("mt5"), PartitionConfig(ratios=[0.25]))
    report = export(model, tmp_path / "out")
    config, names = written(tmp_path / "out")
    assert config["tie_word_embeddings"] is False and {"lm_head.weight", "shared.weight"} <= names
    assert not names & {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out")
    with at_level(model, report.level):
        assert_close_logits(logits(again, probe_batch(model)), logits(model, probe_batch(model)))
    assert (again.lm_head.weight is again.shared.weight) == (family == "mt5")
    assert again.num_parameters() == report.parameters


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_other_networks_are_written_as_transformers_writes_them(family, tmp_path):
    model = tiny_model(family)
    model.save_pretrained(tmp_path / "stock")
    export_full(model, tmp_path / "export")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "export" / name).read_bytes() == (tmp_path / "stock" / name).read_bytes()
    assert written(tmp_path / "export")[0].get("tie_word_embeddings", True) is True


def test_writing_leaves_the_network_as_it_was(tmp_path):
    model = tiny_model("mt5")
    before = logits(model, probe_batch(model))
    export_full(model, tmp_path / "first")
    assert model.config.tie_word_embeddings == tiny_config("mt5").tie_word_embeddings
    assert torch.equal(logits(model, probe_batch(model)), before)
    export_full(model, tmp_path / "second")
    assert written(tmp_path / "first") == written(tmp_path / "second")


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_is_the_same_after_it_was_written_in_the_old_words(kind, tmp_path):
    tokenizer = tiny_tokenizer(kind, tmp_path / "made")
    if KINDS[kind].codes:
        tokenizer.src_lang, tokenizer.tgt_lang = KINDS[kind].codes
    for directory in (tmp_path / "once", tmp_path / "twice"):
        save_tokenizer(tokenizer, directory)
        config = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
        assert not isinstance(config.get("extra_special_tokens"), list)
        again = AutoTokenizer.from_pretrained(directory)
        assert again(GERMAN, text_target=GERMAN).data == tokenizer(GERMAN, text_target=GERMAN).data
        assert set(again.all_special_tokens) == set(tokenizer.all_special_tokens)
        assert getattr(again, "tgt_lang", None) == getattr(tokenizer, "tgt_lang", None)
        tokenizer = again
    names = [{path.name for path in (tmp_path / folder).iterdir()} for folder in ("once", "twice")]
    assert names[0] == names[1]


def test_a_tokenizer_that_is_its_file_alone_has_the_name_of_version_4(tmp_path):
    tiny_tokenizer("bart", tmp_path / "made")
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "made" / "tokenizer.json"), eos_token="</s>")
    save_tokenizer(tokenizer, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again(GERMAN).data == tokenizer(GERMAN).data
