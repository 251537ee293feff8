"""The translation pipeline itself: its inputs, its options, and what it hands to `generate`."""

import pytest
import torch
from transformers import AutoTokenizer, GenerationConfig

from hf_ats.remote_code.pipeline_ats import ATSTranslationPipeline
from tests.support.checkpoints import GERMAN, trained_tokenizer
from tests.support.decodings import teach_
from tests.support.models import tiny_model
from tests.support.tokenizers import tiny_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tokenizer")


@pytest.fixture(scope="module")
def tokenizer(folder):
    return trained_tokenizer(folder)


@pytest.fixture
def model(tokenizer):
    """A model that says five words of its own for each text."""
    model = tiny_model("marian", d_model=64, tie_word_embeddings=False, share_encoder_decoder_embeddings=False)
    teach_(model, [tokenizer(text, return_tensors="pt") for text in GERMAN], 5)
    model.generation_config.max_new_tokens = 6
    return model


@pytest.fixture
def translate(model, tokenizer):
    return ATSTranslationPipeline(model=model, tokenizer=tokenizer, task="translation")


@pytest.fixture
def asked(translate, monkeypatch):
    """The keyword arguments of every call of `generate`."""
    calls, generate = [], translate.model.generate

    def recording(**kwargs):
        calls.append(kwargs)
        return generate(**kwargs)

    monkeypatch.setattr(translate.model, "generate", recording)
    return calls


def test_a_text_gives_a_list_of_one_and_a_list_gives_one_each(translate):
    each = [translate(text) for text in GERMAN]
    assert all(len(result) == 1 and set(result[0]) == {"translation_text"} for result in each)
    assert len({result[0]["translation_text"] for result in each}) == len(GERMAN)
    assert translate(GERMAN) == [result[0] for result in each]
    assert translate([]) == []


def test_a_quotation_at_the_start_is_text_also_to_a_tokenizer_of_the_stock_class(model, folder):
    stock = AutoTokenizer.from_pretrained(folder)
    assert stock.unk_token_id == stock(">>ein Hund<< läuft").input_ids[0]
    translate = ATSTranslationPipeline(model=model, tokenizer=stock, task="translation")
    quoted, plain = (translate.preprocess(text)["input_ids"][0].tolist() for text in (">>ein Hund<< läuft", "läuft"))
    assert len(quoted) > len(plain) + len("einHund") // 2 and quoted[-len(plain) :] == plain


@pytest.mark.parametrize("batch_size", [2, 3, 8])
def test_batching_pads_and_changes_no_translation(translate, asked, batch_size):
    alone = translate(GERMAN)
    asked.clear()
    assert translate(GERMAN, batch_size=batch_size) == alone
    assert [len(call["input_ids"]) for call in asked] == {2: [2, 2], 3: [3, 1], 8: [4]}[batch_size]
    assert not all(call["attention_mask"].all() for call in asked)


def test_texts_may_come_from_a_generator(translate):
    assert [result[0] for result in translate(text for text in GERMAN)] == translate(GERMAN)


def test_several_sequences_are_a_list_for_each_text(translate):
    results = translate(GERMAN[:2], num_return_sequences=3, num_beams=3)
    assert [len(result) for result in results] == [3, 3]
    assert len(translate(GERMAN[0], num_return_sequences=3, num_beams=3)) == 3


def test_tensors_instead_of_text(translate):
    for option in ({"return_tensors": True}, {"return_text": False}):
        (record,) = translate(GERMAN[0], **option)
        assert set(record) == {"translation_token_ids"}
    text = translate.tokenizer.decode(record["translation_token_ids"], skip_special_tokens=True)
    assert [{"translation_text": text}] == translate(GERMAN[0], return_text=True)


def test_cleaning_up_spaces_reaches_the_tokenizer(translate, monkeypatch):
    given = []
    monkeypatch.setattr(translate.tokenizer, "decode", lambda ids, **options: given.append(options) or "")
    translate(GERMAN[0])
    translate(GERMAN[0], clean_up_tokenization_spaces=True)
    assert [options["clean_up_tokenization_spaces"] for options in given] == [False, True]


def options(call: dict) -> dict:
    return {name: value for name, value in call.items() if name not in ("input_ids", "attention_mask")}


def test_defaults_fill_what_neither_the_call_nor_the_model_sets(translate, asked):
    translate(GERMAN[0], num_beams=1, min_length=2)
    assert options(asked[0]) == {"num_beams": 1, "min_length": 2}
    translate.model.generation_config = GenerationConfig(
        decoder_start_token_id=95, eos_token_id=0, max_new_tokens=None, max_length=9
    )
    translate(GERMAN[0])
    assert options(asked[1]) == {"num_beams": 4, "pad_token_id": 95}
    translate.model.generation_config = GenerationConfig(decoder_start_token_id=95, eos_token_id=0, num_beams=1)
    translate(GERMAN[0])
    assert options(asked[2]) == {"pad_token_id": 95, "max_new_tokens": 64}
    chosen = GenerationConfig(decoder_start_token_id=95, eos_token_id=0, max_new_tokens=3)
    translate(GERMAN[0], generation_config=chosen)
    assert options(asked[3]) == {"generation_config": chosen}


def test_options_of_the_constructor_hold_for_every_call_and_a_call_overrides_them(model, tokenizer):
    translate = ATSTranslationPipeline(model=model, tokenizer=tokenizer, task="translation", max_new_tokens=2)
    assert len(translate(GERMAN[0], return_tensors=True)[0]["translation_token_ids"]) == 3
    assert len(translate(GERMAN[0], return_tensors=True, max_new_tokens=4)[0]["translation_token_ids"]) == 5


@pytest.fixture(scope="module")
def multilingual(tmp_path_factory):
    """A tokenizer of M2M100, whose codes go by the names that a task has too."""
    return tiny_tokenizer("m2m_100", tmp_path_factory.mktemp("multilingual"))


def code(tokenizer, language: str) -> int:
    return tokenizer.convert_tokens_to_ids(f"__{language}__")


@pytest.fixture
def many():
    return tiny_model("m2m_100", vocab_size=200)


def test_languages_come_from_the_call_or_from_the_task_or_from_the_tokenizer(many, multilingual, monkeypatch):
    def words(task, **languages):
        """Codes of the source and of the translation of two texts."""
        translate = ATSTranslationPipeline(model=many, tokenizer=multilingual, task=task, max_new_tokens=3)
        results = translate(GERMAN[:2], batch_size=2, return_tensors=True, **languages)
        assert multilingual.src_lang == "en", "a call leaves the tokenizer as it was"
        source = translate.preprocess(GERMAN[0], **languages)["input_ids"][0, 0].item()
        return source, *{result["translation_token_ids"][1].item() for result in results}

    ids = {language: code(multilingual, language) for language in ("de", "en", "fr")}
    assert words("translation", src_lang="de", tgt_lang="en") == (ids["de"], ids["en"])
    assert words("translation_de_to_fr") == (ids["de"], ids["fr"])
    assert words("translation_de_to_fr", tgt_lang="en") == (ids["de"], ids["en"])
    with pytest.raises(ValueError, match=r"neither the call nor the tokenizer says into which.*tgt_lang=.* af, am"):
        words("translation", src_lang="de")
    many.generation_config.forced_bos_token_id = ids["de"]
    assert words("translation") == (ids["en"], ids["de"])
    monkeypatch.setattr(multilingual, "tgt_lang", "fr")
    assert words("translation") == (ids["en"], ids["fr"])


@pytest.mark.parametrize("languages", [("xx", "en"), ("de", "xx"), ("de", "__en__")])
def test_a_language_without_a_code_is_refused(many, multilingual, languages):
    translate = ATSTranslationPipeline(model=many, tokenizer=multilingual, task="translation")
    with pytest.raises(ValueError, match=r"is no language code of this M2M100Tokenizer; it has 100, such as "):
        translate(GERMAN, src_lang=languages[0], tgt_lang=languages[1])
    assert multilingual.src_lang == "en"


def test_the_first_word_of_a_batch_is_one_number(many, multilingual, monkeypatch):
    translate = ATSTranslationPipeline(model=many, tokenizer=multilingual, task="translation", max_new_tokens=3)
    calls, generate = [], many.generate
    monkeypatch.setattr(many, "generate", lambda **kwargs: calls.append(kwargs) or generate(**kwargs))
    translate(GERMAN[0], src_lang="de", tgt_lang="en")
    translate(GERMAN, batch_size=4, src_lang="de", tgt_lang="en")
    translate(GERMAN, batch_size=4, src_lang="de", tgt_lang="en", forced_bos_token_id=7)
    english = code(multilingual, "en")
    assert [call["forced_bos_token_id"] for call in calls] == [english, english, 7]


def test_other_models_ignore_languages(translate):
    assert translate(GERMAN, src_lang="de", tgt_lang="en") == translate(GERMAN)


def test_a_checkpoint_prescribes_prefix_and_options_for_a_task(tokenizer):
    model = tiny_model("t5")
    model.config.task_specific_params = {
        "translation_de_to_en": {"prefix": "translate German to English: ", "max_length": 4, "num_beams": 1}
    }
    translate = ATSTranslationPipeline(model=model, tokenizer=tokenizer, task="translation_de_to_en")
    prefixed = translate.preprocess("ein Hund")["input_ids"]
    assert torch.equal(prefixed, tokenizer("translate German to English: ein Hund", return_tensors="pt").input_ids)
    assert translate._with_defaults({}) == {"max_length": 4, "num_beams": 1}
    assert translate._with_defaults({"max_length": 9}) == {"max_length": 9, "num_beams": 1}
    plain = ATSTranslationPipeline(model=model, tokenizer=tokenizer, task="translation")
    assert plain._with_defaults({}) == {"num_beams": 4, "max_new_tokens": 256}
    assert torch.equal(plain.preprocess("ein Hund")["input_ids"], tokenizer("ein Hund", return_tensors="pt").input_ids)


def test_a_text_beyond_the_positions_is_refused_or_cut(translate):
    long = " ".join(GERMAN * 8)
    with pytest.raises(ValueError, match=r"tokens and the model has 64 positions.*truncation=True"):
        translate(long)
    assert translate.preprocess(long, truncation=True)["input_ids"].shape == (1, 64)
    assert len(translate([long, GERMAN[0]], truncation=True, batch_size=2)) == 2


@pytest.mark.parametrize("wrong", [7, [7], {"text": "ein Hund"}, [["ein Hund"]]])
def test_what_is_no_text_is_refused(translate, wrong):
    with pytest.raises(TypeError, match="translate a str or a list of str"):
        translate(wrong)
