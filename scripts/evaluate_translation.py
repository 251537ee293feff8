"""Score a translation model on a test set: BLEU and chrF by sacreBLEU, with their signatures, for each of its levels.

    python scripts/evaluate_translation.py --model runs/demo/core
    python scripts/evaluate_translation.py --model runs/iwslt/checkpoint-1000 --test_prefix data/test --num_beams 5
    python scripts/evaluate_translation.py --model runs/iwslt/full --dataset_name wmt17 --dataset_config_name de-en

A training checkpoint (checkpoint-N) holds every level, and each is scored unless --level names one; an export is one
network. The scores go through `evaluate` with the metric that ships with hf_ats, so no Hub is needed.
"""

import argparse
import json
import sys
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from hf_ats.checkpoint import load_network, load_tokenizer, stored_levels
from hf_ats.data import load_corpus
from hf_ats.evaluation import score_translations, translate
from hf_ats.results import write_json
from hf_ats.run import set_languages_, source_prefix


def main() -> None:
    """Load the test set, then translate and score it level by level."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="directory or Hub id: any export, stock, or a checkpoint-N")
    parser.add_argument("--revision", help="branch, tag or commit of a model of the Hub (default: main)")
    parser.add_argument("--level", help="only this level of a training checkpoint: core, full or a number")
    parser.add_argument("--source_lang", default="de", help="language of the source (default: de)")
    parser.add_argument("--target_lang", default="en", help="language of the target (default: en)")
    parser.add_argument("--test_prefix", help="text files PREFIX.de and PREFIX.en, the same with .gz, or one .jsonl")
    parser.add_argument("--dataset_name", help="a data set with a column `translation` and a test part instead")
    parser.add_argument("--dataset_config_name", help="its configuration, such as de-en")
    parser.add_argument("--skip_bad_lines", action="store_true", help="leave out bad pairs and count them")
    parser.add_argument("--source_prefix", help="text before every source, which T5 needs (default: the model's own)")
    parser.add_argument("--tokenizer_source_lang", help="code of the source language in a multilingual tokenizer")
    parser.add_argument("--tokenizer_target_lang", help="of the target (default of both: what it was trained for)")
    parser.add_argument("--batch_size", type=int, default=32, help="sentences decoded at once (default: 32)")
    parser.add_argument("--num_beams", type=int, help="default: the model's generation config, or 4")
    parser.add_argument("--max_length", type=int, help="most tokens of a translation, likewise, or 256")
    parser.add_argument("--truncate", action="store_true", help="cut sentences that are longer than the model reads")
    parser.add_argument("--tokenize", help="sacreBLEU's tokenizer (default: its own, 13a)")
    parser.add_argument("--lowercase", action="store_true", help="ignore case in both scores")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: cpu)")
    parser.add_argument("--output", type=Path, help="write the scores to this JSON file too")
    arguments = parser.parse_args()
    disable_progress_bar()  # of the loading; translating has its own

    corpus = load_corpus(
        dataset_name=arguments.dataset_name,
        dataset_config_name=arguments.dataset_config_name,
        test_prefix=arguments.test_prefix,
        source_lang=arguments.source_lang,
        target_lang=arguments.target_lang,
        skip_bad_lines=arguments.skip_bad_lines,
    )
    if "test" not in corpus:
        raise ValueError(
            f"{arguments.dataset_name} has the parts {', '.join(corpus)} and no test; give --test_prefix."
        )
    test = corpus["test"]["translation"]
    references = [pair[arguments.target_lang] for pair in test]
    hub = {"revision": arguments.revision} if arguments.revision else {}
    tokenizer = load_tokenizer(arguments.model, **hub)
    languages = (arguments.tokenizer_source_lang, arguments.tokenizer_target_lang)

    scores = {}
    for level in [arguments.level] if arguments.level else stored_levels(arguments.model, **hub):
        model = load_network(arguments.model, level, **hub).to(arguments.device)
        if any(languages) or model.generation_config.forced_bos_token_id is None:
            set_languages_(model, tokenizer, *languages)
        prefix = source_prefix(model) if arguments.source_prefix is None else arguments.source_prefix
        translations = translate(
            model,
            tokenizer,
            [prefix + pair[arguments.source_lang] for pair in test],
            arguments.batch_size,
            truncate=arguments.truncate,
            num_beams=arguments.num_beams,
            max_length=arguments.max_length,
        )
        scores[level] = score_translations(
            translations, references, tokenize=arguments.tokenize, lowercase=arguments.lowercase
        )
    print(json.dumps(scores, indent=2))
    if arguments.output is not None:
        write_json(arguments.output, scores)


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"evaluate_translation.py: {error}")
