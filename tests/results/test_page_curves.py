import itertools
import math

import pytest

from hf_ats.results.curves import level_colors
from hf_ats.results.page import render_report_page
from hf_ats.results.page_curves import HEIGHT, WIDTH, ticks
from tests.support.pages import Element, chart, history, parse_page, points, read, render


@pytest.fixture
def results() -> dict:
    return read("experiments/results/one-seed/width-from-full.json")


def test_there_is_a_chart_for_each_quantity_with_a_curve_for_each_level(results):
    page = render(results)
    titles = [one.find("strong").text for one in page.find_all("figure")]
    assert titles == ["Training loss", "Validation loss", "Validation BLEU", "Validation chrF"]
    for figure in page.find_all("figure"):
        svg = figure.find("svg", role="img")
        title, description = (page.find(id=name) for name in svg["aria-labelledby"].split())
        assert title.name == "title" and description.name == "desc"
        assert title.text == figure.find("strong").text
        assert "core: " in description.text and "full: " in description.text
        assert [label.text for label in svg.find_all("text", class_="label")] == ["core", "full"]
        # Not by colour alone: each level has a shape of its own.
        shapes = [{use["href"] for use in group.find_all("use")} for group in svg.find_all("g", class_="curve")]
        assert shapes == [{"#circle"}, {"#square"}]


def test_measured_criteria_have_charts_with_a_gap_where_they_are_undefined(results):
    names = ("c_norm", "c_norm_squared", "c_sim", "c_align", "cosine", "alpha", "q")
    log = [{"step": step, **{f"{name}_core": step / 100 for name in names}} for step in (0, 50, 100, 150)]
    log[2] |= dict.fromkeys(("c_align_core", "alpha_core", "q_core"), float("nan"))
    page = render(results, [*history(), *log])
    titles = [one.find("strong").text for one in page.find_all("figure")][4:]
    assert titles == [
        "Gradient overlap", "Norm similarity", "Gradient alignment", "Gradients of core and full",
        "Safe share of the step", "Slow-down",
    ]  # fmt: skip
    for title, pieces in (("Gradient overlap", 1), ("Gradient alignment", 2), ("Slow-down", 2)):
        svg = chart(page, title).find("svg", role="img")
        assert [label.text for label in svg.find_all("text", class_="label")] == ["core"]
        assert svg.find("path", class_="line")["d"].count("M") == pieces
    assert "c_norm squared over the optimizer steps. core: 0 at step 0, 1.500 at step 150." in page.text


def test_a_curve_lies_where_its_values_say(results):
    log = [{"step": step, "loss_core": loss} for step, loss in ((0, 4.0), (50, 2.0), (100, 0.0))]
    svg = chart(render(results, log), "Training loss").find("svg", role="img")
    line = points(svg.find("path", class_="line")["d"])
    (left, top), (middle, between), (right, bottom) = line
    assert middle == pytest.approx((left + right) / 2, abs=0.1)
    assert between == pytest.approx((top + bottom) / 2, abs=0.1)
    assert 0 < left < right < WIDTH and 0 < top < bottom < HEIGHT
    grid = {text.text: float(text["y"]) for text in svg.find("g", class_="grid").find_all("text")}
    assert grid["0"] and grid["4"] == top and grid["2"] == between
    tips = [point.find("title").text for point in svg.find_all("g", class_="point")]
    assert tips == ["core, step 0: 4.000", "core, step 50: 2.000", "core, step 100: 0"]


def test_the_values_are_there_as_a_table(results):
    table = chart(render(results), "Validation BLEU").find("table")
    rows = [[cell.text for cell in row.children if isinstance(cell, Element)] for row in table.find_all("tr")]
    assert rows == [["step", "core", "full"], ["50", "25.00", "25.00"], ["100", "30.00", "30.00"]]


def test_levels_have_the_colours_of_the_plot(results):
    style = render(results).find("style").text
    dark = style.rpartition("@media screen and (prefers-color-scheme: dark)")[2]
    for number, color in enumerate(level_colors(["core", "full"]).values()):
        assert f".level-{number} {{ --hue: {color}; }}" in style
        assert dark.count(f".level-{number} ") == 1


def test_what_is_not_finite_is_a_gap(results):
    values = [5.0, 4.0, math.nan, None, math.inf, 2.0, 1.0]
    log = [{"step": 10 * i, "loss_core": value, "loss_full": None} for i, value in enumerate(values)]
    figure = chart(render(results, log), "Training loss")
    (line,) = figure.find_all("path", class_="line")
    assert line["d"].count("M") == 2 and len(points(line["d"])) == 4
    assert all(math.isfinite(number) for point in points(line["d"]) for number in point)
    assert [label.text for label in figure.find_all("text", class_="label")] == ["core"]
    assert "No finite value of full." in figure.text
    cells = [[cell.text for cell in row.find_all("td")] for row in figure.find("table").find_all("tr")[1:]]
    assert cells[1:5] == [["4.000", "-"], ["-", "-"], ["-", "-"], ["-", "-"]]


def test_nothing_finite_at_all_is_said(results):
    figure = chart(render(results, [{"step": 1, "loss_core": math.nan}]), "Training loss")
    assert not figure.find_all("path", class_="line") and "No finite value of core." in figure.text


@pytest.mark.parametrize("values", [[2.0], [3.0, 3.0], [0.0, 0.0], [1e-9, 2e-9], [-1e308, 1e308], [1.0, 1e20, 1.0]])
def test_any_range_of_values_stays_in_the_picture(results, values):
    log = [{"step": 10 * i, "loss_core": value} for i, value in enumerate(values)]
    svg = chart(render(results, log), "Training loss").find("svg", role="img")
    for x, y in points(svg.find("path", class_="line")["d"]):
        assert 0 <= x <= WIDTH and 0 <= y <= HEIGHT
    marks = [text.text for text in svg.find("g", class_="grid").find_all("text") if text["text-anchor"] == "end"]
    assert 2 <= len(marks) == len(set(marks)) <= 8


def test_thousands_of_points_are_thinned_out_and_no_peak_is_lost(results):
    log = [{"step": i, "loss_core": 2.0 + math.sin(i) / 4} for i in range(1, 6001)]
    log[3456]["loss_core"] = 9.0
    log[3000]["loss_core"] = math.nan
    page = render_report_page(results, log, "a run")
    assert len(page) < 60_000
    figure = chart(parse_page(page), "Training loss")
    raw = points(figure.find("path", class_="raw")["d"])
    assert 200 < len(raw) <= 320
    assert raw == sorted(raw, key=lambda point: point[0])
    high = float(next(text for text in figure.find_all("text") if text.text == "10")["y"])
    low = float(next(text for text in figure.find_all("text") if text.text == "0")["y"])
    assert min(y for _, y in raw) == pytest.approx(low + (high - low) * 9 / 10, abs=0.2)
    smooth = points(figure.find("path", class_="line")["d"])
    assert len(smooth) <= 152 and max(y for _, y in smooth) - min(y for _, y in smooth) < 3
    assert len(figure.find_all("g", class_="point")) <= 13
    rows = figure.find("table").find_all("tr")[1:]
    assert len(rows) <= 13 and rows[-1].find("th").text == "6,000"
    assert f"{6000 - len(rows):,} more steps were logged" in figure.text


def test_the_labels_of_curves_that_end_together_stand_apart(results):
    levels = ["core", *(f"level{i}" for i in range(1, 11)), "full"]
    log = [{"step": step, **dict.fromkeys([f"loss_{level}" for level in levels], 2.0)} for step in (1, 2)]
    labels = chart(render(results, log), "Training loss").find_all("text", class_="label")
    assert [label.text for label in labels] == levels
    places = sorted(float(label["y"]) for label in labels)
    assert all(after - before >= 12 for before, after in itertools.pairwise(places))
    assert places[0] >= 0 and places[-1] <= HEIGHT


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 100, [0, 25, 50, 75, 100]),
        (1.6, 6.2, [0, 2, 4, 6, 8]),
        (-0.1, 0.1, [-0.1, -0.05, 0, 0.05, 0.1]),
        (2.0, 2.0, [1.8, 1.9, 2.0, 2.1, 2.2]),
    ],
)
def test_ticks_are_round_and_hold_the_values_between_them(low, high, expected):
    assert ticks(low, high, 5) == pytest.approx(expected)
