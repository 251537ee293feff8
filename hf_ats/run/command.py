"""What the commands share: how they end if a user got something wrong, and how they translate."""

import argparse
import gc
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from ..checkpoint import load_network, load_tokenizer
from ..data import check_code_of_prefix, foreign_codes, shows_nothing
from ..evaluation import encode_sentences, translate_encoded
from ..remote_code import longest_input
from .languages import set_languages_, source_prefix
from .networks import check_tokenizer

logger = logging.getLogger(__name__)


@contextmanager
def user_errors() -> Iterator[None]:
    """End the program with a sentence if a user got something wrong or lacks a package; a context, or a decorator.

    Example:

    ```python
    >>> @user_errors()
    ... def main():
    ...     print(Path("no/such/file").read_text())
    ```
    """
    try:
        yield
    except (ImportError, OSError, ValueError, OverflowError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
    except RuntimeError as error:
        if "to be installed" not in str(error):  # as Transformers says of the package of a tracker
            raise
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")


@contextmanager
def early_ends() -> Iterator[None]:
    """End the program with a sentence if training diverges, and with the status of Ctrl-C if that ends it.

    However it ends, its process group ends before. As `user_errors` a context, or a decorator.
    """
    try:
        yield
    except FloatingPointError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    finally:
        # A thread of it that still holds a tensor aborts a process whose interpreter ends before.
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
            gc.collect()


def manual_parser(manual: str) -> argparse.ArgumentParser:
    """Return a parser whose `--help` shows a script's docstring as it is."""
    return argparse.ArgumentParser(description=manual, formatter_class=argparse.RawDescriptionHelpFormatter)


def count(word: str) -> int:
    """Return the number that a word of the command line says; argparse's error if it is not 1 or more."""
    if not word.strip().isdecimal() or not 1 <= int(word) <= sys.maxsize:
        raise argparse.ArgumentTypeError(f"{word} is not a count; write 1 or more")
    return int(word)


def device(word: str) -> str:
    """Return the name of a device of this machine; argparse's error if PyTorch cannot use it."""
    try:
        torch.empty(0, device=word)
    except (AssertionError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise argparse.ArgumentTypeError(f"{word!r} cannot be used here ({reason}); write cpu") from error
    return word


def check_output(flag: str, output: str | os.PathLike) -> None:
    """Raise OSError, before any work, if a file cannot be written."""
    path = Path(output)
    stream = path.exists() and not path.is_file()
    if path.is_dir() or not os.access(path if stream else path.resolve().parent, os.W_OK):
        raise OSError(f"{flag} {output} cannot be written; give a file in a folder that exists and is yours.")


def check_max_length(flag: str, max_length: int | None, model: PreTrainedModel) -> None:
    """Raise ValueError if translations may be longer than the positions that a model has."""
    # The first of max_length is the start token, which takes the place of the last token.
    positions = longest_input(model.config)
    if (max_length or 0) > 1 + positions:
        raise ValueError(
            f"{flag} {max_length} is more than the {positions} positions of the model; give less, or leave it out."
        )


def translation_parser(manual: str) -> argparse.ArgumentParser:
    """Return a parser with the flags of every command that translates: which model, and how it decodes."""
    parser = manual_parser(manual)
    parser.add_argument("--model", required=True, help="directory or Hub id: any export, stock, or a checkpoint-N")
    parser.add_argument("--revision", help="branch, tag or commit of a model of the Hub (default: main)")
    parser.add_argument("--source_prefix", help="text before every source, which T5 needs (default: the model's own)")
    parser.add_argument("--tokenizer_source_lang", help="code of the source language in a multilingual tokenizer")
    parser.add_argument("--tokenizer_target_lang", help="of the target (default of both: what it was trained for)")
    parser.add_argument("--batch_size", type=count, default=32, help="sentences decoded at once (default: 32)")
    parser.add_argument("--num_beams", type=count, help="default: the model's generation config, or 4")
    parser.add_argument("--max_length", type=count, help="most tokens of a translation, likewise, or 256")
    parser.add_argument("--truncate", action="store_true", help="cut sentences that are longer than the model reads")
    parser.add_argument("--device", type=device, default="cpu", help="cpu, cuda, mps (default: cpu)")
    return parser


def one_line(translation: str) -> str:
    """Return a translation as one line of a text file: a blank in place of line ends that are in it."""
    return re.sub(r"[\r\n]+", " ", translation)


def translate_as_told(
    arguments: argparse.Namespace, level: str | None, sentences: Sequence[str], at_once: int | None = None
) -> Iterator[str]:
    """Load one network, and return an iterator over its translations, as the flags of `translation_parser` say.

    Args:
        arguments: the flags.
        level: of a training checkpoint; None for the only network of an export, or for a checkpoint's full one.
        sentences: the sources without prefix; one without text stays empty.
        at_once: how many are put in order of length together, and are finished together; by default all.

    Returns:
        Translations in the order of the sentences, made while they are taken.

    Raises:
        OSError, ValueError: as `load_network` and `translate`.
    """
    hub = {"revision": arguments.revision} if arguments.revision else {}
    model = load_network(arguments.model, level, **hub).to(arguments.device)
    check_max_length("--max_length", arguments.max_length, model)
    tokenizer = load_tokenizer(arguments.model, **hub)
    languages = (arguments.tokenizer_source_lang, arguments.tokenizer_target_lang)
    if any(languages) or model.generation_config.forced_bos_token_id is None:
        set_languages_(model, tokenizer, *languages)
    check_tokenizer(tokenizer, model)
    prefix = source_prefix(model) if arguments.source_prefix is None else arguments.source_prefix
    check_code_of_prefix(tokenizer, prefix)
    inputs = ["" if shows_nothing(sentence) else prefix + sentence for sentence in sentences]
    if codes := foreign_codes(tokenizer, inputs):
        logger.warning("In the input %s", codes)
    encoded = encode_sentences(tokenizer, inputs, [model], truncate=arguments.truncate)
    size = at_once or max(1, len(encoded))

    def translations() -> Iterator[str]:
        with tqdm(total=len(encoded), desc="translate", unit=" sentences", delay=5, disable=at_once is None) as bar:
            for start in range(0, len(encoded), size):
                part = translate_encoded(
                    model,
                    tokenizer,
                    encoded[start : start + size],
                    arguments.batch_size,
                    progress=at_once is None,
                    num_beams=arguments.num_beams,
                    max_length=arguments.max_length,
                )
                yield from part
                bar.update(len(part))

    return translations()
