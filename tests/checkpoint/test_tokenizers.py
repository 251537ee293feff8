"""A model without a tokenizer, or with a damaged one, is refused wherever a tokenizer is loaded."""

import json
import shutil

import pytest
from transformers import AutoConfig

from hf_ats.checkpoint import export_full, load_processor, load_tokenizer
from hf_ats.remote_code import MarianTokenizer
from tests.support.models import partitioned, tiny_config, tiny_model
from tests.support.tokenizers import KINDS, tiny_tokenizer


@pytest.mark.parametrize("config_alone", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_without_files_of_a_tokenizer_is_refused(kind, config_alone, tmp_path):
    tiny_tokenizer(kind, tmp_path / "whole")
    (tmp_path / "model").mkdir()
    tiny_config(KINDS[kind].family).save_pretrained(tmp_path / "model")
    if config_alone:
        shutil.copy(tmp_path / "whole" / "tokenizer_config.json", tmp_path / "model")
    with pytest.raises(ValueError, match=r"model (has no tokenizer|cannot be loaded).*tokenizer\.save_pretrained"):
        load_tokenizer(tmp_path / "model")
    shutil.copytree(tmp_path / "whole", tmp_path / "model", dirs_exist_ok=True)
    assert len(load_tokenizer(tmp_path / "model")) > 50


@pytest.mark.parametrize(
    ("kind", "name"), [("marian", "source.spm"), ("marian", "vocab.json"), ("bart", "tokenizer.json")]
)
@pytest.mark.parametrize("damage", ["missing", "empty", "cut"])
def test_a_damaged_file_is_a_sentence(kind, name, damage, tmp_path):
    tiny_tokenizer(kind, tmp_path)
    tiny_config(KINDS[kind].family).save_pretrained(tmp_path)
    path = tmp_path / name
    whole = path.read_bytes()
    path.unlink() if damage == "missing" else path.write_bytes(whole[: len(whole) // 2 if damage == "cut" else 0])
    with pytest.raises((OSError, ValueError), match=str(tmp_path)):
        load_tokenizer(tmp_path)


def test_a_tokenizer_of_bytes_needs_no_files(tmp_path):
    AutoConfig.for_model("t5").save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ByT5Tokenizer"}))
    assert load_tokenizer(tmp_path)("Öl").input_ids == [3 + 0xC3, 3 + 0x96, 3 + ord("l"), 1]


def test_exports_and_checkpoints_are_loaded_with_a_tokenizer_that_reads_quotations(tmp_path):
    tokenizer = tiny_tokenizer("marian", tmp_path / "tokenizer")
    export_full(partitioned("marian"), tmp_path / "full", tokenizer=tokenizer)
    loaded = load_processor(tmp_path / "full", tiny_model("marian"))
    assert isinstance(loaded, MarianTokenizer)
    (tmp_path / "full" / "source.spm").unlink()
    with pytest.raises(ValueError, match=r"is not whole: source\.spm is missing"):
        load_processor(tmp_path / "full", tiny_model("marian"))
