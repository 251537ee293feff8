"""What is read from files, line by line, and what each fault of a file is answered with."""

import bz2
import gzip
import io
import json
import logging
import lzma

import pytest

from hf_ats.data.parallel_text import read_lines, read_parallel

# What Python's splitlines would break at, inside a sentence.
LINE_BREAKS_ELSEWHERE = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"


def write_pair(directory, german: bytes, english: bytes, name: str = "corpus", ending: str = "") -> str:
    for language, text in (("de", german), ("en", english)):
        path = directory / f"{name}.{language}{ending}"
        path.write_bytes(gzip.compress(text) if ending == ".gz" else text)
    return str(directory / name)


def write_records(path, records) -> str:
    lines = [record if isinstance(record, str) else json.dumps(record, ensure_ascii=False) for record in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_line_n_of_one_file_is_paired_with_line_n_of_the_other(tmp_path, ending):
    prefix = write_pair(tmp_path, "Straße\nÄpfel\n".encode(), b"street\napples\n", ending=ending)
    assert read_parallel(prefix, "de", "en") == (["Straße", "Äpfel"], ["street", "apples"])
    assert read_parallel(prefix, "en", "de") == (["street", "apples"], ["Straße", "Äpfel"])


def test_one_side_may_be_packed_and_plain_text_wins(tmp_path):
    prefix = write_pair(tmp_path, b"eins\n", b"one\n")
    (tmp_path / "corpus.en").rename(tmp_path / "kept.en")
    (tmp_path / "corpus.en.gz").write_bytes(gzip.compress(b"packed\n"))
    assert read_parallel(prefix, "de", "en") == (["eins"], ["packed"])
    (tmp_path / "kept.en").rename(tmp_path / "corpus.en")
    assert read_parallel(prefix, "de", "en") == (["eins"], ["one"])


def test_only_a_line_feed_ends_a_line(tmp_path):
    sentence = f"a{LINE_BREAKS_ELSEWHERE}b"
    prefix = write_pair(tmp_path, f"{sentence}\nzwei".encode(), b"one\ntwo\n")
    assert read_parallel(prefix, "de", "en") == ([sentence, "zwei"], ["one", "two"])
    path = write_records(tmp_path / "corpus.jsonl", [{"translation": {"de": sentence, "en": "one"}}])
    assert read_parallel(path, "de", "en") == ([sentence], ["one"])


def test_carriage_returns_and_a_byte_order_mark_are_no_text(tmp_path):
    prefix = write_pair(tmp_path, b"\xef\xbb\xbfeins\r\nzwei\r\n", b"one\r\ntwo")
    assert read_parallel(prefix, "de", "en") == (["eins", "zwei"], ["one", "two"])


def test_json_lines_give_what_the_two_files_give(tmp_path):
    records = [{"translation": {"de": "Straße", "en": "street", "fr": "rue"}}, {"translation": {"de": "b", "en": "c"}}]
    path = write_records(tmp_path / "corpus.json", records)
    assert read_parallel(path, "de", "en") == (["Straße", "b"], ["street", "c"])
    packed = tmp_path / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress((tmp_path / "corpus.json").read_bytes()))
    assert read_parallel(packed, "fr", "en", skip_bad_lines=True) == (["rue"], ["street"])


def test_unequal_numbers_of_lines_are_refused_even_when_skipping(tmp_path):
    prefix = write_pair(tmp_path, b"eins\nzwei\ndrei\n", b"one\ntwo\n")
    for skip_bad_lines in (False, True):
        with pytest.raises(ValueError, match=r"corpus\.de has 3 lines, .*corpus\.en has 2: .*Align the files"):
            read_parallel(prefix, "de", "en", skip_bad_lines=skip_bad_lines)


@pytest.mark.parametrize(
    ("german", "message"),
    [
        (b"eins\nzw\xffei\ndrei\n", r"corpus\.de, line 2: not valid UTF-8 \(byte 0xff at position 3 of the line\)"),
        (b"eins\n\ndrei\n", r"corpus\.de, line 2: the source side is empty"),
        (b"eins\n \t\xe2\x80\xa8\ndrei\n", r"corpus\.de, line 2: the source side is empty"),
    ],
)
def test_a_bad_line_is_named_and_skipped_only_on_request(tmp_path, caplog, german, message):
    prefix = write_pair(tmp_path, german, b"one\ntwo\nthree\n")
    with pytest.raises(ValueError, match=message + r".*1 of 3.*skip_bad_lines"):
        read_parallel(prefix, "de", "en")
    with caplog.at_level(logging.WARNING, logger="hf_ats"):
        assert read_parallel(prefix, "de", "en", skip_bad_lines=True) == (["eins", "drei"], ["one", "three"])
    assert "Left out 1 of 3 sentence pairs" in caplog.text


def test_the_first_of_several_bad_lines_is_named(tmp_path):
    prefix = write_pair(tmp_path, b"eins\nzwei\n\xff\nvier\n", b"one\n\nthree\n\n")
    with pytest.raises(ValueError, match=r"corpus\.en, line 2: the target side is empty.*3 of 4"):
        read_parallel(prefix, "de", "en")


def test_skipped_pairs_are_counted_once_each_under_their_reason(tmp_path, caplog):
    # Line 2 is bad on both sides.
    prefix = write_pair(tmp_path, b"eins\n\xff\n\nvier\nsechs\n", b"one\n\nthree\n\xfe\nsix\n")
    with caplog.at_level(logging.WARNING, logger="hf_ats"):
        assert read_parallel(prefix, "de", "en", skip_bad_lines=True) == (["eins", "sechs"], ["one", "six"])
    assert "Left out 3 of 5" in caplog.text and "1 empty side, 2 invalid UTF-8." in caplog.text


def test_a_corpus_without_a_usable_line_is_refused(tmp_path):
    prefix = write_pair(tmp_path, b"\n\n", b"one\ntwo\n")
    with pytest.raises(ValueError, match="No usable line is left"):
        read_parallel(prefix, "de", "en", skip_bad_lines=True)


def test_an_empty_file_is_refused(tmp_path):
    prefix = write_pair(tmp_path, b"", b"")
    with pytest.raises(ValueError, match=r"corpus\.de is empty"):
        read_parallel(prefix, "de", "en")


def test_a_missing_file_is_named_with_what_was_looked_for_and_what_there_is(tmp_path):
    prefix = write_pair(tmp_path, b"eins\n", b"one\n", ending=".gz")
    with pytest.raises(FileNotFoundError, match=r"looked for .*corpus\.fr and .*begin so: .*corpus\.de\.gz"):
        read_parallel(prefix, "fr", "en")
    with pytest.raises(FileNotFoundError, match="No file has this prefix"):
        read_parallel(tmp_path / "nothing", "de", "en")
    with pytest.raises(FileNotFoundError, match=r"corpus\.de\.gz is a file itself: a prefix has no ending"):
        read_parallel(f"{prefix}.de.gz", "de", "en")
    with pytest.raises(FileNotFoundError, match="There is no file"):
        read_parallel(tmp_path / "nothing.jsonl", "de", "en")


def test_a_broken_archive_is_named(tmp_path):
    prefix = write_pair(tmp_path, b"eins\n", b"one\n", ending=".gz")
    (tmp_path / "corpus.en.gz").write_bytes(b"no gzip")
    with pytest.raises(ValueError, match=r"corpus\.en\.gz cannot be unpacked"):
        read_parallel(prefix, "de", "en")
    whole = gzip.compress(b"one, of which the end is missing\n")
    (tmp_path / "corpus.en.gz").write_bytes(whole[:-9])
    with pytest.raises(ValueError, match=r"corpus\.en\.gz cannot be unpacked"):
        read_parallel(prefix, "de", "en")


@pytest.mark.parametrize(
    "record",
    [
        '{"translation": ',
        '["de", "en"]',
        {"text": "eins"},
        {"translation": "eins"},
        {"translation": {"de": "eins"}},
        {"translation": {"de": 1, "en": "one"}},
        {"translation": {"de": None, "en": "one"}},
    ],
)
def test_a_line_that_is_no_translation_is_named(tmp_path, record):
    good = {"translation": {"de": "zwei", "en": "two"}}
    path = write_records(tmp_path / "corpus.jsonl", [good, record, good])
    with pytest.raises(ValueError, match=r"corpus\.jsonl, line 2: (not a JSON object|no text under).*1 of 3"):
        read_parallel(path, "de", "en")
    assert read_parallel(path, "de", "en", skip_bad_lines=True) == (["zwei"] * 2, ["two"] * 2)


def test_invalid_utf8_in_json_lines_is_named(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b'{"translation": {"de": "\xff", "en": "one"}}\n')
    with pytest.raises(ValueError, match=r"line 1: not valid UTF-8 \(byte 0xff"):
        read_parallel(path, "de", "en")


def test_a_language_that_the_records_lack_is_refused_with_those_they_have(tmp_path):
    path = write_records(tmp_path / "corpus.jsonl", [{"translation": {"de": "eins", "en": "one"}}])
    for skip_bad_lines in (False, True):
        with pytest.raises(ValueError, match="no language 'fr': its records are in de, en"):
            read_parallel(path, "de", "fr", skip_bad_lines=skip_bad_lines)


@pytest.mark.parametrize("pair", [("de", "de"), ("", "en")])
def test_a_pair_of_one_language_is_refused(tmp_path, pair):
    with pytest.raises(ValueError, match="not a language pair; give two different"):
        read_parallel(tmp_path / "corpus", *pair)


PACKERS = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}


@pytest.mark.parametrize("ending", PACKERS)
def test_texts_may_have_the_ending_txt_and_be_packed(tmp_path, ending):
    pack = PACKERS[ending]
    (tmp_path / f"corpus.de.txt{ending}").write_bytes(pack(b"eins\n"))
    (tmp_path / "corpus.en.xz").write_bytes(lzma.compress(b"one\n"))
    assert read_parallel(tmp_path / "corpus", "de", "en") == (["eins"], ["one"])
    (tmp_path / f"both.tsv{ending}").write_bytes(pack(b"eins\tone\n"))
    assert read_parallel(tmp_path / f"both.tsv{ending}", "de", "en") == (["eins"], ["one"])


@pytest.mark.parametrize("ending", [".xz", ".bz2", ".gz"])
def test_a_cut_or_altered_archive_is_named(tmp_path, ending):
    whole = PACKERS[ending](bytes(range(1, 256)) * 50)
    for damaged in (whole[: len(whole) // 2], whole[:60] + b"?????" + whole[65:], b"no archive"):
        (tmp_path / f"text{ending}").write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"text{ending} cannot be unpacked"):
            read_lines(tmp_path / f"text{ending}")


def test_two_columns_are_source_and_target_or_what_the_first_line_calls_them(tmp_path):
    path = tmp_path / "corpus.tsv"
    path.write_text("eins\tone\nzwei\ttwo\n")
    assert read_parallel(path, "de", "en") == (["eins", "zwei"], ["one", "two"])
    path.write_text("en\tde\none\teins\ntwo\tzwei\n")
    assert read_parallel(path, "de", "en") == (["eins", "zwei"], ["one", "two"])
    path.write_text("de\ten\n")
    with pytest.raises(ValueError, match=r"corpus\.tsv has no sentences below"):
        read_parallel(path, "de", "en")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (b"drei", "line 3: 1 columns, not a source, a tab and its target"),
        (b"drei\tthree\t0.9", "line 3: 3 columns, not"),
        (b"drei\xff\tthree", r"line 3: not valid UTF-8 \(byte 0xff at position 5"),
        (b"drei\t", "line 3: the target side is empty"),
    ],
)
def test_a_bad_row_is_named_by_its_line_in_the_file(tmp_path, row, message):
    path = tmp_path / "corpus.tsv"
    path.write_bytes(b"de\ten\neins\tone\n" + row + b"\nvier\tfour\n")
    with pytest.raises(ValueError, match=message + ".*1 of 3"):
        read_parallel(path, "de", "en")
    assert read_parallel(path, "de", "en", skip_bad_lines=True) == (["eins", "vier"], ["one", "four"])


@pytest.mark.parametrize("invisible", ["\u200b", "\ufeff\u200e", "\u00ad \u2060", "\u3164\ufe0f"])
def test_characters_that_show_nothing_are_an_empty_side(tmp_path, invisible):
    prefix = write_pair(tmp_path, f"eins\n{invisible}\n".encode(), b"one\ntwo\n")
    with pytest.raises(ValueError, match="line 2: the source side is empty"):
        read_parallel(prefix, "de", "en")
    prefix = write_pair(tmp_path, f"eins{invisible}\n".encode(), b"one\n")
    assert read_parallel(prefix, "de", "en")[0] == [f"eins{invisible}"], "beside others they are text"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
def test_another_encoding_is_named(tmp_path, encoding):
    prefix = write_pair(tmp_path, "eins\nzwei\nĊ\n".encode(encoding), b"one\ntwo\nthree\n")
    with pytest.raises(ValueError, match=r"corpus\.de is in UTF-.*iconv -f UTF-(16|32) -t UTF-8"):
        read_parallel(prefix, "de", "en")


def test_carriage_returns_alone_are_no_line_ends(tmp_path):
    prefix = write_pair(tmp_path, b"eins\rzwei\r", b"one\rtwo\r")
    with pytest.raises(ValueError, match=r"corpus\.de has 2 carriage returns and no line feed.*tr '\\r' '\\n'"):
        read_parallel(prefix, "de", "en")
    assert read_lines(io.BytesIO(b"eins\r\n")) == read_lines(io.BytesIO(b"eins\r")) == ["eins"]
    assert read_lines(io.BytesIO(b"ei\rns\nzwei\n")) == ["ei\rns", "zwei"], "beside line feeds it is text"


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        ('{"translation": {"de": "haus \\ud83d", "en": "house"}}', r"not valid Unicode \(half a surrogate pair\)"),
        ('{"translation": ' + "[" * 100_000 + "]" * 100_000 + "}", "not a JSON object"),
        ('{"translation": {"de": "eins", "en": "one"}, "id": ' + "9" * 5_000 + "}", "not a JSON object"),
    ],
    ids=["surrogate", "nested", "number"],
)
def test_what_the_parser_cannot_take_is_a_bad_line(tmp_path, record, fault):
    good = {"translation": {"de": "zwei 😀", "en": "two"}}
    path = write_records(tmp_path / "corpus.jsonl", [good, record, good])
    with pytest.raises(ValueError, match=rf"line 2: {fault}.*1 of 3"):
        read_parallel(path, "de", "en")
    assert read_parallel(path, "de", "en", skip_bad_lines=True) == (["zwei 😀"] * 2, ["two"] * 2)


def test_blank_lines_end_a_file_of_json_lines_and_no_other(tmp_path):
    good = {"translation": {"de": "eins", "en": "one"}}
    path = write_records(tmp_path / "corpus.jsonl", [good, "", " "])
    assert read_parallel(path, "de", "en") == (["eins"], ["one"])
    path = write_records(tmp_path / "corpus.jsonl", [good, "", good])
    with pytest.raises(ValueError, match="line 2: not a JSON object"):
        read_parallel(path, "de", "en")


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_lines_of_text_are_read_with_their_empty_ones_from_files_and_streams(tmp_path, ending):
    text = "ein\u2028Satz\n\nzwei\r\n".encode()
    path = tmp_path / f"text{ending}"
    path.write_bytes(gzip.compress(text) if ending else text)
    assert read_lines(path) == read_lines(io.BytesIO(text)) == ["ein\u2028Satz", "", "zwei"]


def test_text_that_is_no_utf8_is_named_by_its_line():
    with pytest.raises(ValueError, match=r"standard input, line 2: not valid UTF-8.*convert the text to UTF-8"):
        read_lines(io.BytesIO(b"gut\n\xff\n"))
