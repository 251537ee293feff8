"""Translate text, one sentence on each line, with any translation model: a core, a full network, or a stock one.

    hf-ats translate --model runs/demo/core < sentences.de > sentences.en
    hf-ats translate --model runs/demo/full --input sentences.de --output sentences.en --num_beams 5
    hf-ats translate --model runs/demo/checkpoint-1000 --level core < sentences.de
    hf-ats translate --model my-organization/iwslt14-de-en-core --revision v1 < sentences.de

Line n of the output translates line n of the input; an empty line stays empty. Progress goes to standard error.
"""

import io
import os
import sys
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from hf_ats.data import read_lines
from hf_ats.run import translate_as_told, translation_parser, user_errors


@user_errors()
def main() -> None:
    """Read, translate in batches, write."""
    parser = translation_parser(__doc__)
    parser.add_argument("--level", help="network of a training checkpoint: core, full or a number (default: full)")
    parser.add_argument("--input", default="-", help="text file, plain or .gz (default: standard input)")
    parser.add_argument("--output", default="-", help="text file (default: standard output)")
    arguments = parser.parse_args()
    disable_progress_bar()  # of the loading; translating has its own

    check_output(arguments.output)
    translations = translate_as_told(arguments, arguments.level, read_sentences(arguments.input))
    text = "".join(f"{translation}\n" for translation in translations)
    if arguments.output == "-":
        sys.stdout.reconfigure(encoding="utf-8", newline="\n")
        sys.stdout.write(text)
    else:
        Path(arguments.output).write_text(text, encoding="utf-8", newline="\n")


def check_output(output: str) -> None:
    """Raise OSError, before any work, if the output cannot be written.

    The file itself is written at the end, so that a failure leaves an earlier one as it was.
    """
    path = Path(output)
    if output != "-" and (path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK)):
        raise OSError(f"--output {output} cannot be written; give a file in a folder that exists and is yours.")


def read_sentences(source: str) -> list[str]:
    """Return the lines of a file or of standard input, which may be empty."""
    if source != "-":
        return read_lines(source)
    text = sys.stdin.buffer.read()
    return read_lines(io.BytesIO(text)) if text else []


if __name__ == "__main__":
    main()
