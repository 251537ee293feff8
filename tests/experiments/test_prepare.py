"""Corpora prepared from files laid out as in their archives."""

import sys

import datasets
import numpy as np
import pytest

from experiments import prepare

TAGS = "<url>http://x</url>\n<keywords>a, b</keywords>\n<talkid>1</talkid>\n<title>{title}</title>\n"


def run(*words, counts=None, status=None, match=None) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["prepare.py", *map(str, words)])
        if counts is not None:
            patch.setitem(prepare.COUNTS, words[0], counts)
        patch.setattr(prepare, "WMT_PIECES", 60)
        if match is None:
            prepare.main()
        else:
            with pytest.raises(SystemExit, match=match):
                prepare.main()


def lines(path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def segments(texts) -> str:
    return "<doc>\n" + "".join(f'<seg id="{i}"> {text} </seg>\n' for i, text in enumerate(texts, 1)) + "</doc>\n"


@pytest.fixture
def iwslt(tmp_path):
    folder = tmp_path / "raw" / "de-en"
    folder.mkdir(parents=True)
    german, english = ["Das Haus."] * 45, ["The house."] * 45
    german[3], english[3] = "Eins zwei drei vier", "One"  # more than 1.5 times as many words
    german[4], english[4] = "x " * 176, "y " * 176  # too long
    german[5], english[5] = "", "Empty"
    german[6], english[6] = "Er sagt: „Ja, gewiss!“", "He says: Yes, sure!"
    for language, texts in (("de", german), ("en", english)):
        text = TAGS.format(title="Der Titel" if language == "de" else "The title") + "".join(
            f"{one}\n" for one in texts
        )
        (folder / f"train.tags.de-en.{language}").write_text(text, encoding="utf-8")
        for number, name in enumerate(prepare.IWSLT_TEST):
            file = folder / f"IWSLT14.{name}.de-en.{language}.xml"
            file.write_text(segments([f"It’s {number}.", "Test"]), encoding="utf-8")
    return folder.parent


def test_iwslt_is_what_the_rules_of_the_code_base_leave(iwslt, tmp_path, capsys):
    out = tmp_path / "iwslt14"
    run("iwslt14", iwslt, out, counts={"train": 42, "valid": 1, "test": 10})
    assert "train 42, valid 1, test 10" in capsys.readouterr().out
    # 45 pairs and a title, less three; the 23rd of what is left is for validation.
    german, english = lines(out / "train.de"), lines(out / "train.en")
    assert german[:4] == ["der titel", "das haus .", "das haus .", "das haus ."] and english[0] == "the title"
    assert german[4] == "er sagt : „ ja , gewiss ! “"
    assert not {"eins zwei drei vier", ""} & set(german) and max(map(len, german)) < 60
    assert lines(out / "valid.de") == ["das haus ."]
    assert lines(out / "test.en")[:4] == ["it &apos;s 0 .", "test", "it &apos;s 1 .", "test"]


def test_other_counts_than_the_code_bases_are_said_and_the_files_stay(iwslt, tmp_path):
    out = tmp_path / "iwslt14"
    run("iwslt14", iwslt, out, match=r"has train 160,239, valid 7,283, test 6,750, and .*raw gave other numbers")
    assert len(lines(out / "train.de")) == 42
    run("iwslt14", iwslt, out, match="is there already; give another folder")


def test_a_missing_or_a_cut_file_is_named_and_nothing_is_left(iwslt, tmp_path):
    out = tmp_path / "iwslt14"
    cut = iwslt / "de-en" / "train.tags.de-en.en"
    cut.write_text("".join(f"{line}\n" for line in lines(cut)[:-1]), encoding="utf-8")
    run("iwslt14", iwslt, out, match=r"train\.tags\.de-en\.de gives 46 sentences and .*\.en 45; unpack")
    cut.unlink()
    run("iwslt14", iwslt, out, match=r"raw has no file train\.tags\.de-en\.en, nor")
    assert not out.exists() and [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_wmt_is_split_before_it_is_cleaned_by_pieces(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "wmt17"
    (raw / "training").mkdir(parents=True)
    (raw / "test-full").mkdir()
    for name in prepare.WMT_TRAIN:
        folder = raw if name.startswith("common") else raw / "training"
        for language, text in (("en", "A well-known house “here”"), ("de", "Ein altbekanntes Haus »hier«")):
            texts = [f"{text} {number}" for number in range(60)]
            texts[10] = "word " * 300
            texts[20] = "Haus " * (9 if language == "en" else 1)
            (folder / f"{name}.{language}").write_text("".join(f"{one}\n" for one in texts), encoding="utf-8")
    for name in ("src.en", "ref.de"):
        (raw / "test-full" / f"newstest2014-deen-{name}.sgm").write_text(
            segments(["One-two ’s"] * 3), encoding="utf-8"
        )
    run("wmt17", raw, out, counts={"test": 3})
    english = lines(out / "train.en")
    assert english[0] == "A well @-@ known house &quot; here &quot; 0"
    assert len(english) == len(lines(out / "train.de")) == 180 - 1 - 6  # one for validation, two of each file cleaned
    assert len(lines(out / "valid.en")) == 1 and len(lines(out / "test.de")) == 3


def test_cifar_is_read_from_its_binary_files(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "cifar10"
    raw.mkdir()
    (raw / "batches.meta.txt").write_text("cat\ndog\n\n")
    rng = np.random.default_rng(0)
    rows = {}
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        rows[name] = rng.integers(256, size=(2, 3073), dtype=np.uint8)
        rows[name][:, 0] = (0, 1)
        (raw / f"{name}.bin").write_bytes(rows[name].tobytes())
    run("cifar10", raw, out, counts={"train": 10, "test": 2})
    test = datasets.load_dataset("parquet", data_files=str(out / "test.parquet"), cache_dir=tmp_path / "cache")[
        "train"
    ]
    assert test["label"][:] == [0, 1] and test.features["label"].names == ["cat", "dog"]
    assert (np.asarray(test[1]["image"]).transpose(2, 0, 1).ravel() == rows["test_batch"][1, 1:]).all()
    (raw / "test_batch.bin").write_bytes(b"cut")
    run("cifar10", raw, tmp_path / "other", match=r"test_batch\.bin in .* hold 3 bytes, not whole images")
