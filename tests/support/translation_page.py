"""The page of `hf-ats app`, driven as a person would."""

import socket

from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from hf_ats.evaluation import translate
from tests.support.browser import Page

# Parts of the page appear one after the other.
READY = """
document.querySelectorAll("h2").length > 1 &&
document.querySelectorAll("textarea").length === document.querySelectorAll("h2").length + 1 &&
document.body.innerText.includes("Times: ") && !document.body.innerText.includes("Loading...")
"""
SHOWN = "[...document.querySelectorAll('textarea')].slice(1).map(one => one.value)"
TIMES = "[...document.querySelectorAll('.seconds')].map(one => one.innerText)"
NOTICE = "document.querySelector('.notice')?.innerText"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def open_page(chromium, port: int, width: int = 1280) -> Page:
    page = Page(chromium, f"http://127.0.0.1:{port}/", width=width, height=900)
    page.wait_until(READY)
    return page


def translated(page: Page, text: str) -> list[str]:
    """What the page shows for a text, after Enter."""
    page.write(text)
    page.press_enter()
    page.wait_until(f"{TIMES}.length === {SHOWN}.length && {SHOWN}.every(Boolean)")
    return page.evaluate(SHOWN)


def expected(run, levels, text: str) -> list[str]:
    """What the exports of a run make of it, as `hf-ats translate` does."""
    loaded = [[of.from_pretrained(run / level) for of in (AutoModelForSeq2SeqLM, AutoTokenizer)] for level in levels]
    return [translate(model, tokenizer, [text])[0] for model, tokenizer in loaded]
