"""The report page as people see it: in a browser, on a phone and on a desk, by day and by night."""

import random
from pathlib import Path

import pytest

from hf_ats.results.page import render_report_page
from tests.support.browser import Page, browser
from tests.support.pages import SENTENCES, history, read, with_samples

SIZES = {"phone": (360, 800), "desk": (1280, 900)}
SCHEMES = ["light", "dark"]
LONG = [
    ("Donaudampfschifffahrtsgesellschaft" * 20, "w" * 400, "w" * 500),
    ("viele Wörter " * 100, "many words " * 100, "many other words " * 100),
    ("Guten Morgen, wie geht es dir heute?", "صباح الخير، كيف حالك اليوم؟", "صباح الخير، كيف حالك؟"),
    ("<script>document.title = 'taken over'; fetch('//a.example/')</script>", "<b>bold</b>", "<i onclick=x()>"),
    *SENTENCES,
]
# What lies across the right or left edge, though nothing around it scrolls.
STICKING_OUT = """
[...document.querySelectorAll("body *")].filter(one => {
  const box = one.getBoundingClientRect();
  if (!box.width || (box.left >= -0.5 && box.right <= document.documentElement.clientWidth + 0.5)) return false;
  for (let outer = one.parentElement; outer; outer = outer.parentElement)
    if (["auto", "scroll", "hidden"].includes(getComputedStyle(outer).overflowX)) return false;
  return true;
}).map(one => one.outerHTML.slice(0, 120))
"""
# Every text that is shown, with its contrast to the ground that it stands on (WCAG 2, relative luminance).
CONTRASTS = """
(() => {
  const channels = color => color.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = one => {
    for (; one; one = one.parentElement) {
      const color = channels(getComputedStyle(one).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
      if (color[3] !== 0) throw new Error("a ground that shines through: " + one.outerHTML.slice(0, 80));
    }
    throw new Error("no ground");
  };
  const contrast = (color, one) => {
    const [low, high] = [luminance(channels(color)), luminance(ground(one))].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const one = walker.currentNode.parentElement, style = getComputedStyle(one);
    if (!walker.currentNode.textContent.trim() || !one.getClientRects().length) continue;
    const drawn = one.ownerSVGElement ? style.fill : style.color;
    found.push([walker.currentNode.textContent.trim().slice(0, 40), contrast(drawn, one)]);
  }
  const lines = [...document.querySelectorAll(".curve .line")]
    .map(line => [line.parentElement.getAttribute("class"), contrast(getComputedStyle(line).stroke, line)]);
  return {texts: found, lines: lines, ground: luminance(ground(document.body))};
})()
"""
CHARTS = """
[...document.querySelectorAll("svg.chart")].map(chart => {
  const frame = chart.getBoundingClientRect();
  const inside = one => {
    const box = one.getBoundingClientRect();
    return box.left >= frame.left - 1 && box.right <= frame.right + 1 && box.top >= frame.top - 1 &&
      box.bottom <= frame.bottom + 1;
  };
  const scale = frame.width / chart.viewBox.baseVal.width;
  return {
    width: frame.width, height: frame.height,
    lines: [...chart.querySelectorAll(".line")].map(line => line.getBoundingClientRect().width),
    points: [...chart.querySelectorAll(".point use")].filter(point => point.getBoundingClientRect().width > 3).length,
    outside: [...chart.querySelectorAll("text, .line, .raw, use")]
      .filter(one => !inside(one)).map(one => one.outerHTML),
    letters: [...chart.querySelectorAll("text")].map(text => parseFloat(getComputedStyle(text).fontSize) * scale),
  };
})
"""


def write(folder: Path, results: dict, log: list[dict], name: str) -> str:
    file = folder / f"{name}.html"
    file.write_text(render_report_page(results, log, name), encoding="utf-8")
    return file.as_uri()


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, str]:
    """Addresses: of a plain run, and of one with everything that could burst a page."""
    folder = tmp_path_factory.mktemp("pages")
    plain = with_samples(read("experiments/results/one-seed/width-from-full.json"))
    ladder = read("experiments/results/one-seed/ladder.json")
    full = ladder["levels"].pop("full")
    ladder["levels"] |= {f"level{number}": ladder["levels"]["level2"] for number in range(3, 8)} | {"full": full}
    ladder["data"] |= {"target_lang": "ar", "name": "a/very/long/path/" * 20}
    ladder["command"] += f" --validation_prefix {'long/' * 60}"
    ladder["training"]["arguments"]["run_name"] = "name" * 60
    log = history(list(ladder["levels"]), steps=300)
    noise = random.Random(0)
    for entry in log:
        entry |= {name: value + noise.gauss(0, 0.1) for name, value in entry.items() if name.startswith("loss_")}
    return {
        "plain": write(folder, plain, history(), "a run"),
        "burst": write(folder, with_samples(ladder, LONG), log, "unbroken" * 30),
    }


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture
def show(chromium, pages):
    """Opens a page, by its name, on a device."""
    shown = []

    def open_page(name: str, device: str, **options) -> Page:
        width, height = SIZES[device]
        shown.append(Page(chromium, pages[name], width=width, height=height, **options))
        return shown[-1]

    yield open_page
    for page in shown:
        page.close()


@pytest.mark.parametrize("name", ["plain", "burst"])
@pytest.mark.parametrize("device", SIZES)
def test_the_page_fits_its_device_and_asks_for_nothing_and_complains_of_nothing(show, pages, name, device):
    page = show(name, device)
    assert page.evaluate("document.documentElement.clientWidth") in range(SIZES[device][0] - 20, SIZES[device][0] + 1)
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert page.evaluate(STICKING_OUT) == []
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate(STICKING_OUT) == []
    assert page.requests == [pages[name]]
    assert page.complaints == []
    assert page.evaluate("document.title") != "taken over"


@pytest.mark.parametrize("name", ["plain", "burst"])
@pytest.mark.parametrize("device", SIZES)
def test_the_charts_can_be_seen_and_read(show, name, device):
    charts = show(name, device).evaluate(CHARTS)
    assert len(charts) == 4
    for chart in charts:
        assert chart["width"] > 250 and chart["height"] > 150
        assert len(chart["lines"]) == (2 if name == "plain" else 9)
        assert min(chart["lines"]) > 80 and chart["points"] >= 2 * len(chart["lines"])
        assert chart["outside"] == []
        assert min(chart["letters"]) >= 10 and max(chart["letters"]) <= 16


@pytest.mark.parametrize("scheme", SCHEMES)
def test_all_text_stands_out_from_its_ground(show, scheme):
    page = show("burst", "phone", scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    found = page.evaluate(CONTRASTS)
    assert (found["ground"] > 0.9) if scheme == "light" else (found["ground"] < 0.02)
    assert len(found["texts"]) > 300
    assert [text for text in found["texts"] if text[1] < 4.5] == []
    # The colours between core and full are those of the plots; what they are too pale for, shapes and labels tell.
    ends = [contrast for name, contrast in found["lines"] if name in ("curve level-0", "curve level-8")]
    assert len(ends) == 8 and min(ends) >= 3


@pytest.mark.parametrize("device", SIZES)
def test_without_scripts_the_page_looks_the_same(show, tmp_path, device):
    pictures = []
    for scripts in (True, False):
        show("plain", device, scripts=scripts).screenshot(tmp_path / f"{scripts}.png")
        pictures.append((tmp_path / f"{scripts}.png").read_bytes())
    assert pictures[0] == pictures[1] and len(pictures[0]) > 20_000


def test_a_wide_table_scrolls_within_itself(show):
    page = show("burst", "phone")
    region = "document.querySelector('.scroll:has(.figures)')"
    assert page.evaluate(f"{region}.scrollWidth > {region}.clientWidth + 100")
    page.evaluate(f"{region}.scrollLeft = 200")
    assert page.evaluate(f"{region}.scrollLeft") == 200
    assert page.evaluate(f"{region}.querySelector('tbody th').getBoundingClientRect().left") >= 0
    assert page.evaluate(f"{region}.tabIndex") == 0


def test_on_paper_it_is_dark_on_light_and_nothing_is_cut_off(show):
    page = show("burst", "desk", scheme="dark")
    page.emulate("dark", media="print")
    found = page.evaluate(CONTRASTS)
    assert found["ground"] == 1 and page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "light"
    assert [text for text in found["texts"] if text[1] < 4.5] == []
    assert page.evaluate("getComputedStyle(document.querySelector('pre')).whiteSpace").startswith("pre-wrap")
    assert page.evaluate("document.querySelector('pre').scrollWidth <= document.querySelector('pre').clientWidth")


def test_text_runs_the_way_of_its_script(show):
    page = show("burst", "desk")
    directions = page.evaluate(
        "[...document.querySelectorAll('.samples p')].filter(one => /\\u0627/.test(one.textContent))"
        ".map(one => getComputedStyle(one).direction)"
    )
    assert len(directions) == 10 and set(directions) == {"rtl"}
    assert page.evaluate("getComputedStyle(document.querySelector('.samples p')).direction") == "ltr"
