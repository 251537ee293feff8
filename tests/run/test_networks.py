"""What a run starts from fits together, or is refused before the corpus is tokenized."""

import logging

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from hf_ats.data import train_tokenizer
from hf_ats.run import networks
from hf_ats.run.networks import check_tokenizer
from tests.support.models import tiny_model
from tests.support.scripts import begin, training_arguments, write_corpus
from tests.support.tokenizers import KINDS, tiny_tokenizer


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_may_have_fewer_entries_than_the_embeddings_rows_but_not_more(kind, tmp_path):
    tokenizer = tiny_tokenizer(kind, tmp_path)
    entries = max(tokenizer.get_vocab().values()) + 1
    for rows in (entries, entries + 5):
        check_tokenizer(tokenizer, tiny_model(KINDS[kind].family, vocab_size=rows, pad_token_id=0))
    tokenizer.add_tokens(["xqz"])
    model = tiny_model(KINDS[kind].family, vocab_size=entries, pad_token_id=0)
    message = rf"has {entries + 1} entries for the source and the model {entries}; call .*embeddings\({entries + 1}\)"
    with pytest.raises(ValueError, match=message):
        check_tokenizer(tokenizer, model)
    model.resize_token_embeddings(entries + 1)
    check_tokenizer(tokenizer, model)


def test_separate_vocabularies_are_each_beside_their_own_embeddings(tmp_path):
    texts = ["der Hund", "die Katze"] * 9, ["a dog", "the cat"] * 9
    tokenizer = train_tokenizer(*texts, tmp_path, vocab_size=20, joint=False, source_lang="de", target_lang="en")
    sizes = dict(vocab_size=20, pad_token_id=19, decoder_start_token_id=19, share_encoder_decoder_embeddings=False)
    check_tokenizer(tokenizer, tiny_model("marian", **sizes, decoder_vocab_size=20))
    with pytest.raises(ValueError, match="20 entries for the target and the model 18"):
        check_tokenizer(tokenizer, tiny_model("marian", **(sizes | dict(pad_token_id=17)), decoder_vocab_size=18))


def test_a_tokenizer_without_padding_is_refused():
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(ValueError, match=r"has no padding token, .*; set tokenizer\.pad_token"):
        check_tokenizer(tokenizer, tiny_model("bart"))


def test_the_prefix_is_learned_with_the_sources(corpus, tmp_path):
    more = ["--source_prefix", ">>fra<< "]
    trainer = begin(*training_arguments(corpus, tmp_path / "coded"), *more)
    tokenizer = trainer.processing_class
    assert tokenizer.supported_language_codes == [">>fra<<"]
    assert {row["input_ids"][0] for row in trainer.train_dataset} == {tokenizer.encoder[">>fra<<"]}
    trainer = begin(*training_arguments(corpus, tmp_path / "told"), "--source_prefix", "ŁŁ: ")
    assert all(trainer.processing_class.unk_token_id not in row["input_ids"] for row in trainer.train_dataset)


def test_each_side_is_normalized_by_the_rule_of_its_flag(corpus, tmp_path):
    rules = ["--source_normalization_rule_name", "nmt_nfkc_cf"]
    tokenizer = begin(*training_arguments(corpus, tmp_path), *rules).processing_class
    assert tokenizer("UM Vier").input_ids == tokenizer("um vier").input_ids
    assert tokenizer(text_target="UM Vier").input_ids != tokenizer(text_target="um vier").input_ids


def test_what_is_unknown_in_the_test_part_is_said_before_training(corpus, tmp_path, caplog):
    for file in corpus.iterdir():
        text = file.read_text(encoding="utf-8")
        (tmp_path / file.name).write_text(text.replace("\n", " 漢\n", 2) if file.stem != "train" else text)
    with caplog.at_level(logging.WARNING, logger="hf_ats"):
        begin(*training_arguments(tmp_path, tmp_path / "run"))
    for part in ("validation", "test"):
        for side in ("sources", "targets"):
            assert f"In the {side} of the {part} part 2 of " in caplog.text
    assert caplog.text.count("tokens are <unk>, in 2 sentences, such as '漢'.") == 4
    assert "the train part" not in caplog.text


def test_a_tokenizer_is_there_whole_or_as_it_was_before(corpus, tmp_path, monkeypatch):
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "vocab.json").write_text("of an earlier run")

    def die(sources, targets, directory, **options):
        (directory / "vocab.json").write_text("half")
        raise MemoryError

    monkeypatch.setattr(networks, "train_tokenizer", die)
    with pytest.raises(MemoryError):
        begin(*training_arguments(corpus, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer"]
    assert (tmp_path / "tokenizer" / "vocab.json").read_text() == "of an earlier run"
