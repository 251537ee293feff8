"""Results that nobody vouches for: odd types end in a sentence, and text of anybody's stays text."""

import copy
import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from hf_ats.results import (
    read_results,
    render_card,
    render_comparison,
    render_table,
    update_marked_block,
    write_report_page,
    write_results,
)
from hf_ats.results.markdown import fenced, in_code, inert

EXAMPLE = Path(__file__).parents[2] / "model_cards/examples/results.json"
NAMES = {"core": "ann/pair-core", "full": "ann/pair-full"}


def read_by_everything(path: Path) -> None:
    results = read_results(path)
    for level in results["levels"]:
        render_card(results, level, NAMES)
    render_table(results)
    render_comparison([path])
    write_report_page(path.parent)


def places(value, here=()):
    """Every field, as the keys that lead to it; of a list the first item."""
    yield here
    items = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*here, key))


def test_a_field_of_any_odd_type_is_a_sentence(tmp_path):
    example = json.loads(EXAMPLE.read_text(encoding="utf-8"))
    odd_values = [None, [], {}, 5, "text", [None], {"a": None}, float("inf")]
    all_places = [place for place in places(example) if place]
    assert len(all_places) > 100
    sentences = []
    for number, place in enumerate(all_places[::2]):
        results = copy.deepcopy(example)
        owner = results
        for key in place[:-1]:
            owner = owner[key]
        owner[place[-1]] = odd_values[number % len(odd_values)]
        if number % 4 == 3:
            del owner[place[-1]]
        (tmp_path / "results.json").write_text(json.dumps(results), encoding="utf-8")
        try:
            read_by_everything(tmp_path / "results.json")
        except ValueError as error:  # anything else is a traceback
            sentences.append(str(error))
    assert len(sentences) > 25
    assert not [one for one in sentences if "format code" in one or "unpack" in one]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("null", "does not hold the results of a run"),
        ("[" * 100_000, "is not JSON"),
        ('{"format": "\\ud83d"}', "is not JSON .*surrogates not allowed"),
    ],
)
def test_a_file_that_holds_no_results_is_named(text, words, tmp_path):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError, match=rf"results.json {words}"):
        read_results(tmp_path / "results.json")


def test_a_field_is_named_with_what_it_holds(tmp_path):
    example = json.loads(EXAMPLE.read_text(encoding="utf-8"))
    example["levels"]["core"]["parameters"] = "many"
    (tmp_path / "results.json").write_text(json.dumps(example))
    with pytest.raises(ValueError, match=r"results.json: level 'core': parameters is 'many', a str; give the file"):
        read_results(tmp_path / "results.json")


@pytest.mark.parametrize("odd", [None, [], "text", {"loss_full": 1.0}, {"step": None}, {"step": 1, "loss_full": [2]}])
def test_a_log_of_odd_types_is_a_sentence(odd, tmp_path):
    (tmp_path / "results.json").write_text(EXAMPLE.read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": [{"step": 1, "loss_full": 1e20}, odd]}))
    with pytest.raises(ValueError, match=r"trainer_state.json holds no log_history of steps and numbers; remove it"):
        write_report_page(tmp_path)


HOSTILE = [
    "\"quotes\" 'of' both kinds: [",
    "a\n---\nb: [c\n# Heading",
    "---",
    "a\r---\r\n- b\u2028---\u2028",
    "{{ 7 * 7 }}{% raw %}",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "```\n# Heading\n<script>",
    "`code` ``` *emphasis* [link](http://example.org) | cell ~~no~~ $$x$$ &lt;b&gt; \\",
    "<!-- end of a comment --> -->",
]


@pytest.fixture(params=HOSTILE)
def hostile(request, tmp_path):
    """Results whose free texts are all hostile, on disk."""
    fixed = ("format", "run_id", "task", "created", "partition", "card", "seed")
    choices = ("schedule", "test_part", "source_lang", "target_lang", "device")

    def replaced(value, key=""):
        if isinstance(value, dict):
            return {name: replaced(one, name) for name, one in value.items()}
        if isinstance(value, list):
            return [replaced(one) for one in value]
        return request.param if isinstance(value, str) and key not in choices else value

    example = read_results(EXAMPLE)
    results = {name: value if name in fixed else replaced(value) for name, value in example.items()}
    results["training"]["arguments"] = {"run_name": "mine", "note": request.param}
    results["partition"]["target_modules"] = [request.param]
    results["command"] = f"hf-ats train --output_dir {shlex.quote(request.param)}"
    write_results(tmp_path / "results.json", results)
    return tmp_path / "results.json"


def prose(markdown: str) -> str:
    """Markdown without its blocks and spans of code, as CommonMark finds them."""
    lines, fence = [], None
    for line in markdown.split("\n"):
        found = re.match(r" {0,3}(`{3,})(.*)", line)
        if fence is None and found:
            fence = found[1]
        elif fence is None:
            lines.append(line)
        elif found and found[1].startswith(fence) and not found[2].strip():
            fence = None
    assert fence is None
    return re.sub(r"(?<![`\\])(`+)(?!`).*?(?<!`)\1(?!`)", "", "\n".join(lines))


def test_hostile_text_stays_text_on_a_card(hostile):
    results = read_results(hostile)
    plain = prose(render_card(read_results(EXAMPLE), "core", NAMES).split("---\n", 2)[2])
    card = render_card(results, "core", NAMES)
    _, metadata, text = re.split(r"^---$", card, maxsplit=2, flags=re.M)
    found = yaml.safe_load(metadata)
    assert ModelCard(card).data.license == found["license"] == "apache-2.0"
    expected = yaml.safe_load(re.split(r"^---$", render_card(read_results(EXAMPLE), "core", NAMES), flags=re.M)[1])
    assert found.keys() == expected.keys() and found["tags"] == expected["tags"]
    text = prose(text)
    assert not re.search(r"<(script|img|!--)", text)
    for kind in (r"^#+ .*", r"^---", r"^ *\|", r"^- \*\*\w+\*\*"):  # headings, rules, rows, facts
        assert len(re.findall(kind, text, flags=re.M)) == len(re.findall(kind, plain, flags=re.M))
    assert "49" not in text or "{{" not in results["data"]["name"]


def test_hostile_text_stays_text_in_tables_and_on_the_page(hostile):
    comparison = render_comparison([hostile])
    assert not re.search(r"<(script|img|!--)", prose(comparison))
    page = write_report_page(hostile.parent).read_text(encoding="utf-8")
    assert not re.search(r"<(script|img)", page)
    assert page.count("<!--") == write_report_page_of_example(hostile.parent).count("<!--")


def write_report_page_of_example(folder: Path) -> str:
    write_results(folder / "plain/results.json", read_results(EXAMPLE))
    return write_report_page(folder / "plain").read_text(encoding="utf-8")


def test_a_block_of_a_readme_keeps_its_own_marks(tmp_path):
    (tmp_path / "README.md").write_text("<!-- begin runs -->\n<!-- end runs -->\n")
    with pytest.raises(ValueError, match=r"holds '<!-- begin runs -->' or '<!-- end runs -->' itself"):
        update_marked_block(tmp_path / "README.md", "python --run_name '<!-- end runs -->'")


def test_markdown_shows_what_it_is_given():
    assert inert("data/multi30k_de, num_beams=1") == "data/multi30k_de, num_beams=1"
    assert inert("_a_ & <b>\n| `c`") == r"\_a\_ &amp; &lt;b> \| \`c\`"
    assert inert(inert("*")) == r"\*"
    assert in_code("a ` b\n") == "`` a ` b  ``"
    assert fenced("bash", "echo ```\n") == "````bash\necho ```\n````"
    assert fenced("bash", None) is None
