"""Recipes: what the files of `recipes/` set, how any recipe is read, and what ends with a sentence."""

import json
import re
import shlex
from dataclasses import dataclass, field, fields
from pathlib import Path

import pytest
import torch

from examples.image_classification import parse_flags as parse_image_flags
from hf_ats.partition import find_partition, partitioned_layers
from hf_ats.run import RECIPES, FlagParser, parse_flags
from tests.support.scripts import begin, prefixes, train, write_corpus
from tests.support.versions import needs_5

REPOSITORY = Path(__file__).parents[2]


def parse(*words, parser=parse_flags):
    return parser("a run", [str(word) for word in words])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> list[str]:
    """The flags of a small corpus."""
    return prefixes(write_corpus(tmp_path_factory.mktemp("corpus")))


def values(groups) -> dict:
    """Every field of every group, by name."""
    return {one.name: getattr(group, one.name) for group in groups for one in fields(group) if one.init}


# ---- The paper's Table 4 ----

# Row: WMT17, IWSLT14.
TABLE_4 = {
    "adam_betas": ((0.9, 0.98), (0.9, 0.98)),
    "adam_eps": (1e-09, 1e-09),
    "alternate_lr_coef": (1.0, 1.0),
    "criterion": ("label_smoothed_cross_entropy", "label_smoothed_cross_entropy"),
    "decoder_attention_heads": (8, 4),
    "decoder_embed_dim": (512, 512),
    "decoder_ffn_embed_dim": (2048, 1024),
    "decoder_layers": (6, 6),
    "dropout": (0.1, 0.3),
    "encoder_attention_heads": (8, 4),
    "encoder_embed_dim": (512, 512),
    "encoder_ffn_embed_dim": (2048, 1024),
    "encoder_layers": (6, 6),
    "label_smoothing": (0.1, 0.1),
    "lr": (0.0007, 0.0005),
    "lr_scheduler": ("inverse_sqrt", "inverse_sqrt"),
    "max_epoch": (22, 30),
    "max_tokens": (18000, 12000),
    "optimizer": ("adam_for_partitioned_model", "adam_for_partitioned_model"),
    "partitioned_linear_module_name": ("PartitionedRankLinear", "PartitionedRankLinear"),
    "share_decoder_input_output_embed": (False, True),
    "small_ratio": (0.03125, 0.03125),
    "task": ("translation_with_partitioned_model", "translation_with_partitioned_model"),
    "warmup_init_lr": (1e-07, -1),
    "warmup_updates": (4000, 4000),
    "weight_decay": (0.0, 0.0001),
}


def rows_of(trainer) -> dict:
    """The rows of Table 4 as a run has them when its training begins, from its model, trainer and arguments."""
    args, model, config = trainer.args, trainer.model, trainer.model.config
    optimizer = trainer.create_optimizer()
    (group,) = (group for group in optimizer.param_groups if group["params"])
    linear_maps = {type(layer).__name__ for layer in partitioned_layers(model).values()}
    (ratio,) = find_partition(model).ratios
    rows = {
        "adam_betas": group["betas"],
        "adam_eps": group["eps"],
        "alternate_lr_coef": args.alternate_lr_coef,
        "criterion": trainer.compute_loss_func.func.__name__,
        "dropout": config.dropout,
        "label_smoothing": trainer.compute_loss_func.keywords["label_smoothing"],
        "lr": args.learning_rate,
        "lr_scheduler": args.lr_scheduler_type,
        "max_epoch": args.num_train_epochs,
        "max_tokens": trainer.get_train_dataloader().batch_sampler.max_tokens,
        "optimizer": {torch.optim.AdamW: "adam_for_partitioned_model"}[type(optimizer)],
        "partitioned_linear_module_name": " ".join(linear_maps),
        "share_decoder_input_output_embed": model.lm_head.weight is model.get_decoder().embed_tokens.weight,
        "small_ratio": ratio,
        "task": {"MarianMTModel": "translation_with_partitioned_model"}[type(model).__name__],
        "warmup_init_lr": args.warmup_init_lr,
        "warmup_updates": args.get_warmup_steps(10**6),
        "weight_decay": group["weight_decay"],
    }
    for half in ("encoder", "decoder"):
        rows[f"{half}_attention_heads"] = getattr(config, f"{half}_attention_heads")
        rows[f"{half}_embed_dim"] = getattr(model.model, half).embed_tokens.weight.shape[1]
        rows[f"{half}_ffn_embed_dim"] = getattr(model.model, half).layers[0].fc1.out_features
        rows[f"{half}_layers"] = len(getattr(model.model, half).layers)
    return rows


@pytest.mark.parametrize(("recipe", "column"), [("wmt17", 0), ("iwslt14", 1)])
def test_the_recipes_of_translation_are_table_4(recipe, column, corpus, tmp_path):
    # A small corpus cannot fill the vocabulary, and random factors come sooner than the SVD; else as it is.
    small = ["--source_lang", "de", "--target_lang", "en", "--vocab_size", 300, "--init", "random", "--use_cpu"]
    words = ["--recipe", recipe, "--output_dir", tmp_path, *small, *corpus]
    trainer = begin(*words)
    assert rows_of(trainer) == {row: values[column] for row, values in TABLE_4.items()}
    # fairseq's meanings of three of the rows, and Algorithm 2.
    args, model = trainer.args, trainer.model
    assert args.max_tokens_counts == trainer.get_train_dataloader().batch_sampler.counts == "longest"
    assert args.weight_decay_on == "all" and args.schedule == "alternating"
    assert args.max_grad_norm == 0 and args.world_size * args.gradient_accumulation_steps == 1
    assert model.model.encoder.embed_tokens.weight is not model.model.decoder.embed_tokens.weight
    assert set(parse(*words)[-1].overridden) - {"source_lang", "target_lang"} == {"vocab_size"}


def test_the_small_width_of_the_paper_is_one_flag_away(tmp_path):
    args = parse("--recipe", "iwslt14", "--output_dir", tmp_path, "--method", "width", "--ratios", 0.25)[2]
    assert (args.method, args.ratios, args.init) == ("width", [0.25], None)


def test_the_recipe_of_images_is_appendix_d(tmp_path):
    network, data, partition, args, _ = parse(
        "--recipe", "cifar10", "--output_dir", tmp_path, parser=parse_image_flags
    )
    assert (network.width, network.depths) == (64, [2, 2, 2, 2])
    assert (partition.method, partition.ratios) == ("width", [0.5])
    assert (args.optim, args.optim_args, args.weight_decay) == ("sgd", "momentum=0.9", 5e-4)
    assert (args.schedule, args.alternate_lr_coef, data.validation_images) == ("alternating", 1.0, 5000)


# ---- The small ones ----


def test_the_small_recipe_is_a_run_of_the_table_in_the_readme(tmp_path):
    words = ["--output_dir", tmp_path, "--ratios", "0.03125", "--seed", "1"]
    ours = parse("--recipe", "multi30k-small", *words, "--speed_sentences", "0")
    theirs = parse("--recipe", REPOSITORY / "experiments" / "recipes" / "multi30k.yaml", *words)
    assert _comparable(ours) == _comparable(theirs)
    assert ours[4].lr_scheduler_type == "linear"


def _comparable(flags) -> dict:
    # The directory of TensorBoard is named after the time.
    return {name: value for name, value in values(flags[:-1]).items() if name != "logging_dir"}


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_read_by_the_script_that_it_names(path, tmp_path):
    text = path.read_text(encoding="utf-8")
    parser = parse_flags if f"#     hf-ats train --recipe {path.stem} " in text else parse_image_flags
    *_, recipe = parse("--recipe", path.stem, "--output_dir", tmp_path, parser=parser)
    assert len(recipe.values) == len(re.findall(r"^\w+:", text, re.MULTILINE)) > 10


# ---- Reading ----


def write(directory: Path, text: str) -> Path:
    path = directory / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


MANY = """\
learning_rate: 5e-4
adam_epsilon: 1e-09     # which YAML 1.1 takes for text
weight_decay: 1E-4
warmup_steps: 100       # a whole number for a flag that takes any
num_train_epochs: 3
seed: 010               # which YAML 1.1 takes for 8
ratios: [0.125, .25]
target_modules: [fc1, fc2]
eval_strategy: no       # which YAML 1.1 takes for false
schedule: slimmable
bf16: false
separate_vocabularies: true
lr_scheduler_type: cosine_with_min_lr
lr_scheduler_kwargs: {min_lr: 1e-5}
source_prefix: "1e-3"
dropout: null
include_for_metrics: [loss]
"""
FLAGS = [
    "--learning_rate=5e-4", "--adam_epsilon=1e-09", "--weight_decay=1E-4", "--warmup_steps=100", "--seed=010",
    "--num_train_epochs=3", "--ratios", "0.125", ".25", "--target_modules", "fc1", "fc2", "--eval_strategy=no",
    "--schedule=slimmable", "--bf16=false", "--separate_vocabularies", "--lr_scheduler_type=cosine_with_min_lr",
    '--lr_scheduler_kwargs={"min_lr": 1e-5}', "--source_prefix=1e-3", "--include_for_metrics", "loss",
]  # fmt: skip


@needs_5("transformers 4 reads no dictionary on the command line")
def test_a_recipe_is_what_its_flags_are_on_the_command_line(tmp_path):
    path = write(tmp_path, MANY)
    *ours, recipe = parse("--output_dir", tmp_path, "--recipe", path)
    theirs = parse("--output_dir", tmp_path, *FLAGS)
    assert theirs[-1] is None and recipe.name == str(path)
    assert _comparable([*ours, None]) == _comparable(theirs)
    types = {name: type(value) for name, value in values(ours).items()}
    assert types == {name: type(value) for name, value in values(theirs[:-1]).items()}
    assert len(recipe.values) == MANY.count("\n") and recipe.values["seed"] == 10 and recipe.overridden == []
    json.dumps(recipe.values)


def test_the_command_line_overrides_a_recipe_wherever_it_stands(tmp_path):
    path = write(tmp_path, "learning_rate: 5e-4\nseed: 3\nratios: [0.25]\nbf16: true\nmax_tokens: 64\n")
    words = "--learning_rate 1e-3 --ratios 0.125 0.5 --bf16 false --max_tokens 64".split()
    for given in (["--recipe", path, *words], [*words, "--recipe", path]):
        *_, partition, _, args, recipe = parse("--output_dir", tmp_path, *given)
        assert (args.learning_rate, args.seed, args.bf16, partition.ratios) == (1e-3, 3, False, [0.125, 0.5])
        # What the run used, and what of it the recipe does not say.
        assert recipe.values == dict(learning_rate=1e-3, seed=3, ratios=[0.125, 0.5], bf16=False, max_tokens=64)
        assert recipe.overridden == ["learning_rate", "ratios", "bf16"]


def test_a_recipe_is_found_by_name_with_and_without_its_ending_and_as_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("iwslt14", "iwslt14.yaml", RECIPES / "iwslt14.yaml"):
        assert parse("--output_dir", tmp_path, "--recipe", name)[-2].num_train_epochs == 30
    # What lies here comes first, as with every other file; a directory is none.
    Path("iwslt14").mkdir()
    assert parse("--output_dir", tmp_path, "--recipe", "iwslt14")[-2].num_train_epochs == 30
    Path("iwslt14.yaml").write_text("num_train_epochs: 2")
    assert parse("--output_dir", tmp_path, "--recipe", "iwslt14.yaml")[-2].num_train_epochs == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 1e-3", "unrecognized arguments: --learning_rat"),  # which is no abbreviation here
        ("recipe: iwslt14", "recipe cannot stand in a recipe"),
        ("hub_token: abc", "hub_token cannot stand in a recipe, which is shared; give it as --hub_token."),
        ("learning_rate: fast", "argument --learning_rate/--learning-rate: invalid float value: 'fast'"),
        ("max_tokens: 1e4", "argument --max_tokens/--max-tokens: invalid int value: '1e4'"),
        ("ratios: [0.25, a]", "argument --ratios: invalid float value: 'a'"),
        ("max_tokens: [1, 2]", "unrecognized arguments: 2"),
        ("schedule: alternate", "argument --schedule: invalid choice: 'alternate' (choose from"),
        ("seed: 1\nratios: [0.25", "while parsing a flow sequence"),
        ("seed: 1\nseed: 2", "seed is there twice; keep one of them."),
        ("- seed", "this is not a mapping from flags to values; write lines such as `learning_rate: 5e-4`."),
        ("", "this is not a mapping from flags to values"),
        # What the arguments themselves refuse is said of the whole command line.
        ("max_tokens: 0", "max_tokens=0 must be positive"),
        (
            "model_name_or_path: a\narchitecture: tiny",
            "--architecture tiny, but --model_name_or_path a brings",
        ),
    ],
)
def test_what_is_no_recipe_ends_with_a_sentence_that_names_it(text, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py"])
    path = write(tmp_path, text)
    with pytest.raises(SystemExit, match="2"):
        parse("--output_dir", tmp_path, "--recipe", path)
    _, _, error = capsys.readouterr().err.partition("train.py: error: ")
    assert error.removeprefix(f"{path}: ").startswith(message)
    assert error.startswith(f"{path}: ") == ("brings" not in message and "must be positive" not in message)


def test_an_error_of_the_command_line_does_not_blame_the_recipe(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse("--output_dir", tmp_path, "--recipe", "iwslt14", "--seed", "one")
    assert "error: argument --seed: invalid int value: 'one'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "--recipe nowhere is neither a file nor one of hf_ats's own, which are cifar10, .*, wmt17"),
        ("../recipes", "--recipe ../recipes is neither a file nor"),
    ],
)
def test_a_recipe_that_is_not_there_is_missed_by_name(name, message, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse("--output_dir", tmp_path, "--recipe", name)
    assert re.search(message, capsys.readouterr().err)


def test_any_script_can_read_recipes_into_groups_of_its_own(tmp_path):
    @dataclass
    class Sizes:
        """Of something."""

        output_dir: str = field(metadata={"help": "Where to."})
        depths: list[int] = field(default_factory=lambda: [1], metadata={"help": "How deep."})
        mirror: bool = field(default=True, metadata={"help": "Whether to."})

    path = write(tmp_path, "depths: [2, 3]\nmirror: false\n")
    parser = FlagParser([Sizes], description="a script")
    sizes, recipe = parser.parse(["--output_dir", "there", "--recipe", str(path)])
    assert sizes == Sizes("there", [2, 3], False) and recipe.values == {"depths": [2, 3], "mirror": False}
    sizes, recipe = FlagParser([Sizes], description="a script").parse(["--output_dir", "there", "--no_mirror"])
    assert sizes == Sizes("there", [1], False) and recipe is None


# ---- A run ----


def test_a_budget_is_checked_before_training_as_it_is_counted(corpus, tmp_path):
    words = "--vocab_size 300 --layers 1 --max_tokens 5 --max_tokens_counts longest --use_cpu"
    with pytest.raises(SystemExit, match=r"max_tokens=5 is smaller than .* on the longer side"):
        begin("--output_dir", tmp_path, *words.split(), *corpus)


def test_a_run_by_recipe_trains_and_its_report_names_what_the_recipe_set(corpus, tmp_path):
    small = "--layers 1 --width 32 --feed_forward 64 --vocab_size 300 --ratios 0.25 --max_tokens 512"
    quick = "--max_steps 4 --warmup_steps 8 --learning_rate 1e-3 --logging_steps 1 --eval_strategy no"
    german = "--source_lang de --target_lang en"
    quiet = "--generation_max_length 24 --generation_num_beams 1 --speed_sentences 0 --disable_tqdm true --use_cpu"
    words = ["--recipe", "wmt17", "--output_dir", tmp_path, *f"{small} {quick} {quiet} {german}".split(), *corpus]
    train(*words)
    training = json.loads((tmp_path / "results.json").read_text())["training"]
    recipe = training["recipe"]
    assert recipe["name"] == "wmt17" and training["steps"] == 4 and "--recipe wmt17" in shlex.join(map(str, words))
    assert set(recipe["overridden"]) == {
        "layers", "width", "feed_forward", "vocab_size", "max_tokens", "warmup_steps", "learning_rate", "ratios",
        "logging_steps", "eval_strategy", "source_lang", "target_lang",
    }  # fmt: skip
    assert recipe["values"]["max_tokens"] == 512 and recipe["values"]["warmup_init_lr"] == 1e-7
    for name in ("adam_beta2", "adam_epsilon", "weight_decay_on", "max_tokens_counts", "max_grad_norm"):
        assert recipe["values"][name] == training["arguments"][name]
    logs = json.loads((tmp_path / "trainer_state.json").read_text())["log_history"]
    rates = [entry["learning_rate"] for entry in logs if "loss" in entry]
    assert rates == pytest.approx([1e-7 + step / 8 * (1e-3 - 1e-7) for step in range(4)], rel=1e-9)
