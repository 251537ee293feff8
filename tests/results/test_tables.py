import copy

import pytest

from hf_ats.results import build_results, render_table, sample_translations
from hf_ats.results.tables import align
from tests.results.test_results import LEVEL, SECTIONS

SPEED = {
    "tokens_per_second": 12345.6,
    "slowest": 12000.0,
    "fastest": 12500.0,
    "output_tokens": 1000,
    "sentences": 100,
    "batch_size": 32,
    "num_beams": 5,
    "repeats": 3,
    "device": "cpu",
    "threads": 2,
    "dtype": "float32",
}


@pytest.fixture
def results():
    sections = copy.deepcopy(SECTIONS)
    sections["levels"]["core"]["decoding_speed"] = SPEED
    return build_results(**sections)


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_text_columns_line_up(results):
    header, rule, core, full = render_table(results).split("\n\n")[0].splitlines()
    ends = [i for i, dash in enumerate(rule) if dash == "-" and rule[i + 1 : i + 2] != "-"]
    for line in (header, core, full):
        assert len(line) == len(rule)
        assert all(line[end] != " " and line[end + 1 : end + 2] in ("", " ") for end in ends[1:]), line
    assert core.split() == ["core", "1,234,567", "4.9", "2.50", "26.12", "48.20", "12,346"]
    assert full.split() == ["full", "1,234,567", "4.9", "2.50", "31.50", "48.20", "-"]


def test_markdown_holds_the_same_cells(results):
    header, rule, *rows = render_table(results, "markdown").split("\n\n")[0].splitlines()
    text_header, _, *text_rows = render_table(results).split("\n\n")[0].splitlines()
    assert [cells(row) for row in rows] == [row.split() for row in text_rows]
    assert " ".join(cells(header)) == " ".join(text_header.split())
    assert [cell.endswith(":") for cell in cells(rule)] == [False] + [True] * 6
    assert len({len(line) for line in (header, rule, *rows)}) == 1


@pytest.mark.parametrize("markup", ["text", "markdown"])
def test_the_notes_say_how_the_figures_were_found(results, markup):
    table = render_table(results, markup)
    assert table.count(LEVEL["bleu_signature"]) == 1, "equal for both levels, so once"
    assert LEVEL["chrf_signature"] in table
    assert "Decoding of the scored translations: num_beams=1" in table
    assert "device=cpu, threads=2, dtype=float32, batch_size=32, num_beams=5, sentences=100, repeats=3" in table
    assert "a multiply-add is 2" in table


def test_what_was_not_measured_is_a_dash_and_has_no_note(results):
    results["levels"]["core"] |= {"decoding_speed": None, "bleu": None, "chrf": float("nan")}
    table = render_table(results)
    assert table.splitlines()[2].split() == ["core", "1,234,567", "4.9", "2.50", "-", "-", "-"]
    assert "Decoding speed" not in table


def test_wrong_markup_and_ragged_rows_are_refused(results):
    with pytest.raises(ValueError, match="zip"):
        align(["a", "b"], [["1"]])


def test_samples_show_each_translation_below_its_source():
    text = sample_translations(["a", "b", "c", "d"], ["A", "B", "C", "D"], {"core": ["1", "2", "3", "4"]}, number=2)
    assert text == "   source: a\nreference: A\n     core: 1\n\n   source: c\nreference: C\n     core: 3"
