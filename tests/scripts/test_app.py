"""`hf-ats app`: the page as a person uses it, in a browser, and what the command refuses."""

import importlib
import importlib.metadata
import re
import shutil
import socket
import sys

import pytest
import torch

from hf_ats.results import read_results, write_results
from hf_ats.scripts import app
from tests.support.browser import browser
from tests.support.checkpoints import GERMAN
from tests.support.models import tiny_model
from tests.support.pushes import make_run
from tests.support.tokenizers import tiny_tokenizer
from tests.support.translation_page import NOTICE, SHOWN, TIMES, expected, free_port, open_page, translated

UNSEEN = "eine Katze spielt im Park"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "<i>ladder", ratios=(0.1, 0.25))


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture(scope="module")
def page_ats():
    """The page's module, with Gradio, whose import takes seconds, which only this file's process should pay."""
    return importlib.import_module("hf_ats.remote_code.page_ats")


@pytest.fixture
def serve(monkeypatch, page_ats):
    """Begins the command, and returns the port that the page is served on, until the test ends."""
    serving = []
    # Where the command would wait for Ctrl-C.
    monkeypatch.setattr(page_ats.gr.Blocks, "block_thread", lambda page: serving.append(page))

    def begin(*arguments) -> int:
        number = free_port()
        monkeypatch.setattr(sys, "argv", ["hf-ats app", *map(str, arguments), "--port", str(number)])
        app.main()
        return number

    yield begin
    for page in serving:
        page.close()


def refuse(words, *arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["hf-ats app", *map(str, arguments)])
    monkeypatch.setattr(app, "load_network", lambda path: pytest.fail("a network is loaded"))
    with pytest.raises(SystemExit, match=words):
        app.main()


def calls_of(monkeypatch, place, name: str) -> list:
    """The first arguments that a function of a module is called with from here on."""
    calls, function = [], getattr(place, name)

    def called(first, *more, **named):
        calls.append(first)
        return function(first, *more, **named)

    monkeypatch.setattr(place, name, called)
    return calls


def test_both_networks_translate_with_their_times_and_sizes(run, serve, chromium, page_ats, monkeypatch):
    asked = calls_of(monkeypatch, socket, "getaddrinfo")
    translators = calls_of(monkeypatch, page_ats, "_translate")
    port = serve(run)
    assert len(set(map(id, translators))) == 2, "each network translates once before the page opens"
    page = open_page(chromium, port)
    text = page.evaluate("document.body.innerText")
    assert "<i>ladder\n" in text and "Sentence (de)" in text and "Translation (en)" in text
    levels = read_results(run / "results.json")["levels"]
    for figures in (levels["core"], levels["full"]):
        assert f"{figures['size_bytes'] / 1e6:,.1f} MB, {figures['parameters']:,} parameters" in text
    assert f"CPU with {torch.get_num_threads()} thread" in text and "float32, 4 beams" in text

    assert translated(page, UNSEEN) == expected(run, ("core", "full"), UNSEEN)
    assert all(re.fullmatch(r"\d+\.\d{3} s", time) and float(time[:-2]) > 0 for time in page.evaluate(TIMES))
    # The weights are random, and so the translations go on until they may not.
    assert "cut off, since it has the most tokens that are allowed" in page.evaluate("document.body.innerText")

    page.write(" \u200b")
    page.click("Translate")
    page.wait_until(f"{NOTICE} === 'There is nothing to translate: write a sentence first.'")
    assert page.evaluate(SHOWN) == ["", ""] and page.evaluate(TIMES) == []
    page.write(f"{UNSEEN} " * 40)
    page.click("Translate")
    page.wait_until(f"/^The text has \\d+ tokens, and 64 are the most: shorten it/.test({NOTICE})")
    page.click(GERMAN[1])  # an example
    page.wait_until(f"{TIMES}.length === 2")
    assert page.evaluate(SHOWN) == expected(run, ("core", "full"), GERMAN[1]) and page.evaluate(NOTICE) is None

    assert "127.0.0.1" in asked and set(asked) <= {"127.0.0.1", None}  # and no analytics


def test_a_ladder_has_a_column_for_each_level_that_is_asked_for_on_a_phone_too(run, serve, chromium):
    page = open_page(chromium, serve(run, "--levels", "level1", "core", "full"), width=360)
    assert page.evaluate("[...document.querySelectorAll('h2')].map(one => one.innerText)") == [
        "level1",
        "core",
        "full",
    ]
    assert translated(page, UNSEEN) == expected(run, ("level1", "core", "full"), UNSEEN)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.complaints == []
    hosts = {url.split("/")[2] for url in page.requests if not url.startswith("data:")}
    assert hosts == {page.requests[0].split("/")[2]}, "the page asks for nothing from elsewhere"


def test_a_network_without_positions_has_a_longest_text_all_the_same(page_ats, tmp_path):
    tokenizer = tiny_tokenizer("t5", tmp_path)
    translator = page_ats.translator(tiny_model("t5", vocab_size=len(tokenizer)), tokenizer)
    assert page_ats._refusal(translator, "a " * 200) is None
    assert "and 1,024 are the most" in page_ats._refusal(translator, "a " * 2000)


def test_runs_that_have_nothing_to_put_side_by_side(run, tmp_path, monkeypatch):
    refuse(r"^hf-ats app: run_directory='.*' holds no results.json", tmp_path, monkeypatch=monkeypatch)
    refuse(
        r"levels=\['half'\]: the run in .* has \['core', 'level1', 'full'\]",
        run,
        "--levels",
        "half",
        monkeypatch=monkeypatch,
    )
    alone = shutil.copytree(run, tmp_path / "alone")
    results = read_results(alone / "results.json")
    write_results(alone / "results.json", results | {"levels": {"full": results["levels"]["full"]}})
    refuse(r"levels=\['full'\]: the page puts networks beside each other, and", alone, monkeypatch=monkeypatch)
    shutil.rmtree(alone / "full")
    refuse("alone/full holds no complete export", alone, monkeypatch=monkeypatch)


def test_a_port_that_cannot_be_had(run, monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        refuse(f"--port {number} cannot be used .*; give another one", run, "--port", number, monkeypatch=monkeypatch)
    refuse("2", run, "--port", "0", monkeypatch=monkeypatch)
    assert "0 is not a port; write a number from 1 to 65535" in capsys.readouterr().err


def test_without_gradio_it_says_what_to_install(run, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    refuse(r'needs Gradio, which is not installed; run pip install "hf_ats\[app\]"', run, monkeypatch=monkeypatch)
