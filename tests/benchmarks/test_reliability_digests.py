"""The cost of a checkpoint's digests is measured beside that of saving it."""

import pytest

from benchmarks.reliability import digests


def test_the_parts_of_saving_are_measured(tmp_path):
    settings = digests.DigestArguments(sizes=["small"], rounds=2, folder=tmp_path / "checkpoint")
    record = digests.measure(settings)
    figures = record["measurements"]["small"]
    assert figures["checkpoint_bytes"] > 3 * 4 * figures["parameters"] * 0.9
    assert all(figures[f"{part}_seconds"]["median"] > 0 for part in ("save", "digests", "write_through"))
    assert set(record["ratios"]) == {"digests / saving, small", "writing through / saving, small"}
    assert not (tmp_path / "checkpoint").exists()


def test_a_size_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="holds 'huge'; write some of small, Marian base"):
        digests.measure(digests.DigestArguments(sizes=["huge"]))
