r"""Train a translation model and its small core in one run, and leave both ready for use.

From scratch on two text files, tokenizer included, as the paper trained on IWSLT14 (its Table 4 is in recipes/):

    python scripts/train_translation.py --recipe iwslt14 --output_dir runs/iwslt14 \
        --train_prefix data/train --validation_prefix data/valid --test_prefix data/test

A recipe is a YAML file of the flags below; those on the command line override it. For a small-width core:

    python scripts/train_translation.py --recipe iwslt14 --output_dir runs/iwslt14-width \
        --train_prefix data/train --validation_prefix data/valid --test_prefix data/test \
        --method width --ratios 0.25

From a pretrained model, to get a smaller one out of it, on several GPUs:

    accelerate launch --multi_gpu scripts/train_translation.py --model_name_or_path Helsinki-NLP/opus-mt-de-en \
        --dataset_name wmt17 --dataset_config_name de-en --output_dir runs/opus --ratios 0.25 --max_tokens 8192

From a base model and a LoRA adapter, whose A and B become the core, and to the Hub as ann/opus-core and ann/opus-full:

    python scripts/train_translation.py --adapter_name_or_path runs/lora --output_dir runs/adapted \
        --dataset_name wmt17 --dataset_config_name de-en --max_tokens 8192 \
        --push_to_hub --hub_model_id ann/opus --license cc-by-4.0

Without data it trains on a small generated corpus of numbers, dates, times and prices. OUTPUT_DIR then holds

    core/  full/              the two models, for pipeline("translation") (a ladder adds level1/, level2/, ...)
    results.json              parameters, sizes, FLOPs, BLEU, chrF, decoding speed of each, and how they were found
    training.png              losses and scores over the steps
    report.html               all of this on one page, with sample translations side by side
    translations.core.txt ... the test set as each network translates it
    checkpoint-*/             what the Trainer writes; go on from one with --resume_from_checkpoint, True for the last

Every field of transformers' Seq2SeqTrainingArguments is a flag as well.
"""

import sys

from hf_ats.run import parse_flags, prepare, report


def main() -> None:
    """Prepare, train, report."""
    flags = parse_flags(description=__doc__)
    try:
        run = prepare(*flags)
    except (OSError, ValueError) as error:  # a user's mistake; what fails later is not one, and keeps its traceback
        sys.exit(f"train_translation.py: {error}")
    trainer = run.trainer
    outcome = trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
    trainer.save_state()
    model = trainer.whole_model()  # for every process: under FSDP they gather it together
    if trainer.is_world_process_zero():
        report(run, model, seconds=outcome.metrics["train_runtime"])
    if trainer.args.push_to_hub:
        try:
            trainer.push_to_hub()
        except (OSError, ValueError) as error:
            sys.exit(
                f"train_translation.py: the run in {trainer.args.output_dir} is complete, but its push did not end: "
                f"{error} scripts/push_to_hub.py pushes it again."
            )


if __name__ == "__main__":
    main()
