"""Translate text, one sentence on each line, with any translation model: a core, a full network, or a stock one.

    hf-ats translate --model runs/demo/core < sentences.de > sentences.en
    hf-ats translate --model runs/demo/full --input sentences.de --output sentences.en --num_beams 5
    hf-ats translate --model runs/demo/checkpoint-1000 --level core < sentences.de
    hf-ats translate --model my-organization/iwslt14-de-en-core --revision v1 < sentences.de

Line n of the output translates line n of the input; an empty line stays empty, and a line end inside a translation is
written as a blank. Progress goes to standard error. OUTPUT is written whole or not at all: until then what is finished
is in OUTPUT.partial, which remains if the command is stopped.
"""

import io
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from transformers.utils.logging import disable_progress_bar

from hf_ats.data import read_lines
from hf_ats.run import check_output, early_ends, one_line, translate_as_told, translation_parser, user_errors

# Batches that are put in order of length together, and are written together.
BATCHES_AT_ONCE = 10


@early_ends()
@user_errors()
def main() -> None:
    """Read, translate in batches, write."""
    parser = translation_parser(__doc__)
    parser.add_argument("--level", help="network of a training checkpoint: core, full or a number (default: full)")
    parser.add_argument("--input", default="-", help="text file, plain or packed (default: standard input)")
    parser.add_argument("--output", default="-", help="text file (default: standard output)")
    arguments = parser.parse_args()
    disable_progress_bar()  # of the loading; translating has its own

    if arguments.output != "-":
        check_output("--output", arguments.output)
    at_once = BATCHES_AT_ONCE * arguments.batch_size
    translations = translate_as_told(arguments, arguments.level, read_sentences(arguments.input), at_once)
    with open_output(arguments.output) as file:
        for number, translation in enumerate(translations, 1):
            file.write(f"{one_line(translation)}\n")
            if number % at_once == 0:
                file.flush()


@contextmanager
def open_output(output: str) -> Iterator[TextIO]:
    """Open what is written to; a file is called OUTPUT.partial until the block succeeds, and gets its name then."""
    if output == "-":
        sys.stdout.reconfigure(encoding="utf-8", newline="\n")
        yield sys.stdout
        sys.stdout.flush()
        return
    if Path(output).exists() and not Path(output).is_file():  # a device or a pipe
        with open(output, "w", encoding="utf-8", newline="\n") as file:
            yield file
        return
    path = Path(output).resolve()  # a link stays a link
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, partial)
        partial.replace(path)
    except BaseException:
        if partial.is_file() and partial.stat().st_size:
            print(f"What was finished is in {partial}; {output} is as it was.", file=sys.stderr)
        else:
            partial.unlink(missing_ok=True)
        raise


def read_sentences(source: str) -> list[str]:
    """Return the lines of a file or of standard input, which may be empty."""
    if source != "-":
        return read_lines(source)
    text = sys.stdin.buffer.read()
    return read_lines(io.BytesIO(text)) if text else []


if __name__ == "__main__":
    main()
