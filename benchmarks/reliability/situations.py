"""Bad recipes, models, places and resumed runs, each as somebody could have them."""

import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertConfig, BertModel, EncoderDecoderConfig, EncoderDecoderModel

from .cases import LIKE_RUN, PREFIXES, Case, base_words
from .texts import bad_corpora, bad_texts, training_case, write_files


def all_situations() -> Iterator[Case]:
    """Yield all of them."""
    yield from bad_corpora()
    yield from bad_texts()
    yield from _recipes()
    yield from _models()
    yield from _places()
    yield from _resumed()


# ---- Recipes ----

_RECIPES = {
    "a list": "- a\n- b\n",
    "a word": "hello\n",
    "empty": "",
    "comments only": "# nothing\n",
    "no YAML": "a: [1, 2\nb: }\n",
    "a tab": "layers:\n\t- 1\n",
    "an unknown key": "layerz: 1\n",
    "a key twice": "layers: 1\nlayers: 2\n",
    "a recipe inside": "recipe: iwslt14\n",
    "a token": "hub_token: secret\n",
    "two documents": "layers: 1\n---\nlayers: 2\n",
    "a tag": "layers: !!python/object/apply:os.system ['true']\n",
    "an anchor": "layers: &a [*a]\n",
    "a number as key": "1: 2\n",
    "a list as key": "[a]: 2\n",
    "a mapping for a number": "layers: {a: 1}\n",
    "a list for a number": "layers: [1, 2]\n",
    "an empty list": "ratios: []\n",
    "a nested list": "ratios: [[0.25]]\n",
    "a list with a null": "ratios: [null]\n",
    "help": "help: true\n",
    "a flag with dashes": "--layers: 1\n",
    "aliases by the thousand": "a: &a [x,x,x,x]\nb: &b [*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b]\nratios: *c\n",
} | {
    f"{name}: {value}": f"{name}: {value}\n"
    for name, values in {
        "layers": ("1.5", "one", "true", "''", "0x10", "-1", "1e3", "2020-01-01"),
        "learning_rate": ("fast", ".nan", ".inf", "nan", "true", "''", "[1]"),
        "ratios": ("0", "2", "a", "true", "{a: 1}"),
        "bf16_full_eval": ("maybe", "2", "''", "[yes]"),
        "schedule": ("alternate", "''", "1", "null"),
        "lr_scheduler_type": ("nonsense", "1", "null"),
        "seed": ("1.0", "x", "null", "-1"),
        "train_prefix": ("nowhere", "''", "1", "[a, b]"),
        "lr_scheduler_kwargs": ("{nonsense: 1}", "nonsense", "[1]", "{a: {b: c}}"),
    }.items()
    for value in values
}  # fmt: skip
_MAY_STAND = ("two documents", "layers: 1e3", "learning_rate: [1]", "schedule: null", "lr_scheduler_type: null")
_MAY_STAND += ("seed: null", "seed: -1", "bf16_full_eval: [yes]", "layers: 0x10", "ratios: null", "a list with a null")


def _recipes() -> Iterator[Case]:
    for name, text in _RECIPES.items():
        dropped = {key: f"--{key}" for key in ("layers", "ratios", "learning_rate", "train_prefix")}
        without = next((flag for key, flag in dropped.items() if f"{key}:" in text), "")
        right = "either" if name in _MAY_STAND else "refuse"
        write = partial(write_files, {"x.yaml": text.encode()})
        yield training_case(name, "--recipe x.yaml", without, write, right, "a recipe")
    for name, data in {"Latin-1": "# größer\nlayers: 1\n".encode("latin-1"), "a directory": None}.items():
        yield training_case(name, "--recipe x.yaml", "", partial(write_files, {"x.yaml": data}), "refuse", "a recipe")
    for name in ("nowhere", "../recipes/iwslt14", "cifar10", "IWSLT14"):
        yield training_case(f"--recipe {name}", f"--recipe {name}", "", None, "refuse", "a recipe")


# ---- Models ----

_FROM = "--layers --width --feed_forward --heads --vocab_size"


def _models() -> Iterator[Case]:
    changes: dict[str, tuple[Callable[[Path], None], str]] = {
        "without a tokenizer": (_without("tokenizer_config.json", "vocab.json", "source.spm", "target.spm"), "refuse"),
        "without weights": (_without("model.safetensors"), "refuse"),
        "without a config": (_without("config.json"), "refuse"),
        "without a generation config": (_without("generation_config.json"), "either"),
        "a tokenizer larger than the embeddings": (_larger_tokenizer, "refuse"),
        "weights that hold NaN": (partial(_weights, lambda t: t.fill_(float("nan"))), "refuse"),
        "weights that hold infinity": (partial(_weights, lambda t: t.fill_(float("inf"))), "refuse"),
        "no end token in the config": (partial(_config, {"eos_token_id": None}), "either"),
        "no padding token in the config": (partial(_config, {"pad_token_id": None}), "either"),
        "no start token in the config": (partial(_config, {"decoder_start_token_id": None}), "either"),
        "an end token outside the vocabulary": (partial(_config, {"eos_token_id": 10_000}), "either"),
        "another architecture in the config": (partial(_config, {"architectures": ["Nonsense"]}), "either"),
        "another type in the config": (partial(_config, {"model_type": "nonsense"}), "refuse"),
        "an encoder alone": (_encoder, "refuse"),
        "an EncoderDecoderModel": (_encoder_decoder, "either"),
        "a width that is not the weights'": (partial(_config, {"d_model": 32}), "refuse"),
        "layers that the weights lack": (partial(_config, {"encoder_layers": 3}), "refuse"),
    }
    for name, (change, right) in changes.items():
        words = f"--model_name_or_path base {' '.join(base_words('train', _FROM))}"
        yield Case("a model", name, "train", tuple(words.split()), change, right)
        yield Case("a model", name, "translate", ("--model", "base", "--input", "text.de"), change, right)
    for folder in ("run/core", "run/full"):
        for name, change in _STATES.items():
            prepare = partial(_state, folder, change)
            for command, words in (("translate", "--input text.de"), ("evaluate", "--test_prefix corpus/test")):
                right = "either" if name == "half precision" else "refuse"
                words = f"--model {folder} {words}"
                yield Case("a model", f"{folder}: {name}", command, tuple(words.split()), prepare, right)
    for name, folder, right in (
        ("a run's folder", "run", "either"),
        ("a tokenizer's folder", "run/tokenizer", "refuse"),
        ("an adapter", "adapter", "either"),
        ("a corpus", "corpus", "refuse"),
        ("a file", "text.de", "refuse"),
        ("nothing", "nowhere", "refuse"),
        ("an id", "some-body/some-model", "refuse"),
    ):
        of_choose = "accept" if folder == "run" else "refuse"
        for command, words, expected in (
            ("translate", f"--model {folder} --input text.de", right),
            ("train", f"--model_name_or_path {folder} {' '.join(base_words('train', _FROM))}", right),
            ("export", f"--checkpoint {folder} --output_dir out", right),
            ("choose", f"--run {folder} --max_parameters 1M", of_choose),
        ):
            yield Case("a model", f"{words.split()[0]}: {name}", command, tuple(words.split()), None, expected)


def _first(change: Callable[[str, torch.Tensor], dict]) -> Callable[[dict], dict]:
    """Return what changes the first tensor of a state, and leaves the others."""

    def changed(state: dict) -> dict:
        name = next(iter(state))
        return change(name, state[name]) | {other: state[other] for other in list(state)[1:]}

    return changed


_STATES: dict[str, Callable[[dict], dict]] = {
    "a tensor missing": _first(lambda name, tensor: {}),
    "a tensor renamed": _first(lambda name, tensor: {f"{name}x": tensor}),
    "a tensor of another shape": _first(lambda name, tensor: {name: tensor.flatten()[1:].clone()}),
    "a tensor that is NaN": _first(lambda name, tensor: {name: tensor * float("nan")}),
    "a tensor too many": lambda state: state | {"more": torch.zeros(1)},
    "half precision": lambda state: {name: tensor.half() for name, tensor in state.items()},
}


def _without(*names: str) -> Callable[[Path], None]:
    def remove(directory: Path) -> None:
        for name in names:
            (directory / "base" / name).unlink()

    return remove


def _config(fields: dict, directory: Path) -> None:
    for name in ("config.json", "generation_config.json"):
        path = directory / "base" / name
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def _weights(change: Callable, directory: Path) -> None:
    path = directory / "base" / "model.safetensors"
    state = load_file(path)
    change(state["model.encoder.layers.0.fc1.weight"][0])
    save_file(state, path, {"format": "pt"})


def _state(folder: str, change: Callable[[dict], dict], directory: Path) -> None:
    path = directory / folder / "model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})


def _larger_tokenizer(directory: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(directory / "base")
    tokenizer.add_tokens(["hund", "katze"])
    tokenizer.save_pretrained(directory / "base")


def _bert() -> BertConfig:
    return BertConfig(vocab_size=96, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)


def _encoder(directory: Path) -> None:
    BertModel(_bert()).save_pretrained(directory / "base")


def _encoder_decoder(directory: Path) -> None:
    config = EncoderDecoderConfig.from_encoder_decoder_configs(_bert(), _bert())
    config.decoder_start_token_id, config.pad_token_id = 2, 0
    EncoderDecoderModel(config=config).save_pretrained(directory / "base")


# ---- Places ----


def _places() -> Iterator[Case]:
    long = "x" * 300
    for name, path, files, right in (
        ("a file", "new", {"new": b"mine"}, "refuse"),
        ("under a file", "text.de/new", {}, "refuse"),
        ("too long a name", long, {}, "refuse"),
        ("too long a path", "/".join([long[:200]] * 30), {}, "refuse"),
        ("another run's", "run", {}, "refuse"),
        ("another run's, by its exports", "new", {"new/core/config.json": b"{}"}, "refuse"),
        ("a folder of one's own files", "new", {"new/notes.txt": b"mine"}, "either"),
        ("a file in the place of an export", "new", {"new/core": b"mine"}, "refuse"),
        ("a folder in the place of results.json", "new", {"new/results.json": None}, "refuse"),
        ("a folder in the place of report.html", "new", {"new/report.html": None}, "refuse"),
        ("a folder in the place of training.png", "new", {"new/training.png": None}, "refuse"),
        ("a file in the place of tokenizer", "new", {"new/tokenizer": b"mine"}, "refuse"),
        ("a file in the place of checkpoint-1", "new", {"new/checkpoint-1": b"mine"}, "refuse"),
        ("a path that cannot be", "/proc/new", {}, "refuse"),
        ("the corpus", "corpus", {}, "either"),
    ):
        words = [*base_words("train", "--output_dir"), "--output_dir", path]
        yield Case("a place", f"--output_dir, {name}", "train", tuple(words), partial(write_files, files), right)
    outputs = {"a folder": "corpus", "under a file": "text.de/out", "nowhere": "no/where/out", "too long": long}
    for name, path in (outputs | {"a path that cannot be": "/proc/out", "/dev/full": "/dev/full"}).items():
        words = ("--model", "run/core", "--input", "text.de", "--output", path)
        yield Case("a place", f"--output, {name}", "translate", words)
        words = ("--model", "run/core", "--test_prefix", "corpus/test", "--output", path)
        yield Case(
            "a place", f"--output, {name}", "evaluate", words, None, "either" if name == "nowhere" else "refuse"
        )
        words = ("--checkpoint", "run/checkpoint-4", "--output_dir", path)
        right = "either" if name in ("a folder", "nowhere") else "refuse"
        yield Case("a place", f"--output_dir, {name}", "export", words, None, right)
        words = ("--run", "run", "--max_parameters", "1M", "--output_dir", path)
        yield Case(
            "a place", f"--output_dir, {name}", "choose", words, None, "either" if name == "nowhere" else "refuse"
        )
        words = ("run", "--name", "numbers", "--license", "mit", "--dry_run", path)
        yield Case("a place", f"--dry_run, {name}", "push", words, None, right)


# ---- Resumed runs ----


def _resumed() -> Iterator[Case]:
    more = f"--output_dir run {LIKE_RUN} {PREFIXES} --max_steps 6 --resume_from_checkpoint True"
    for flags, right in (
        ("", "accept"),
        ("--width 32", "refuse"),
        ("--layers 2", "refuse"),
        ("--feed_forward 64", "refuse"),
        ("--heads 4", "refuse"),
        ("--vocab_size 90", "refuse"),
        ("--separate_vocabularies", "refuse"),
        ("--ratios 0.5", "refuse"),
        ("--ratios 0.25 0.5", "refuse"),
        ("--method width", "refuse"),
        ("--target_modules fc1", "refuse"),
        ("--source_lang en --target_lang de", "refuse"),
        ("--optim adafactor", "refuse"),
        ("--optim sgd", "refuse"),
        ("--lr_scheduler_type cosine", "either"),
        ("--schedule core", "either"),
        ("--schedule full", "either"),
        ("--learning_rate 0.02", "accept"),
        ("--per_device_train_batch_size 4", "either"),
        ("--seed 7", "either"),
        ("--max_steps 4", "accept"),
        ("--max_steps 2", "either"),
        ("--max_steps 0", "refuse"),
        ("--dropout 0.5", "either"),
        ("--train_prefix other_corpus/train", "either"),
        ("--resume_from_checkpoint run", "accept"),
        ("--resume_from_checkpoint run/checkpoint-2", "accept"),
        ("--resume_from_checkpoint run/checkpoint-9", "refuse"),
        ("--resume_from_checkpoint other/checkpoint-4", "either"),
        ("--resume_from_checkpoint run/core", "refuse"),
        ("--resume_from_checkpoint base", "refuse"),
        ("--resume_from_checkpoint text.de", "refuse"),
        ("--resume_from_checkpoint=", "refuse"),
        ("--resume_from_checkpoint false", "either"),
    ):
        yield Case("a resumed run", flags or "as it was", "train", (*more.split(), *flags.split()), None, right)
    mixed = {
        "a checkpoint of another run": ("other/checkpoint-4", "run/checkpoint-5"),
        "a checkpoint of another run of the same step": ("other/checkpoint-4", "run/checkpoint-4"),
        "a checkpoint under another number": ("run/checkpoint-2", "run/checkpoint-5"),
    }
    for name, (taken, given) in mixed.items():
        right = "either" if name.endswith("number") else "same"
        yield Case("a resumed run", name, "train", tuple(more.split()), partial(_replace, taken, given), right, given)


def _replace(taken: str, given: str, directory: Path) -> None:
    shutil.rmtree(directory / given, ignore_errors=True)
    shutil.copytree(directory / taken, directory / given)
