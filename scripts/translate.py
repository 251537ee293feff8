"""Translate text, one sentence on each line, with any translation model: a core, a full network, or a stock one.

    python scripts/translate.py --model runs/demo/core < sentences.de > sentences.en
    python scripts/translate.py --model runs/demo/full --input sentences.de --output sentences.en --num_beams 5
    python scripts/translate.py --model runs/demo/checkpoint-1000 --level core < sentences.de
    python scripts/translate.py --model my-organization/iwslt14-de-en-core --revision v1 < sentences.de

Line n of the output translates line n of the input; an empty line stays empty. Progress goes to standard error.
"""

import argparse
import contextlib
import io
import os
import sys
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from hf_ats.checkpoint import load_network, load_tokenizer
from hf_ats.data import read_lines
from hf_ats.evaluation import translate
from hf_ats.run import set_languages_, source_prefix


def main() -> None:
    """Read, translate in batches, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="directory or Hub id: any export, stock, or a checkpoint-N")
    parser.add_argument("--revision", help="branch, tag or commit of a model of the Hub (default: main)")
    parser.add_argument("--level", help="network of a training checkpoint: core, full or a number (default: full)")
    parser.add_argument("--input", default="-", help="text file, plain or .gz (default: standard input)")
    parser.add_argument("--output", default="-", help="text file (default: standard output)")
    parser.add_argument("--source_prefix", help="text before every source, which T5 needs (default: the model's own)")
    parser.add_argument("--tokenizer_source_lang", help="code of the source language in a multilingual tokenizer")
    parser.add_argument("--tokenizer_target_lang", help="of the target (default of both: what it was trained for)")
    parser.add_argument("--batch_size", type=int, default=32, help="sentences decoded at once (default: 32)")
    parser.add_argument("--num_beams", type=int, help="default: the model's generation config, or 4")
    parser.add_argument("--max_length", type=int, help="most tokens of a translation, likewise, or 256")
    parser.add_argument("--truncate", action="store_true", help="cut sentences that are longer than the model reads")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: cpu)")
    arguments = parser.parse_args()
    disable_progress_bar()  # of the loading; translating has its own

    check_output(arguments.output)
    sentences = read_sentences(arguments.input)
    hub = {"revision": arguments.revision} if arguments.revision else {}
    model = load_network(arguments.model, arguments.level, **hub).to(arguments.device)
    tokenizer = load_tokenizer(arguments.model, **hub)
    languages = (arguments.tokenizer_source_lang, arguments.tokenizer_target_lang)
    if any(languages) or model.generation_config.forced_bos_token_id is None:
        set_languages_(model, tokenizer, *languages)
    prefix = source_prefix(model) if arguments.source_prefix is None else arguments.source_prefix
    # An empty line stays one, whatever the prefix.
    sources = [prefix + sentence if sentence.strip() else "" for sentence in sentences]
    translations = translate(
        model,
        tokenizer,
        sources,
        arguments.batch_size,
        truncate=arguments.truncate,
        num_beams=arguments.num_beams,
        max_length=arguments.max_length,
    )
    with contextlib.ExitStack() as stack:
        to_file = arguments.output != "-"
        if not to_file:
            sys.stdout.reconfigure(encoding="utf-8", newline="\n")
        output = (
            stack.enter_context(Path(arguments.output).open("w", encoding="utf-8", newline="\n"))
            if to_file
            else sys.stdout
        )
        output.writelines(f"{translation}\n" for translation in translations)


def check_output(output: str) -> None:
    """Before any work; the file itself is written at the end, so that a failure leaves an earlier one as it was."""
    path = Path(output)
    if output != "-" and (path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK)):
        raise OSError(f"--output {output} cannot be written; give a file in a folder that exists and is yours.")


def read_sentences(source: str) -> list[str]:
    """The lines of a file or of standard input, which may be empty."""
    if source != "-":
        return read_lines(source)
    text = sys.stdin.buffer.read()
    return read_lines(io.BytesIO(text)) if text else []


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"translate.py: {error}")
