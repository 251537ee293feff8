"""What a language pair sets: in the tokenizer, and in the word that every translation begins with."""

import pytest
import torch
from transformers import AutoTokenizer

from hf_ats.data import TranslationCollator, decoder_inputs
from hf_ats.run import set_languages_, set_source_prefix_, source_prefix
from tests.support.models import tiny_model
from tests.support.tokenizers import KINDS, tiny_tokenizer

MULTILINGUAL = [kind for kind in KINDS if KINDS[kind].codes]


@pytest.fixture
def made(tmp_path):
    """Makes a model and a tokenizer that fit each other, by kind."""

    def make(kind):
        tokenizer = tiny_tokenizer(kind, tmp_path)
        return tiny_model(KINDS[kind].family, vocab_size=len(tokenizer)), tokenizer

    return make


@pytest.mark.parametrize(("kind", "legacy"), [*((kind, False) for kind in MULTILINGUAL), ("nllb", True)])
def test_what_is_decoded_first_is_what_training_puts_first(kind, legacy, made):
    model, tokenizer = made(kind)
    if legacy:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer.name_or_path, legacy_behaviour=True)
    source, target = KINDS[kind].codes
    set_languages_(model, tokenizer, source, target)
    assert (tokenizer.src_lang, tokenizer.tgt_lang) == (source, target)
    ids = dict(input_ids=tokenizer("ein Hund").input_ids, labels=tokenizer(text_target="a dog").input_ids)
    german, english = tokenizer.convert_tokens_to_ids(
        [f"__{code}__" if kind == "m2m_100" else code for code in KINDS[kind].codes]
    )
    assert german in ids["input_ids"] and english in ids["labels"]
    batch = TranslationCollator(tokenizer)([{**ids, "attention_mask": [1] * len(ids["input_ids"])}])
    begin = [decoder_inputs(model, batch["labels"])[0, 0].item(), batch["labels"][0, 0].item()]
    generated = model.generate(torch.tensor([ids["input_ids"]]), max_new_tokens=3, num_beams=1)[0].tolist()
    if kind == "mbart" or legacy:  # the decoder starts from the code
        assert begin[0] == generated[0] == english != begin[1]
        assert model.generation_config.forced_bos_token_id is None
    else:
        assert begin == generated[:2] == [tokenizer.eos_token_id, english]


@pytest.mark.parametrize("kind", ["nllb", "mbart", "mbart-50"])
def test_a_code_that_was_added_is_taken(kind, made, tmp_path):
    model, tokenizer = made(kind)
    tokenizer.add_tokens(["gsw_Latn"], special_tokens=True)
    tokenizer.save_pretrained(tmp_path / "more")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "more")
    model.resize_token_embeddings(len(tokenizer))
    set_languages_(model, tokenizer, "gsw_Latn", KINDS[kind].codes[1])
    assert tokenizer.convert_tokens_to_ids("gsw_Latn") in tokenizer("ein Hund").input_ids
    set_languages_(model, tokenizer, KINDS[kind].codes[0], "gsw_Latn")
    assert tokenizer.convert_tokens_to_ids("gsw_Latn") in tokenizer(text_target="ein Hund").input_ids


@pytest.mark.parametrize("kind", ["mbart-50", "bart"])
def test_no_codes_take_what_the_tokenizer_names_and_leave_one_without_codes_as_it_is(kind, made):
    model, tokenizer = made(kind)
    before = model.generation_config.to_dict()
    if kind == "mbart-50":
        tokenizer.src_lang, tokenizer.tgt_lang = "fr_XX", "cs_CZ"
        before["forced_bos_token_id"] = tokenizer.convert_tokens_to_ids("cs_CZ")
    set_languages_(model, tokenizer, None, None)
    assert model.generation_config.to_dict() == before
    assert getattr(tokenizer, "src_lang", None) == {"mbart-50": "fr_XX", "bart": None}[kind]


@pytest.mark.parametrize(
    ("kind", "codes", "message"),
    [
        ("nllb", ("deu_Latn", None), "tokenizer_source_lang='deu_Latn' and .*target_lang=None: give both or none"),
        ("nllb", (None, "deu_Latn"), "give both or none"),
        ("nllb", ("deu_Latn", "en"), r"'en' is no language code of this Nllb\w+; it has 202, such as eng_Latn"),
        # pieces of their own, which are words and no codes
        ("nllb", ("a", "eng_Latn"), "'a' is no language code"),
        ("m2m_100", ("de", "eng_Latn"), "'eng_Latn' is no language code of this M2M100Tokenizer; it has 100, .* en"),
        (
            "mbart-50",
            (None, None),
            "MBart50Tokenizer.* tokenizer_source_lang and tokenizer_target_lang say none; set",
        ),
        ("bart", ("de", "en"), r"a \w+ has no language codes; leave out"),
    ],
)
def test_a_pair_that_the_tokenizer_cannot_write_is_refused_and_changes_nothing(kind, codes, message, made):
    model, tokenizer = made(kind)
    before = getattr(tokenizer, "src_lang", None), model.generation_config.to_dict()
    with pytest.raises(ValueError, match=message):
        set_languages_(model, tokenizer, *codes)
    assert (getattr(tokenizer, "src_lang", None), model.generation_config.to_dict()) == before


def test_a_prefix_is_the_models_own_and_travels_with_its_config(tmp_path):
    model = tiny_model("t5")
    assert source_prefix(model) == set_source_prefix_(model, None) == ""
    assert set_source_prefix_(model, "translate German to English: ") == "translate German to English: "
    model.config.save_pretrained(tmp_path)
    model.config = type(model.config).from_pretrained(tmp_path)
    assert set_source_prefix_(model, None) == source_prefix(model) == "translate German to English: "
    model.config.task_specific_params = {"translation_en_to_de": {"prefix": "translate English to German: "}}
    assert set_source_prefix_(model, "mine: ") == "mine: "
    assert not model.config.task_specific_params, "what the pipeline of a named task would take before it"
    assert set_source_prefix_(model, "") == source_prefix(model) == ""
