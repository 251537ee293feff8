"""The figures of each network of a run: what it costs, how well it translates, how fast."""

import logging
from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..partition import flops_per_token
from .decoding import compare_decoding_speed, translate_encoded
from .metrics import score_translations

logger = logging.getLogger(__name__)


def measure_networks(
    networks: dict[str, PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    encoded: Sequence[list[int]],
    references: Sequence[str],
    *,
    batch_size: int = 32,
    speed_sentences: int = 200,
    speed_repeats: int = 3,
    tokenize: str | None = None,
    **generate_kwargs,
) -> tuple[dict[str, dict], dict[str, list[str]]]:
    """Translate a test set with each network, score the translations, and measure the decoding speed in turns.

    Args:
        networks: by the name of their level, such as what `from_pretrained` gives for `core/` and `full/`.
        tokenizer: their common one.
        encoded: the test set, as `encode_sentences` returns it.
        references: one for each of its sentences.
        batch_size: sentences decoded at once, for the scores and for the speed.
        speed_sentences: how many of the sources the speed is measured on, taken evenly; 0 leaves it out.
        speed_repeats: how often they are decoded; the figure is the median.
        tokenize: sacreBLEU's tokenizer, as in `score_translations`.
        generate_kwargs: what `generate` takes, such as `num_beams` and `max_length`; defaults as in `translate`.

    Returns:
        Two dictionaries by name: the figures, as `build_results` takes them except what the exports say, and
        the translations.

    Raises:
        ValueError: there is nothing to score.
    """
    figures, translations = {}, {}
    for name, network in networks.items():
        logger.info("Translating %d sentences with %s", len(encoded), name)
        translations[name] = translate_encoded(network, tokenizer, encoded, batch_size, **generate_kwargs)
        scores = score_translations(translations[name], references, tokenize=tokenize)
        figures[name] = {
            "flops_per_token": flops_per_token(network),
            **{score: scores[score] for score in ("bleu", "chrf", "bleu_signature", "chrf_signature")},
            "decoding_speed": None,
        }
    if speed_sentences:
        sample = encoded[:: max(1, len(encoded) // speed_sentences)][:speed_sentences]
        speeds = compare_decoding_speed(
            networks, tokenizer, sample, batch_size, repeats=speed_repeats, **generate_kwargs
        )
        for name, speed in speeds.items():
            figures[name]["decoding_speed"] = speed
    return figures, translations
