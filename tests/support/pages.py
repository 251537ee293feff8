"""Report pages to look into, read as a browser reads them, with the standard library alone."""

import copy
import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from hf_ats.results.page import render_report_page

ROOT = Path(__file__).parents[2]
SENTENCES = [
    ("Ein Hund läuft über den Schnee.", "A dog runs over the snow.", "A dog is running over snow."),
    ("Zwei Männer.", "Two men.", "Two men."),
]
VOID = {"meta", "link", "br", "img", "input", "hr", "source"}


class Element:
    """An element: its name, its attributes, and the elements and texts in it."""

    def __init__(self, name: str, attributes: dict[str, str | None]):
        self.name, self.attributes = name, attributes
        self.children: list[Element | str] = []

    def __getitem__(self, attribute: str) -> str:
        return self.attributes[attribute]

    def walk(self) -> Iterator["Element"]:
        """Itself and every element in it, in the order of the page."""
        yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child.walk()

    def find_all(self, name: str | None = None, **attributes: str) -> list["Element"]:
        """The elements in it of that name, with these attributes; `class_` is one of the classes."""
        wanted = attributes.pop("class_", None)
        return [
            one
            for one in self.walk()
            if (name is None or one.name == name)
            and (wanted is None or wanted in (one.attributes.get("class") or "").split())
            and all(one.attributes.get(key) == value for key, value in attributes.items())
        ]

    def find(self, name: str | None = None, **attributes: str) -> "Element":
        """The only such element."""
        (one,) = self.find_all(name, **attributes)
        return one

    @property
    def text(self) -> str:
        """All text in it, as it is written."""
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    @property
    def words(self) -> str:
        """All text in it, white space made even."""
        return " ".join(self.text.split())


class _Parser(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.root = Element("", {})
        self.open = [self.root]

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"{tag}: an attribute twice in {attrs}"
        element = Element(tag, dict(attrs))
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open[-1].name == tag, f"</{tag}> closes <{self.open[-1].name}>"
        self.open.pop()

    def handle_data(self, data):
        self.open[-1].children.append(data)


def parse_page(text: str) -> Element:
    """The page as a tree; fails where an element is not closed, or not in its place."""
    parser = _Parser()
    parser.feed(text)
    parser.close()
    assert parser.open == [parser.root], f"<{parser.open[-1].name}> is never closed"
    return parser.root


def read(name: str) -> dict:
    return json.loads((ROOT / name).read_text(encoding="utf-8"))


def with_samples(results: dict, sentences=SENTENCES) -> dict:
    samples = [
        {"source": source, "reference": reference, "translations": dict.fromkeys(results["levels"], translation)}
        for source, reference, translation in sentences
    ]
    return copy.deepcopy(results) | {"samples": samples}


def history(levels=("core", "full"), steps=10, scores=("bleu", "chrf")) -> list[dict]:
    """As the trainer logs it, an evaluation every fifth time, and the summary at the end."""
    entries = []
    for i in range(1, steps + 1):
        entries.append({"step": 10 * i, "loss": 3.0, "learning_rate": 1e-3})
        entries[-1] |= {f"loss_{level}": 6 / i + number for number, level in enumerate(levels)}
        if i % 5 == 0:
            values = {f"eval_{level}_{score}": 20 + i for level in levels for score in ("loss", *scores)}
            entries.append({"step": 10 * i, **values, "eval_core_runtime": 1.0})
    return [*entries, {"step": 10 * steps, "train_loss": 3.0, "train_runtime": 60.0}]


def render(results: dict, log: list[dict] | None = None) -> Element:
    return parse_page(render_report_page(results, history() if log is None else log, "a run"))


def figures(page: Element) -> dict[str, list[str]]:
    """The rows of the table of figures: the first word or two, and the text of each cell."""
    rows = page.find("table", class_="figures").find_all("tr")
    return {row.find_all("th")[0].children[0].strip(): [cell.words for cell in row.find_all("td")] for row in rows[1:]}


def facts(page: Element) -> dict[str, str]:
    lists = page.find_all("dl")
    return {one.find("dt").text: one.find("dd").text for some in lists for one in some.find_all("div")}


def chart(page: Element, title: str) -> Element:
    (one,) = [one for one in page.find_all("figure") if one.find("strong").text == title]
    return one


def points(path: str) -> list[tuple[float, float]]:
    pairs = [pair.split() for pair in path.replace("M", " L").split("L") if pair.strip()]
    return [(float(x), float(y)) for x, y in pairs]
