"""Bad values of every flag of every command, and flags that contradict each other, from rules on what a flag takes."""

import argparse
import importlib
from collections.abc import Iterator
from unittest import mock

from hf_ats_command import COMMANDS

from .cases import BASES, Case, base_words
from .material import SIZES

_HUGE = str(10**20)
_LONG = "x" * 5000
_INTEGERS = {"0": "either", "-1": "either", _HUGE: "either"} | dict.fromkeys(["nan", "inf", "", "1.5", "x"], "refuse")
_NUMBERS = {"0": "either", "-1": "either", "1e308": "either"}
_NUMBERS |= dict.fromkeys(["nan", "inf", "-inf", "", "x"], "refuse")
_WORDS = dict.fromkeys(["", "x", _LONG], "either")

# What a huge value asks for is legitimate, and does not end.
_ENDLESS = (
    "layers",
    "max_steps",
    "num_train_epochs",
    "dataloader_num_workers",
    "dataloader_prefetch_factor",
    "gradient_accumulation_steps",
    "rounds",
)
# Never evaluate, never log, never clip are wishes too.
_NEVER = {(name, "inf") for name in ("eval_delay", "logging_steps", "max_grad_norm", "max_latency_ms")}
# What a flag needs beside it to have an effect, and what it takes the place of.
_WITH = {
    "warmup_init_lr": "--lr_scheduler_type inverse_sqrt --warmup_steps 1",
    "metric_for_best_model": "--load_best_model_at_end true",
    "max_tokens_counts": "--max_tokens 200",
    "license_name": "--license other --license_link LICENSE",
    "license_link": "--license other --license_name mine",
    "lr_scheduler_kwargs": "--lr_scheduler_type cosine_with_restarts",
    "dataloader_prefetch_factor": "--dataloader_num_workers 1",
    "dataset_config_name": "--dataset_name corpus",
    "num_beams": "--max_latency_ms 1e6 --rounds 2",
    "max_length": "--max_latency_ms 1e6 --rounds 2",
    "batch_size": "--max_latency_ms 1e6 --rounds 2",
    "rounds": "--max_latency_ms 1e6",
    "sentences": "--max_latency_ms 1e6 --rounds 2",
}
_SHAPE = " ".join(word for word in SIZES.split() if word.startswith("--"))
_FILES = "--train_prefix --validation_prefix --test_prefix"
_WITHOUT = {
    "model_name_or_path": _SHAPE,
    "adapter_name_or_path": f"{_SHAPE} --ratios",
    "ranks": "--ratios",
    "dataset_name": _FILES,
    "dataset_config_name": _FILES,
    "num_train_epochs": "--max_steps",
}


def flags_of(command: str) -> list[argparse.Action]:
    """Return the flags of a command."""

    class Read(Exception):
        """Carries the parser out of the command."""

    def stop(parser, *_, **__):
        raise Read(parser)

    script = importlib.import_module(f"hf_ats.scripts.{COMMANDS[command]}")
    with mock.patch.object(argparse.ArgumentParser, "parse_known_args", stop), mock.patch("sys.argv", [command]):
        try:
            script.main()
        except Read as read:
            return read.args[0]._actions
    raise ValueError(f"{command} reads no flags.")


def bad_values() -> Iterator[Case]:
    """Yield each flag that takes a value with values of each kind that it should not have."""
    for command in BASES:
        for action in flags_of(command):
            if action.nargs == 0 or not action.option_strings:
                continue
            flag, name = action.option_strings[0], action.dest
            for value, right in _values(action).items():
                if (value == _HUGE and name in _ENDLESS) or name == "torch_compile_mode":  # any of which compiles
                    continue
                right = "either" if (name, value) in _NEVER else right
                shown = {_HUGE: "10^20", _LONG: "5,000 letters"}.get(value, value or "an empty word")
                words = base_words(command, _WITHOUT.get(name, "") if command == "train" else "")
                words += _WITH.get(name, "").split() if command in ("train", "choose") else []
                yield Case("a flag's value", f"{flag} {shown}", command, (*words, f"{flag}={value}"), right=right)


def _values(action: argparse.Action) -> dict[str, str]:
    if action.choices is not None:
        return {"": "refuse", "x": "refuse"}
    if action.type is int:
        return _INTEGERS
    if action.type is float:
        return _NUMBERS
    if getattr(action.type, "__name__", "") == "string_to_bool":
        return dict.fromkeys(["", "x", "2"], "refuse")
    return _WORDS


def contradictions() -> Iterator[Case]:
    """Yield flags of which one makes the other impossible, or leaves it without effect."""
    whole = base_words("train")
    shapes = {"--architecture": "tiny", "--separate_vocabularies": "true"}
    words = SIZES.split()
    shapes |= dict(zip(words[::2], words[1::2], strict=True))
    partition = {"--ratios": "0.25", "--ranks": "fc1=4", "--target_modules": "fc1", "--init": "random"}
    partition |= {"--exclude_modules": "fc1", "--method": "width"}
    for source, others in (
        ("--model_name_or_path base", shapes),
        ("--adapter_name_or_path adapter", shapes | partition),
    ):
        start = base_words("train", f"{_SHAPE} --ratios")
        for flag, value in others.items():
            yield _refused(f"{source} {flag} {value}", [*start, *source.split(), flag, value])
    for schedule in ("alternating", "core", "slimmable", "random", "sandwich"):
        name = f"--method none --schedule {schedule}"
        yield _refused(name, [*base_words("train", "--ratios"), *name.split()])
    for flag in ("--warmup_init_lr 1e-7", "--warmup_init_lr 1e-7 --lr_scheduler_type inverse_sqrt"):
        yield _refused(flag, [*whole, *flag.split()])
    for ratios in ("0", "1", "0.5 0.25", "0.25 0.25", "2", "-0.5", "1e-30"):
        for method in ("rank", "width"):
            name = f"--method {method} --ratios {ratios}"
            yield _refused(name, [*whole, *name.split()], "either" if ratios == "1e-30" else "refuse")
    for more in _CONTRADICTIONS:
        yield _refused(more, [*whole, *more.split()])
    for more in _INDIFFERENT:
        yield _refused(more, [*whole, *more.split()], "either")


_CONTRADICTIONS = (
    "--ranks fc1=4",
    "--ranks fc1=4 fc1=8",
    "--init first",
    "--method width --init svd",
    "--heads 3",
    "--width 15",
    "--source_lang en",
    "--source_lang fr",
    "--dataset_name corpus",
    "--load_best_model_at_end --eval_strategy no",
    "--load_best_model_at_end --save_steps 2 --eval_steps 3",
    "--load_best_model_at_end --save_strategy no",
    "--load_best_model_at_end --metric_for_best_model bleu",
    "--load_best_model_at_end --metric_for_best_model full_chrfff",
    "--load_best_model_at_end --metric_for_best_model full_bleu --predict_with_generate false",
    "--load_best_model_at_end --schedule full --metric_for_best_model core_loss",
    "--lr_scheduler_type reduce_lr_on_plateau --eval_strategy no",
    "--save_strategy best --eval_strategy no",
    "--save_strategy best --metric_for_best_model nonsense",
    "--max_tokens 2",
    "--generation_max_length 1000",
    "--max_source_length 1000",
    "--max_source_length 0",
    "--max_target_length 0",
    "--max_target_length -1",
    "--max_source_length 1",
    "--average_tokens_across_devices false",
    "--hub_strategy every_save --push_to_hub --license mit",
    "--push_to_hub",
    "--push_to_hub --license nonsense",
    "--license other",
    "--target_modules query",
    "--target_modules (",
    "--target_modules fc1 --exclude_modules fc1",
    "--method width --target_modules fc1",
    "--method width --target_modules fc1=in fc2=in",
    "--resume_from_checkpoint True",
    "--resume_from_checkpoint run/core",
    "--resume_from_checkpoint nowhere",
    "--optim lomo",
    "--optim_args lr",
    "--fp16 --bf16",
    "--deepspeed nowhere.json",
    "--fsdp full_shard",
    "--lr_scheduler_kwargs {",
    "--lr_scheduler_kwargs [1]",
    "--lr_scheduler_kwargs nonsense",
    '--lr_scheduler_kwargs {"nonsense":1}',
    "--generation_config nowhere",
    "--vocab_size 20",
    "--vocab_size 100000",
    "--report_to nonsense",
    "--dropout 1.5",
    "--label_smoothing_factor 1.5",
    "--per_device_train_batch_size 0",
    "--per_device_eval_batch_size 0",
    "--generation_num_beams 0",
    "--generation_num_beams -1",
    "--generation_max_length 0",
    "--generation_max_length -5",
    "--max_steps 0",
    "--max_steps -1 --num_train_epochs 0",
    "--max_steps -1 --num_train_epochs -1",
    "--learning_rate -1",
    "--adam_beta1 1",
    "--adam_beta2 2",
    "--layers 0",
    "--width 0",
    "--alternate_lr_coef 0",
)
_INDIFFERENT = (
    "--validation_prefix corpus/test",
    "--test_prefix corpus/train",
    "--save_total_limit 0",
    "--learning_rate 0",
    "--learning_rate 100",
    "--max_grad_norm 0",
    "--dropout 1",
    "--generation_max_length 1",
    "--generation_max_length 2",
    "--generation_num_beams 50",
    "--warmup_steps 100",
    "--eval_delay 100",
    "--save_only_model",
    "--schedule full",
    "--schedule core",
    "--speed_sentences -1",
    "--per_device_train_batch_size 100000",
    "--logging_steps 100",
    "--gradient_accumulation_steps 1000",
    "--neftune_noise_alpha 5",
    "--eval_strategy no",
    "--eval_steps 0",
    "--save_steps 0",
    "--logging_steps 0",
    "--auto_find_batch_size",
)


def _refused(name: str, words: list[str], right: str = "refuse") -> Case:
    return Case("contradictory flags", name, "train", tuple(words), right=right)
