"""A tokenizer from scratch: what the model and CTranslate2 rely on, and that it is the same wherever it is loaded."""

import json
import logging
import pickle
import subprocess
from pathlib import Path

import pytest
from transformers import AutoTokenizer, MarianTokenizer

from hf_ats.data import normalization, train_tokenizer
from hf_ats.data.embedded_corpus import default_pairs
from hf_ats.remote_code import read_quotations_
from tests.support.checkpoints import TRANSFORMERS_4
from tests.support.versions import EVERY_TOKENIZER

VOCAB_SIZE = 200
PROBE = ["Das Öl kostet 1,05 €.", "Auf dem Bild sind 29 Äpfel, Straßen und Bäume.", "Unbekannt: 漢字"]


@pytest.fixture(scope="module")
def text():
    return tuple(zip(*default_pairs(sizes={"train": 1500})["train"], strict=True))


def train(text, directory, **changes):
    arguments = {"vocab_size": VOCAB_SIZE, "source_lang": "de", "target_lang": "en"} | changes
    return train_tokenizer(*text, directory, **arguments)


@pytest.fixture(scope="module", params=[True, False], ids=["joint", "separate"])
def tokenizer(request, text, tmp_path_factory):
    return train(text, tmp_path_factory.mktemp("tokenizer"), joint=request.param)


def vocabularies(tokenizer) -> list[dict[str, int]]:
    return [tokenizer.encoder, tokenizer.target_encoder] if tokenizer.separate_vocabs else [tokenizer.encoder]


def test_pad_has_the_last_id_of_a_vocabulary_without_gaps(tokenizer):
    assert (tokenizer.eos_token_id, tokenizer.unk_token_id, tokenizer.pad_token_id) == (0, 1, VOCAB_SIZE - 1)
    for vocabulary in vocabularies(tokenizer):
        assert (vocabulary["</s>"], vocabulary["<unk>"], vocabulary["<pad>"]) == (0, 1, VOCAB_SIZE - 1)
        assert sorted(vocabulary.values()) == list(range(VOCAB_SIZE))
    assert len(tokenizer) == tokenizer.vocab_size == VOCAB_SIZE


def test_separate_vocabularies_hold_different_pieces(tokenizer):
    if tokenizer.separate_vocabs:
        assert "ä" in tokenizer.encoder and "ä" not in tokenizer.target_encoder
        assert tokenizer.spm_files[0] != tokenizer.spm_files[1]
    else:
        assert Path(tokenizer.spm_files[0]).read_bytes() == Path(tokenizer.spm_files[1]).read_bytes()


def test_text_comes_back(tokenizer, text):
    german, english = text[0][:300], text[1][:300]
    labels = tokenizer(text_target=list(english)).input_ids
    assert tokenizer.batch_decode(labels, skip_special_tokens=True) == list(english)
    assert all(ids[-1] == tokenizer.eos_token_id and tokenizer.unk_token_id not in ids for ids in labels)
    ids = tokenizer(list(german)).input_ids
    pieces = [[list(tokenizer.encoder)[i] for i in row[:-1]] for row in ids]
    assert [tokenizer.spm_source.decode_pieces(row) for row in pieces] == list(german)
    if not tokenizer.separate_vocabs:
        assert tokenizer.batch_decode(ids, skip_special_tokens=True) == list(german)


def test_capitals_umlauts_signs_and_digits_come_back(text, tmp_path):
    sentence = "ÄÖÜ äöü ß, Groß und klein: 1234567890 € . !"
    tokenizer = train(([*text[0], sentence], text[1]), tmp_path)
    ids = tokenizer(sentence).input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == sentence
    assert {"1", "9", "0"} <= set(tokenizer.convert_ids_to_tokens(ids))


def test_the_directory_holds_what_is_needed_and_reloads_alike(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    files = {"source.spm", "target.spm", "vocab.json", "tokenizer_config.json"} | EVERY_TOKENIZER
    assert {path.name for path in tmp_path.iterdir()} == files | (
        {"target_vocab.json"} if tokenizer.separate_vocabs else set()
    )
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert type(loaded) is MarianTokenizer
    assert loaded(PROBE, text_target=PROBE).data == tokenizer(PROBE, text_target=PROBE).data
    assert (loaded.source_lang, loaded.target_lang, loaded.model_max_length) == ("de", "en", 512)
    assert loaded.clean_up_tokenization_spaces is False
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy(PROBE, text_target=PROBE).data == tokenizer(PROBE, text_target=PROBE).data


def test_transformers_4_gives_the_same_ids(text, tmp_path):
    if not TRANSFORMERS_4.exists():
        pytest.skip(f"{TRANSFORMERS_4} is not there; `make venv-transformers-4` makes it")
    expected = []
    coded = [f"{'>>spa<<' if number % 2 else '>>fra<<'} {sentence}" for number, sentence in enumerate(text[0])]
    for name, joint, sources in (("joint", True, text[0]), ("separate", False, text[0]), ("codes", True, coded)):
        tokenizer = train((sources, text[1]), tmp_path / "trained" / name, joint=joint)
        tokenizer.save_pretrained(tmp_path / name)
        batch = tokenizer([sources[1], *PROBE], text_target=PROBE)
        decoded = tokenizer.batch_decode(batch.labels, skip_special_tokens=True)
        expected.append(["4", batch.input_ids, batch.labels, VOCAB_SIZE - 1, decoded])
    program = """
import json, sys, transformers
probe, found = json.loads(sys.argv[1]), []
for directory, first in zip(sys.argv[2::2], sys.argv[3::2]):
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    batch = tokenizer([first, *probe], text_target=probe)
    decoded = tokenizer.batch_decode(batch.labels, skip_special_tokens=True)
    found.append([transformers.__version__[0], batch.input_ids, batch.labels, tokenizer.pad_token_id, decoded])
print(json.dumps(found))
"""
    command = [TRANSFORMERS_4, "-W", "error::UserWarning", "-c", program, json.dumps(PROBE)]
    probes = (tmp_path / "joint", text[0][1], tmp_path / "separate", text[0][1], tmp_path / "codes", coded[1])
    run = subprocess.run([*command, *probes], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == expected


def test_the_same_text_gives_the_same_files(text, tmp_path):
    for name in ("one", "two"):
        normalization._specification.cache_clear()  # as in another process
        train(text, tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
    train((text[1], text[0]), tmp_path / "other", joint=False)
    assert (tmp_path / "other" / "source.spm").read_bytes() != (tmp_path / "one" / "source.spm").read_bytes()


def test_texts_are_read_once_and_training_is_silent(text, tmp_path, capfd):
    one_pass = (iter(side) for side in text)
    assert train(one_pass, tmp_path).vocab_size == VOCAB_SIZE
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("joint", [True, False])
def test_the_largest_and_the_smallest_possible_vocabulary_are_named(tmp_path, joint):
    text = ["ein Hund", "eine Katze"], ["a dog", "a cat, and another one"]
    what = "the two texts" if joint else "the source text"
    with pytest.raises(ValueError, match=rf"vocab_size=9999 is more than {what} can fill: the largest") as largest:
        train(text, tmp_path, vocab_size=9999, joint=joint)
    with pytest.raises(ValueError, match=rf"vocab_size=6 is too small for .* {what}: the smallest") as smallest:
        train(text, tmp_path, vocab_size=6, joint=joint)
    for error, beyond in ((largest, 1), (smallest, -1)):
        bound = int(str(error.value).split("possible is ")[1].split(".")[0])
        texts = text if joint else (text[0], text[0])
        assert train(texts, tmp_path, vocab_size=bound, joint=joint).vocab_size == bound
        with pytest.raises(ValueError, match=f"vocab_size={bound + beyond} is"):
            train(texts, tmp_path, vocab_size=bound + beyond, joint=joint)


CODED = (
    [">>fra<< the dog", ">>spa<< the dog", ">>fra<< a house", ">>pt_BR<< a house", "no code >>fra<<"] * 9,
    ["le chien", "el perro", "une maison", "uma casa", "rien"] * 9,
)


@pytest.mark.parametrize("joint", [True, False], ids=["joint", "separate"])
def test_language_codes_are_entries_of_their_own_and_no_text(tmp_path, joint, caplog):
    with caplog.at_level(logging.INFO, logger="hf_ats"):
        tokenizer = train(CODED, tmp_path, vocab_size=60 if joint else 40, joint=joint)
    assert "3 language codes, which become entries of the vocabulary: >>fra<< (18), >>pt_BR<< (9)" in caplog.text
    codes = [">>fra<<", ">>pt_BR<<", ">>spa<<"]
    assert list(tokenizer.encoder)[-4:] == [*codes, "<pad>"], "CTranslate2 expects <pad> at the end"
    stock = AutoTokenizer.from_pretrained(tmp_path)
    for one in (tokenizer, stock):
        ids = one([f"{code} the dog" for code in codes]).input_ids
        assert [row[0] for row in ids] == [one.encoder[code] for code in codes]
        assert ids[0][1:] == ids[1][1:] == one("the dog").input_ids
    assert all(tokenizer.unk_token_id not in ids for ids in tokenizer(CODED[0]).input_ids), "elsewhere they are text"
    with pytest.raises(ValueError, match=r"vocab_size=6 leaves nothing beside .* the 3 language codes"):
        train(CODED, tmp_path, vocab_size=6, joint=joint)
    with pytest.raises(ValueError, match="the largest") as largest:
        train(CODED, tmp_path, vocab_size=9999, joint=joint)
    bound = int(str(largest.value).split("possible is ")[1].split(".")[0])
    assert len(train(CODED, tmp_path, vocab_size=bound, joint=joint)) == bound


@pytest.mark.parametrize("joint", [True, False], ids=["joint", "separate"])
def test_quotations_are_text_on_both_sides(tmp_path, joint):
    german = [">>Komm her<<, sagte er.", ">>Nein<<, sagte er.", ">> und << und >> so weiter", "er ging."] * 9
    english = [">>Come here<<, he said.", ">>No<<, he said.", ">> and << and >> so on", "he left."] * 9
    tokenizer = train((german, english), tmp_path, vocab_size=50 if joint else 40, joint=joint)
    assert not [token for token in tokenizer.encoder if token.startswith(">>") and token.endswith("<<")]
    for one in (tokenizer, read_quotations_(AutoTokenizer.from_pretrained(tmp_path))):
        labels = one(text_target=english).input_ids
        assert one.batch_decode(labels, skip_special_tokens=True) == english
        ids = one(german).input_ids
        assert all(one.unk_token_id not in row for row in ids)
        assert [one.spm_source.decode([list(one.encoder)[i] for i in row[:-1]]) for row in ids] == german


def test_what_reads_quotations_is_saved_as_the_stock_class(tmp_path):
    train(CODED, tmp_path, vocab_size=60).save_pretrained(tmp_path / "again")
    stock = AutoTokenizer.from_pretrained(tmp_path / "again")
    assert type(stock) is MarianTokenizer
    reading = read_quotations_(stock)
    assert reading is stock and isinstance(reading, MarianTokenizer) and read_quotations_(reading) is reading
    assert pickle.loads(pickle.dumps(reading))(">>so weiter<< the dog") == reading(">>so weiter<< the dog")


@pytest.mark.parametrize("blank", [" ", ""])
def test_pieces_are_learned_from_the_longest_lines_too(tmp_path, blank):
    long = ["der Hund" + f"{blank}Öl" * 5_000 + "ß"]
    tokenizer = train((long, long), tmp_path, vocab_size=24)
    assert tokenizer.unk_token_id not in tokenizer(long[0], verbose=False).input_ids


def test_rare_characters_can_be_left_out(text, tmp_path):
    rare = ([*text[0], "漢字"], text[1])
    assert "漢" in train(rare, tmp_path / "all").encoder
    assert "漢" not in train(rare, tmp_path / "most", character_coverage=0.9995).encoder


@pytest.mark.parametrize("texts", [([], []), ([""], [" "])])
def test_no_text_is_refused(tmp_path, texts):
    with pytest.raises(ValueError, match="There are no words in the two texts"):
        train(texts, tmp_path)


def test_a_vocabulary_of_special_tokens_alone_is_refused(text, tmp_path):
    with pytest.raises(ValueError, match="vocab_size=3 leaves nothing"):
        train(text, tmp_path, vocab_size=3)
