"""What tokenizers make of a text before they split it, each side by its own rule."""

import unicodedata

import pytest
from transformers import AutoTokenizer

from hf_ats.data import RULES, train_tokenizer
from hf_ats.data.normalization import Normalization

MEANINGFUL = ["面积 10 m²，好！", "价格：１２３元。", "½ 杯… 20℃", "ﬁ ™ Ⅳ ｶﾅ ①", "ខ្ញុំ\u200bទៅ می\u200cروم \u200eA"]


nfc = Normalization("rule", "nfc").normalize


def test_the_default_keeps_what_other_rules_change():
    for text in MEANINGFUL:
        assert nfc(text) == text
    assert Normalization("rule", "nmt_nfkc").normalize("10² ½ １") == "102 1⁄2 1"
    assert Normalization("rule", "nmt_nfkc_cf").normalize("A²") == "a2"
    assert Normalization("rule", "identity").normalize("e\u0301\t²") == "e\u0301\t²"


def test_the_default_composes_every_character_that_unicode_composes():
    different = []
    for code in (*range(0x20, 0xD800), *range(0xE000, 0x30000)):
        character = chr(code)
        if unicodedata.category(character) in ("Cn", "Co", "Cc", "Zs", "Zl", "Zp") or code in (0x2581, 0x2585, 0xFEFF):
            continue
        for text in {character, unicodedata.normalize("NFD", character)}:
            if nfc(text) != unicodedata.normalize("NFC", character):
                different.append(hex(code))
    assert not different
    for text in ("e\u0323\u0302", "e\u0302\u0323", "ê\u0323", "ẹ\u0302"):  # in whatever order accents are typed
        assert nfc(text) == "ệ"


def test_the_default_leaves_one_kind_of_blank_and_no_control_characters():
    assert nfc("a\u00a0b\u3000c\u202fd\te\u2028f\x85g") == "a b c d e f g"
    assert nfc("a\x01b\x1fc\ufeffd\x7f") == "abcd"
    assert nfc("\u2581\u2585") == " \u2586", "sentencepiece keeps these two for itself"


def train(directory, **rules):
    german = [*MEANINGFUL, "GROSS é"] * 9
    return train_tokenizer(german, german, directory, vocab_size=100, source_lang="x", target_lang="y", **rules)


@pytest.mark.parametrize("joint", [True, False], ids=["joint", "separate"])
def test_each_side_has_its_own_rule_wherever_the_tokenizer_is_loaded(tmp_path, joint):
    rules = dict(source_normalization_rule_name="nmt_nfkc_cf", target_normalization_rule_name="nfc")
    made = train(tmp_path, joint=joint, **rules)
    for tokenizer in (made, AutoTokenizer.from_pretrained(tmp_path)):
        labels = tokenizer(text_target=MEANINGFUL).input_ids
        assert tokenizer.batch_decode(labels, skip_special_tokens=True) == MEANINGFUL
        same = tokenizer(["GROSS １０ m² e\u0301", "gross 10 m2 é"]).input_ids
        assert same[0] == same[1] and tokenizer.unk_token_id not in same[0]
    if joint:
        assert (tmp_path / "source.spm").read_bytes() != (tmp_path / "target.spm").read_bytes()


def test_no_character_of_any_text_is_unknown(tmp_path):
    characters = [chr(code) for code in (*range(1, 0xD800, 31), *range(0xE000, 0x30000, 31), 0x2581, 0x2585)]
    texts = ["".join(characters[start : start + 50]) for start in range(0, len(characters), 50)]
    texts = [text for text in texts if text.isprintable()] + ["\u2581\u2585 \x1f\t."]
    tokenizer = train_tokenizer(texts, texts, tmp_path, vocab_size=6000, source_lang="x", target_lang="y")
    assert all(tokenizer.unk_token_id not in ids for ids in tokenizer(texts).input_ids)


def test_another_name_is_refused_with_those_there_are(tmp_path):
    assert RULES[0] == "nfc"
    with pytest.raises(ValueError, match="target_normalization_rule_name='nfx' is none of the rules nfc, nmt_nfkc"):
        train(tmp_path, target_normalization_rule_name="nfx")
