"""What the tables of a record say, and in which units."""

import sys

import pytest

from benchmarks.record import build_record
from benchmarks.report import render_circumstances, render_record


def record(measurements, ratios=None):
    return build_record("x", settings={}, measurements=measurements, ratios=ratios or {})


def rows(table):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if "---" not in line]


def spread(median):
    return dict(median=median, low=median / 2, high=median * 2)


@pytest.mark.parametrize(
    ("name", "value", "heading", "cell"),
    [
        ("seconds", spread(0.5), "time (s)", "0.500 (0.250 to 1.000)"),
        ("seconds_per_step", spread(0.02), "time per step (ms)", "20.00 (10.00 to 40.00)"),
        ("peak_bytes", 12_345_678, "peak (MB)", "12.3"),
        ("reduced_bytes", 12_345, "reduced (MB)", "0.012"),
        ("flops", 1_234_000_000_000, "flops (T)", "1.234"),
        ("flops", 1_234_000_000, "flops (G)", "1.234"),
        ("flops_per_token", 1_234_000, "flops per token (M)", "1.234"),
        ("padding_share", 0.123, "padding (%)", "12.3"),
        ("tokens_per_second", 12_345.6, "tokens per second", "12,346"),
        ("steps", 17, "steps", "17"),
        ("bleu", 27.25, "bleu", "27.2"),
        ("output", "equal", "output", "equal"),
    ],
)
def test_a_figure_stands_in_the_unit_that_its_name_tells(name, value, heading, cell):
    table = render_record(record({"a": {name: value}}), "markdown").split("\n\n")[0]
    assert rows(table) == [["measured", heading], ["a", cell]]


def test_measurements_of_like_kind_share_a_table():
    tables = render_record(
        record({"a": {"seconds": 1.0}, "b": {"rows_bytes": 1}, "c": {"seconds": 2.0, "steps": 3}, "d": {}}), "markdown"
    ).split("\n\n")
    assert rows(tables[0]) == [["measured", "time (s)", "steps"], ["a", "1.000", "-"], ["c", "2.000", "3"]]
    assert rows(tables[1])[1:] == [["b", "0.000"]]


def test_a_ratio_shows_its_quartiles_and_its_limit():
    ratios = {"a / b": spread(0.5) | {"limit": 0.4}, "c / d": {"value": 0.25}}
    table = render_record(record({"a": {"steps": 1}}, ratios), "markdown").split("\n\n")[1]
    assert rows(table)[1:] == [["a / b", "0.500", "0.250 to 1.000", "0.400"], ["c / d", "0.250", "counted", "-"]]


def test_the_circumstances_repeat_the_command_with_what_the_allocator_was_told(monkeypatch):
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "0")
    monkeypatch.setattr(sys, "argv", ["x.py", "--rounds", "3"])
    text = render_circumstances(record({"a": {"steps": 1}}))
    assert "```bash\nMALLOC_MMAP_MAX_=0 python -m benchmarks.x --rounds 3\n```" in text
    assert "`MALLOC_MMAP_MAX_=0`" in text and "transformers" in text
