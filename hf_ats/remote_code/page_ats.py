"""The page that translates in a browser with several networks of a run, each with the time that it took and its size.

This file travels with a Space, whose app.py opens the page, and needs torch, transformers and Gradio alone.
"""

import html
import os
import sys
import time
import unicodedata
from collections.abc import Iterator

import gradio as gr
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from .pipeline_ats import ATSTranslationPipeline, longest_input, with_generation_defaults

_EXAMPLES = 6
# Tokens of a source, for networks without a limit of their own: their memory grows with the square.
_LONGEST = 1024
_BLANK = "<p>&nbsp;</p>"  # a line that keeps its height
_CSS = """
.gradio-container main { width: 100%; max-width: 60rem !important; margin: 0 auto !important; }
.ats h1 { font-size: 1.5rem; margin: 0 0 0.25rem; overflow-wrap: anywhere; }
.ats h2 { font-size: 1.125rem; margin: 0; }
.ats p { margin: 0; color: var(--body-text-color); }
.ats .seconds, .ats .notice { font-weight: 600; }
textarea { unicode-bidi: plaintext; text-align: start !important; }
"""


def load_published(repository: str, revision: str) -> ATSTranslationPipeline:
    """Return the translator of a network on the Hub; what code its repository holds is run."""
    of = {"revision": revision, "trust_remote_code": True}
    model = AutoModelForSeq2SeqLM.from_pretrained(repository, **of)
    return translator(model, AutoTokenizer.from_pretrained(repository, **of))


def translator(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> ATSTranslationPipeline:
    """Return what the page translates with, on the CPU."""
    return ATSTranslationPipeline(model=model.eval(), tokenizer=tokenizer, task="translation", device="cpu")


def show_page(title: str, results: dict, translators: dict[str, ATSTranslationPipeline], **launch) -> None:
    """Open the page, and serve it until the process is interrupted.

    Each network translates once before, so that no time that the page shows is that of a first call.

    Args:
        title: what the page is called.
        results: of the run, as `results.json` has them.
        translators: by the name of its level, in the order of the columns, at least one.
        launch: further arguments of Gradio's `launch`, such as `server_port`.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    examples = [sample["source"] for sample in results.get("samples") or []]
    for one in translators.values():
        _translate(one, next((text for text in examples if _refusal(one, text) is None), "a"))
    page = _build(title, results, translators, examples[:: max(1, len(examples) // _EXAMPLES)][:_EXAMPLES])
    theme = gr.themes.Default(font=("system-ui", "sans-serif"))  # Gradio's own font comes without a bold one
    look = {"theme": theme, "css": _CSS, "footer_links": [], "ssr_mode": False}
    page.launch(share=False, quiet=True, prevent_thread_lock=True, **look, **launch)
    print(f"The page is at {page.local_url} until Ctrl-C.", flush=True)
    page.block_thread()


def _build(
    title: str, results: dict, translators: dict[str, ATSTranslationPipeline], examples: list[str]
) -> gr.Blocks:
    source, target = (str(results["data"][side]) for side in ("source_lang", "target_lang"))
    with gr.Blocks(title=title, analytics_enabled=False) as page:
        _text(
            f"<h1>{html.escape(title)}</h1><p>Translates from {html.escape(source)} to {html.escape(target)} with "
            "networks of one training run, one after the other.</p>"
        )
        text = gr.Textbox(label=f"Sentence ({source})", placeholder="Write a sentence, and press Enter")
        button = gr.Button("Translate", variant="primary")
        notice = _text("", visible=False)
        boxes, times = [], []
        with gr.Row():
            for level in translators:
                figures = results["levels"][level]
                with gr.Column(min_width=280):
                    _text(
                        f"<h2>{html.escape(level)}</h2><p>{figures['size_bytes'] / 1e6:,.1f} MB, "
                        f"{figures['parameters']:,} parameters</p>"
                    )
                    boxes.append(gr.Textbox(label=f"Translation ({target})", lines=3, interactive=False))
                    times.append(_text(_BLANK))
        outputs = [notice, *boxes, *times]

        def translate(text: str) -> Iterator[list]:
            """Show what becomes known: a notice, or one translation after the other."""
            text = " ".join(text.split("\n")).strip()
            refusal = next(filter(None, (_refusal(one, text) for one in translators.values())), None)
            if refusal is not None:
                told = _text(f'<p class="notice">{html.escape(refusal)}</p>', visible=True)
                yield [told, *[""] * len(boxes), *[_BLANK] * len(boxes)]
                return
            silent = _text("", visible=False)
            found, notes = [""] * len(boxes), ["<p>translating ...</p>"] * len(boxes)
            yield [silent, *found, *notes]
            for column, one in enumerate(translators.values()):
                found[column], notes[column] = _translate(one, text)
                yield [silent, *found, *notes]

        options = {"fn": translate, "outputs": outputs}
        gr.on([button.click, text.submit], inputs=text, show_progress="hidden", concurrency_limit=1, **options)
        if examples:
            gr.Examples(
                [[one] for one in examples],
                inputs=text,
                label="Sentences of the test set",
                run_on_click=True,
                cache_examples=False,
                **options,
            )
        _text(f"<p>{_way_of_measuring(next(iter(translators.values())))}</p>")
    return page


def _text(value: str, visible: bool = True) -> gr.HTML:
    return gr.HTML(value, elem_classes="ats", visible=visible, padding=False)


def _refusal(translator: ATSTranslationPipeline, text: str) -> str | None:
    """Return why a network cannot translate a text, in a sentence; None if it can."""
    if all(unicodedata.category(character)[0] in "ZC" for character in text):
        return "There is nothing to translate: write a sentence first."
    limit = longest_input(translator.model.config)
    limit = _LONGEST if limit == sys.maxsize else limit
    prefix = getattr(translator.model.config, "prefix", None) or ""
    tokens = len(translator.tokenizer(prefix + text, verbose=False)["input_ids"])
    if tokens > limit:
        return f"The text has {tokens:,} tokens, and {limit:,} are the most: shorten it, or translate it in parts."
    return None


def _translate(translator: ATSTranslationPipeline, text: str) -> tuple[str, str]:
    """Return the translation, and what the page says of it."""
    start = time.perf_counter()
    ids = translator(text, return_tensors=True)[0]["translation_token_ids"]
    translation = translator.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    said = f'<span class="seconds">{time.perf_counter() - start:.3f} s</span>'
    end = translator.model.generation_config.eos_token_id
    if not set(ids[1:].tolist()) & set(end if isinstance(end, list) else [end]):
        said += f"; cut off, since it has the most tokens that are allowed, {len(ids)}"
    return translation.strip(), f"<p>{said}</p>"


def _way_of_measuring(translator: ATSTranslationPipeline) -> str:
    model = translator.model
    options = model.generation_config.to_diff_dict() | with_generation_defaults(model, translator.tokenizer, {})
    beams, threads = options.get("num_beams") or 1, torch.get_num_threads()
    return (
        f"Times: seconds in this process, for this sentence once, on its {model.device.type.upper()} with {threads} "
        f"thread{'s' * (threads != 1)}, in {str(model.dtype).removeprefix('torch.')}, {beams} "
        f"beam{'s' * (beams != 1)}. Sizes: of the weights on disk."
    )
