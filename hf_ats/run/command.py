"""What the commands share: how they end if a user got something wrong, and how they translate."""

import argparse
import logging
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from ..checkpoint import load_network, load_tokenizer
from ..data import check_code_of_prefix, foreign_codes, shows_nothing
from ..evaluation import encode_sentences, translate_encoded
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
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
    except RuntimeError as error:
        if "to be installed" not in str(error):  # as Transformers says of the package of a tracker
            raise
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")


@contextmanager
def early_ends() -> Iterator[None]:
    """End the program with a sentence if training diverges, and with the status of Ctrl-C if that ends it.

    As `user_errors` a context, or a decorator.
    """
    try:
        yield
    except FloatingPointError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def manual_parser(manual: str) -> argparse.ArgumentParser:
    """Return a parser whose `--help` shows a script's docstring as it is."""
    return argparse.ArgumentParser(description=manual, formatter_class=argparse.RawDescriptionHelpFormatter)


def translation_parser(manual: str) -> argparse.ArgumentParser:
    """Return a parser with the flags of every command that translates: which model, and how it decodes."""
    parser = manual_parser(manual)
    parser.add_argument("--model", required=True, help="directory or Hub id: any export, stock, or a checkpoint-N")
    parser.add_argument("--revision", help="branch, tag or commit of a model of the Hub (default: main)")
    parser.add_argument("--source_prefix", help="text before every source, which T5 needs (default: the model's own)")
    parser.add_argument("--tokenizer_source_lang", help="code of the source language in a multilingual tokenizer")
    parser.add_argument("--tokenizer_target_lang", help="of the target (default of both: what it was trained for)")
    parser.add_argument("--batch_size", type=int, default=32, help="sentences decoded at once (default: 32)")
    parser.add_argument("--num_beams", type=int, help="default: the model's generation config, or 4")
    parser.add_argument("--max_length", type=int, help="most tokens of a translation, likewise, or 256")
    parser.add_argument("--truncate", action="store_true", help="cut sentences that are longer than the model reads")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: cpu)")
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
