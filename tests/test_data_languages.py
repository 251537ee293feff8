import pytest

from hf_ats.data import set_languages_
from tests.models import tiny_model


class Codes:
    """The part of a multilingual tokenizer that has to do with its codes."""

    src_lang = tgt_lang = None
    unk_token_id = 3
    all_special_tokens = ("<s>", "</s>", "<pad>", "<unk>", "deu_Latn", "eng_Latn")

    def convert_tokens_to_ids(self, token):
        return {"deu_Latn": 90, "eng_Latn": 91}.get(token, self.unk_token_id)


def test_the_target_becomes_the_first_word_of_every_translation():
    model, tokenizer = tiny_model("m2m_100"), Codes()
    set_languages_(model, tokenizer, "deu_Latn", "eng_Latn")
    assert (tokenizer.src_lang, tokenizer.tgt_lang) == ("deu_Latn", "eng_Latn")
    assert model.generation_config.forced_bos_token_id == 91


def test_no_codes_leave_everything_as_it_is():
    model, tokenizer = tiny_model("m2m_100"), Codes()
    before = model.generation_config.forced_bos_token_id
    set_languages_(model, tokenizer, None, None)
    assert tokenizer.src_lang is None and model.generation_config.forced_bos_token_id == before


@pytest.mark.parametrize(
    ("tokenizer", "codes", "message"),
    [
        (Codes(), ("deu_Latn", None), "tokenizer_target_lang=None: give both or none"),
        (Codes(), ("deu_Latn", "en"), "no language code 'en'; it has deu_Latn, eng_Latn"),
        (object(), ("de", "en"), "a object has no language codes; leave out"),
    ],
)
def test_a_pair_that_the_tokenizer_cannot_write_is_refused(tokenizer, codes, message):
    model = tiny_model("m2m_100")
    with pytest.raises(ValueError, match=message):
        set_languages_(model, tokenizer, *codes)
