"""The translation pipeline itself: its inputs, its options, and what it hands to `generate`."""

import pytest
import torch
from transformers import GenerationConfig, MarianTokenizer

from hf_ats.travelling.pipeline_ats import ATSTranslationPipeline
from tests.checkpoints import GERMAN, trained_tokenizer
from tests.models import tiny_model


class MultilingualTokenizer(MarianTokenizer):
    """Does what NLLB's and M2M100's tokenizers do for the pipeline: names the first word by the target language."""

    def _build_translation_inputs(self, text, src_lang, tgt_lang, **options):
        if src_lang is None or tgt_lang is None:
            raise ValueError("Translation requires a `src_lang` and a `tgt_lang` for this model")
        return {**self(text, **options), "forced_bos_token_id": {"en": 5, "fr": 6}[tgt_lang]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tokenizer")


@pytest.fixture(scope="module")
def tokenizer(folder):
    return trained_tokenizer(folder)


@pytest.fixture
def model():
    """A model whose translations depend on the text: it looks hard at the source."""
    model = tiny_model("marian", seed=2)
    with torch.no_grad():
        for layer in model.model.decoder.layers:
            layer.encoder_attn.q_proj.weight *= 10
            layer.encoder_attn.v_proj.weight *= 10
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
    assert len({result[0]["translation_text"] for result in each}) > 1
    assert translate(GERMAN) == [result[0] for result in each]
    assert translate([]) == []


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


def test_languages_come_from_the_call_or_from_the_task(model, tokenizer, folder):
    multilingual = MultilingualTokenizer.from_pretrained(folder)

    def first_words(task, **languages):
        translate = ATSTranslationPipeline(model=model, tokenizer=multilingual, task=task)
        results = translate(GERMAN, batch_size=2, return_tensors=True, **languages)
        return {result["translation_token_ids"][1].item() for result in results}

    assert first_words("translation", src_lang="de", tgt_lang="en") == {5}
    assert first_words("translation_de_to_fr") == {6}
    assert first_words("translation_de_to_fr", tgt_lang="en") == {5}
    with pytest.raises(ValueError, match="requires a `src_lang`"):
        first_words("translation", tgt_lang="en")


def test_the_first_word_of_a_batch_is_one_number(translate, asked, folder):
    translate.tokenizer = MultilingualTokenizer.from_pretrained(folder)
    translate(GERMAN[0], src_lang="de", tgt_lang="en")
    translate(GERMAN, batch_size=4, src_lang="de", tgt_lang="en")
    translate(GERMAN, batch_size=4, src_lang="de", tgt_lang="en", forced_bos_token_id=7)
    assert [call["forced_bos_token_id"] for call in asked] == [5, 5, 7]


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
