"""Train a wide-and-deep network jointly with its deep half: two networks summed, one of which works by itself.

    python -m examples.wide_and_deep.train --output_dir runs/wide-and-deep
    python -m examples.wide_and_deep.train --output_dir runs/wide-and-deep --train_prefix data/train

The task: which of two languages is a word in that was never seen in training? The words are those of parallel text,
files PREFIX.de and PREFIX.en (also .gz); every fifth one is held out. Without --train_prefix they are those of the
generated corpus, whose few words only show that the command works. For each schedule and seed a network is trained,
from the same start and for as many steps, and the levels that were trained are scored:

    core    the deep network by itself: embeddings of the pieces of a word, and a hidden layer
    full    its logits plus those of the wide one, which is linear in pairs of letter pairs

OUTPUT_DIR then holds results.json, and of the first seed SCHEDULE/deep/ with only the deep network:
examples.wide_and_deep.networks.load_deep reads it.
"""

import shlex
import sys
from pathlib import Path

import torch
from transformers import PrinterCallback

from hf_ats import SummedNetworks
from hf_ats.data import default_corpus, load_parallel
from hf_ats.evaluation import compute_accuracy
from hf_ats.partition import count_parameters, level_names
from hf_ats.results import RESULTS, align, installed_versions, mean_and_deviation, write_json
from hf_ats.run import manual_parser, user_errors
from hf_ats.trainers import ATSTrainer
from hf_ats.training import SCHEDULES, ATSTrainingArguments

from .networks import Deep, DeepConfig, Wide, collate, features, save_deep, words_of_languages


@user_errors()
def main() -> None:
    """Read the words, train every schedule with every seed, report."""
    parser = manual_parser(__doc__)
    parser.add_argument("--output_dir", required=True, type=Path, help="where the results go")
    parser.add_argument("--train_prefix", help="text files PREFIX.de and PREFIX.en, the same with .gz, or one .jsonl")
    parser.add_argument("--source_lang", default="de", help="one language (default: %(default)s)")
    parser.add_argument("--target_lang", default="en", help="the other (default: %(default)s)")
    parser.add_argument("--schedules", nargs="+", default=["core", "full", "alternating"], choices=list(SCHEDULES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="default: 1 2 3")
    parser.add_argument("--epochs", type=float, default=6, help="passes over the words (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=128, help="words in a step (default: %(default)s)")
    parser.add_argument("--learning_rate", type=float, default=5e-3, help="of AdamW (default: %(default)s)")
    parser.add_argument("--wide_buckets", type=int, default=32768, help="weights of the wide half, for each language")
    arguments = parser.parse_args()

    languages = [arguments.source_lang, arguments.target_lang]
    if arguments.train_prefix:
        pairs = load_parallel(arguments.train_prefix, *languages)["translation"]
    else:
        pairs = default_corpus()["train"]["translation"]
    train, test = words_of_languages({language: [pair[language] for pair in pairs] for language in languages})
    config = DeepConfig(classes=len(languages))
    sets = [features(words, languages, config.buckets, arguments.wide_buckets) for words in (train, test)]

    scores: dict[str, dict[str, list[float]]] = {}
    for schedule in arguments.schedules:
        for seed in arguments.seeds:
            trainer = trained(arguments, schedule, seed, config, *sets)
            metrics = trainer.evaluate()
            for name in [trainer.level_names[level] for level in trainer.trained_levels]:
                scores.setdefault(schedule, {}).setdefault(name, []).append(metrics[f"eval_{name}_accuracy"])
            if seed == arguments.seeds[0]:
                save_deep(trainer.model.core, languages, arguments.output_dir / schedule / "deep")
    model = trainer.model
    parameters = {name: count_parameters(model, name) for name in level_names(model)}
    results = {
        "command": shlex.join(["python", "-m", "examples.wide_and_deep.train", *sys.argv[1:]]),
        "versions": installed_versions(),
        "languages": languages,
        "words": {"train": len(train), "test": len(test)},
        "parameters": parameters,
        "seeds": arguments.seeds,
        "steps": trainer.state.global_step,
        "accuracy": scores,
    }
    write_json(arguments.output_dir / RESULTS, results)

    rows = [
        [schedule, *(mean_and_deviation(levels.get(name, [None])) for name in parameters)]
        for schedule, levels in scores.items()
    ]
    print(f"\n{align(['training', *(f'{name} (%)' for name in parameters)], rows)}\n")
    several = f", mean (deviation) of {len(arguments.seeds)} seeds" if len(arguments.seeds) > 1 else ""
    print(f"Accuracy on {len(test):,} words after training on {len(train):,} others{several}.")
    print(f"Parameters: {', '.join(f'{name} {number:,}' for name, number in parameters.items())}.")


def trained(arguments, schedule: str, seed: int, config: DeepConfig, train: list, test: list) -> ATSTrainer:
    """Train the sum of both networks, and return the trainer."""
    torch.manual_seed(seed)
    model = SummedNetworks(core=Deep(config), extension=Wide(arguments.wide_buckets, config.classes))
    args = ATSTrainingArguments(
        str(arguments.output_dir / schedule),
        schedule=schedule,
        seed=seed,
        num_train_epochs=arguments.epochs,
        per_device_train_batch_size=arguments.batch_size,
        per_device_eval_batch_size=1024,
        learning_rate=arguments.learning_rate,
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = ATSTrainer(
        model, args, train_dataset=train, eval_dataset=test, data_collator=collate, compute_metrics=compute_accuracy
    )
    trainer.remove_callback(PrinterCallback)  # the table says it
    trainer.train()
    return trainer


if __name__ == "__main__":
    main()
