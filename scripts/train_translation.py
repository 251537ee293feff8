r"""Train a translation model and its small core in one run, and leave both ready for use.

From scratch on two text files, tokenizer included, as the paper trained on IWSLT14 (its Table 4):

    hf-ats train --recipe iwslt14 --output_dir runs/iwslt14 \
        --train_prefix data/train --validation_prefix data/valid --test_prefix data/test

A recipe is a YAML file of the flags below, or the name of one that comes with hf_ats; flags on the command line
override it. For a small-width core:

    hf-ats train --recipe iwslt14 --output_dir runs/iwslt14-width \
        --train_prefix data/train --validation_prefix data/valid --test_prefix data/test \
        --method width --ratios 0.25

--decoder_layers 2 gives the core two decoder layers: in place of --method and --ratios, or beside them.

From a pretrained model, to get a smaller one out of it, on several GPUs (with --calibration_sentences text.de the
core begins as what changes that model's outputs on a hundred sentences or so least):

    accelerate launch --multi_gpu -m hf_ats.scripts.train_translation \
        --model_name_or_path Helsinki-NLP/opus-mt-de-en \
        --dataset_name wmt17 --dataset_config_name de-en --output_dir runs/opus --ratios 0.25 --max_tokens 8192

From a base model and a LoRA adapter, whose A and B become the core, and to the Hub as ann/opus-core and ann/opus-full:

    hf-ats train --adapter_name_or_path runs/lora --output_dir runs/adapted \
        --dataset_name wmt17 --dataset_config_name de-en --max_tokens 8192 \
        --push_to_hub --hub_model_id ann/opus --license cc-by-4.0

Without data it trains on a small generated corpus of numbers, dates, times and prices. OUTPUT_DIR then holds

    core/  full/              the two models, for pipeline("translation") (a ladder adds level1/, level2/, ...)
    results.json              parameters, sizes, FLOPs, BLEU, chrF, decoding speed of each, and how they were found
    training.png              losses and scores over the steps
    report.html               all of this on one page, with sample translations side by side
    translations.core.txt ... the test set as each network translates it
    checkpoint-*/             what the Trainer writes; go on from one with --resume_from_checkpoint, True for the last

Ctrl-C and SIGTERM end after the step, with a checkpoint (unless --save_strategy no). A run that was killed goes on
from its last whole checkpoint to the same end; docs/reliability.md says what is compared then, and what may change.

Every field of transformers' Seq2SeqTrainingArguments is a flag as well.
"""

import sys
from pathlib import Path

from hf_ats import ATSSeq2SeqTrainer, partition_, partition_from_adapter_
from hf_ats.data import TranslationCollator
from hf_ats.evaluation import bleu_tokenizer, build_compute_metrics, input_moments
from hf_ats.run import (
    build_networks,
    card_facts,
    check_calibration,
    check_core,
    check_run,
    complete_generation_config_,
    early_ends,
    load_parts,
    name_base_of_adapter_,
    parse_flags,
    read_calibration,
    rehearse,
    rehearse_report,
    report_trained,
    show_report,
    start,
    tokenize,
    user_errors,
    validation_references,
)


@early_ends()
def main() -> None:
    """Load, build, partition, train, report, push."""
    model_args, data_args, partition_args, card_args, args, recipe = parse_flags(description=__doc__)

    with user_errors():  # what fails after this block is not a user's mistake, and keeps its traceback
        name_base_of_adapter_(model_args)
        adapter = model_args.adapter_name_or_path
        card = card_facts(card_args, model_args, data_args, required=args.push_to_hub)
        partition = None if adapter else partition_args.config()
        check_calibration(model_args.calibration_sentences, partition)
        # What a checkpoint holds has begun already.
        calibration = None if args.resume_from_checkpoint else read_calibration(model_args.calibration_sentences)
        settings = vars(model_args) | vars(data_args)
        start(args, cores=1 if adapter else partition.num_cores if partition else 0, settings=settings)

        # Load the corpus; build the tokenizer and the model.
        with args.main_process_first(desc="loading the corpus"):
            corpus, scored = load_parts(data_args)
            tokenizer, model = build_networks(model_args, data_args, args, corpus["train"]["translation"])
            learned = model_args.model_name_or_path is None and args.resume_from_checkpoint is None
            tokenized = tokenize(corpus, scored, tokenizer, model, data_args, learned)

        # Partition the model. Without a partition it stays the stock model, for standard training.
        if adapter:
            partition_from_adapter_(model, adapter)
        elif partition:
            moments = None
            if calibration:
                sources = [data_args.source_prefix + sentence for sentence in calibration]
                progress = args.process_index == 0 and not args.disable_tqdm
                moments = input_moments(model, tokenizer, sources, progress)
            partition_(model, partition, moments)
        check_core(model, partition_args.core_parameters)
        check_run(model, args, tokenized)
        complete_generation_config_(model, tokenizer)

        tokenize_bleu = data_args.bleu_tokenizer or bleu_tokenizer(
            data_args.target_lang, getattr(tokenizer, "tgt_lang", None)
        )
        compute_metrics = build_compute_metrics(
            tokenizer, validation_references(corpus, tokenizer, model, data_args), tokenize=tokenize_bleu
        )
        trainer = ATSSeq2SeqTrainer(
            model=model,
            args=args,
            train_dataset=tokenized["train"],
            eval_dataset=tokenized.get("validation"),
            processing_class=tokenizer,
            data_collator=TranslationCollator(tokenizer),
            compute_metrics=compute_metrics if args.predict_with_generate else None,
        )

        # Try what comes only when training begins, or when it has ended and all the time is spent.
        rehearse(trainer)
        languages = (data_args.source_lang, data_args.target_lang)
        sources, references = ([pair[language] for pair in corpus[scored]["translation"]] for language in languages)
        scoring = dict(
            sources=sources,
            references=references,
            speed_sentences=data_args.speed_sentences,
            truncate=True,  # a sentence that is too long was found before, unless it is to be cut
            tokenize=tokenize_bleu,
            num_beams=args.generation_num_beams,
            max_length=args.generation_max_length,
        )
        rehearse_report(trainer, **scoring)

    # Train.
    trainer.settings = settings
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.save_state()
    model = trainer.whole_model()  # for every process: under FSDP they gather it together

    # Export every level; translate, score and time it from there; write it all down.
    if trainer.is_world_process_zero():
        results = report_trained(
            trainer,
            model,
            **scoring,
            source_lang=data_args.source_lang,
            target_lang=data_args.target_lang,
            part=scored,
            source_prefix=data_args.source_prefix,
            model_facts=model_args.facts(),
            data_facts=data_args.facts(corpus, scored),
            card=card,
            recipe=vars(recipe) if recipe else None,
        )
        print(f"\n{show_report(results)}\n")
        print(f"Written to {args.output_dir}: {', '.join([*results['levels'], 'results.json', 'report.html'])}")

    # Push every level to the Hub.
    if args.push_to_hub:
        try:
            trainer.push_to_hub()
        except (OSError, ValueError) as error:
            sys.exit(
                f"{Path(sys.argv[0]).name}: the run in {args.output_dir} is complete, but its push did not end: "
                f"{error} `hf-ats push` pushes it again."
            )


if __name__ == "__main__":
    main()
