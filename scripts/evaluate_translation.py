"""Score a translation model on a test set: BLEU and chrF by sacreBLEU, with their signatures, for each of its levels.

    hf-ats evaluate --model runs/demo/core
    hf-ats evaluate --model runs/iwslt/checkpoint-1000 --test_prefix data/test --num_beams 5
    hf-ats evaluate --model runs/iwslt/full --dataset_name wmt17 --dataset_config_name de-en

A training checkpoint (checkpoint-N) holds every level, and each is scored unless --level names one; an export is one
network. The signatures say which of sacreBLEU's tokenizers was taken, by default the one for the target language.
"""

import json
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from hf_ats.checkpoint import load_tokenizer, stored_levels
from hf_ats.data import load_corpus
from hf_ats.evaluation import bleu_tokenizer, score_translations
from hf_ats.results import write_json
from hf_ats.run import check_output, early_ends, translate_as_told, translation_parser, user_errors


@early_ends()
@user_errors()
def main() -> None:
    """Load the test set, then translate and score it level by level."""
    parser = translation_parser(__doc__)
    parser.add_argument("--level", help="only this level of a training checkpoint: core, full or a number")
    parser.add_argument("--source_lang", default="de", help="language of the source (default: de)")
    parser.add_argument("--target_lang", default="en", help="language of the target (default: en)")
    parser.add_argument(
        "--test_prefix", help="text files PREFIX.de and PREFIX.en, or one .tsv or .jsonl; plain or packed"
    )
    parser.add_argument("--dataset_name", help="a data set with a column `translation` and a test part instead")
    parser.add_argument("--dataset_config_name", help="its configuration, such as de-en")
    parser.add_argument("--skip_bad_lines", action="store_true", help="leave out bad pairs and count them")
    parser.add_argument("--bleu_tokenizer", help="sacreBLEU's tokenizer (default: that of the target language)")
    parser.add_argument("--lowercase", action="store_true", help="ignore case in both scores")
    parser.add_argument("--output", type=Path, help="write the scores to this JSON file too")
    arguments = parser.parse_args()
    disable_progress_bar()  # of the loading; translating has its own

    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        check_output("--output", arguments.output)
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
    pairs = corpus["test"]["translation"]
    sources, references = ([pair[lang] for pair in pairs] for lang in (arguments.source_lang, arguments.target_lang))
    hub = {"revision": arguments.revision} if arguments.revision else {}
    languages = (arguments.target_lang, arguments.tokenizer_target_lang)
    learned = getattr(load_tokenizer(arguments.model, **hub), "tgt_lang", None)
    tokenize = arguments.bleu_tokenizer or bleu_tokenizer(*languages, learned)

    scores = {}
    for level in [arguments.level] if arguments.level else stored_levels(arguments.model, **hub):
        translations = list(translate_as_told(arguments, level, sources))
        scores[level] = score_translations(translations, references, tokenize=tokenize, lowercase=arguments.lowercase)
    print(json.dumps(scores, indent=2))
    if arguments.output is not None:
        write_json(arguments.output, scores)


if __name__ == "__main__":
    main()
