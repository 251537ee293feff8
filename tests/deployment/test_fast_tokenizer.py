"""The `tokenizer.json` of a Marian tokenizer splits text as sentencepiece does."""

import json

import pytest
import sentencepiece
from transformers import MarianTokenizer, PreTrainedTokenizerFast

from hf_ats.data import train_tokenizer
from hf_ats.deployment.fast_tokenizer import write_fast_tokenizer
from tests.support.checkpoints import ENGLISH, GERMAN, trained_tokenizer
from tests.support.tokenizers import tiny_tokenizer

pytest.importorskip("google.protobuf")

TEXTS = [*GERMAN, *ENGLISH, "Zwei  Männer\tlesen \u00a0Bücher! ", "日本 läuft", "10² Hunde", ""]


def assert_alike(directory, tokenizer) -> None:
    """Check that the file splits text as the tokenizer does, and makes text of ids, special ones left out."""
    fast = PreTrainedTokenizerFast(tokenizer_file=str(directory / "tokenizer.json"))
    ids = [tokenizer(text)["input_ids"] for text in TEXTS]
    assert fast(TEXTS)["input_ids"] == ids
    start = tokenizer.pad_token_id
    ids = [[start, *row] for row in ids if tokenizer.unk_token_id not in row]
    assert len(ids) > 5
    texts = fast.batch_decode(ids, skip_special_tokens=True)
    assert texts == tokenizer.batch_decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("rule", ["nfc", "nmt_nfkc"])
def test_byte_pairs_of_a_run(rule, tmp_path):
    rules = dict(source_normalization_rule_name=rule, target_normalization_rule_name=rule)
    texts = (GERMAN + ENGLISH + ["102 und ½"]) * 5
    tokenizer = train_tokenizer(texts, texts, tmp_path, vocab_size=110, source_lang="de", target_lang="en", **rules)
    write_fast_tokenizer(tokenizer, tmp_path, TEXTS)
    assert_alike(tmp_path, tokenizer)


def test_unigrams_of_a_published_model(tmp_path):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter((GERMAN + ENGLISH) * 5), model_prefix=str(tmp_path / "source"), vocab_size=80,
        hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "source.model"))
    pieces = [model.id_to_piece(index) for index in range(3, model.get_piece_size())]
    # In another order than the model's, and with one that only targets have.
    ids = {piece: index for index, piece in enumerate(["</s>", "<unk>", *sorted(pieces), "▁theirs", "<pad>"])}
    (tmp_path / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
    spm = str(tmp_path / "source.model")
    tokenizer = MarianTokenizer(spm, spm, str(tmp_path / "vocab.json"))
    write_fast_tokenizer(tokenizer, tmp_path, TEXTS)
    assert_alike(tmp_path, tokenizer)


def test_nothing_is_written_that_splits_otherwise(tmp_path):
    tokenizer = trained_tokenizer(tmp_path / "one")
    other = train_tokenizer(ENGLISH, ENGLISH, tmp_path / "two", vocab_size=60, source_lang="de", target_lang="en")
    own, tokenizer.spm_files = tokenizer.spm_files, other.spm_files
    write_fast_tokenizer(tokenizer, tmp_path, TEXTS)
    tokenizer.spm_files, tokenizer.separate_vocabs = own, True
    write_fast_tokenizer(tokenizer, tmp_path, TEXTS)
    write_fast_tokenizer(tiny_tokenizer("m2m_100", tmp_path / "m2m"), tmp_path, TEXTS)
    assert not (tmp_path / "tokenizer.json").exists()
