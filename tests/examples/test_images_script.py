"""The command of the example and the comparison of its runs, as a user runs them."""

import json
import sys
from pathlib import Path

import datasets
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

from examples.image_classification import CifarResNetForImageClassification, parse_flags, train
from examples.image_classification.data import ImageCollator, PlainImages, split_validation
from examples.image_classification.generated import generated_images
from examples.image_classification.training import count_correct
from hf_ats.checkpoint import ExportReport
from hf_ats.evaluation import compute_accuracy
from hf_ats.results import read_results
from hf_ats.run import RECIPES
from tests.examples.test_images_data import write
from tests.support.scripts import run_here

SIZES = "--width 4 --depths 1 1 --validation_images 20 --train_images 64 --per_device_train_batch_size 32"
TRAINING = "--use_cpu --report_to none --disable_tqdm true --logging_steps 1 --learning_rate 0.05"


def arguments(output_dir: Path, more: str = "") -> list[str]:
    return f"--output_dir {output_dir} {SIZES} {TRAINING} {more}".split()


def run(module, *words) -> None:
    """`python -m examples.image_classification.MODULE` in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [module.__file__, *map(str, words)])
        module.main()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    output_dir = tmp_path_factory.mktemp("runs") / "alternating"
    run(train, *arguments(output_dir, "--max_steps 4 --save_steps 2 --eval_strategy steps --eval_steps 2"))
    return output_dir


def test_a_run_leaves_the_two_networks_the_report_and_the_trainers_files(trained):
    assert {path.name for path in trained.iterdir()} == {
        *("checkpoint-2", "checkpoint-4", "core", "full"),
        *("report.html", "results.json", "run.json", "trainer_state.json", "training.png"),
    }
    log = json.loads((trained / "trainer_state.json").read_text())["log_history"]
    found = set().union(*log)
    assert {"loss_core", "loss_full"} <= found
    assert {f"eval_{level}_{name}" for name in ("loss", "accuracy") for level in ("core", "full")} <= found


def test_the_report_says_what_the_exports_are_worth(trained):
    output_dir = trained
    results = read_results(output_dir / "results.json", task="image-classification")
    parts, names = generated_images()
    train, _ = split_validation(parts["train"], 20, seed=0, limit=64)
    collate = ImageCollator(*train.channel_statistics())
    batches = [collate([PlainImages(parts["test"])[index] for index in range(500)])]
    for level in ("core", "full"):
        network = AutoModelForImageClassification.from_pretrained(output_dir / level)
        assert type(network) is CifarResNetForImageClassification
        assert network.config.id2label == dict(enumerate(names))
        figures = results["levels"][level]
        assert figures["accuracy"] == pytest.approx(100 * count_correct(network.eval(), batches) / 500)
        assert figures["parameters"] == network.num_parameters()
        assert figures["parity"] == ExportReport.read(output_dir / level).parity < 1e-5
    full, core = (results["levels"][level]["flops_per_image"] for level in ("full", "core"))
    training = results["training"]
    assert training["epoch_forward_flops"] == 64 * (full + core) / 2
    assert (training["schedule"], training["steps"], training["epochs"]) == ("alternating", 4, 2.0)
    # Backward, every product runs twice more, but for the gradient of the images themselves.
    assert 2 * 64 * (full + core) / 2 < training["flops"] < 2 * 64 * 3 * (full + core) / 2
    assert (results["data"]["train"], results["data"]["validation"], results["data"]["test"]) == (64, 20, 500)
    assert results["partition"]["ratios"] == [0.5] and results["model"]["width"] == 4
    assert results["command"].startswith("python -m examples.image_classification.train --output_dir ")


def test_a_checkpoint_is_exported_and_chosen_from_with_its_processor(trained, tmp_path, monkeypatch, capsys):
    checkpoint = ["--output_dir", tmp_path / "out", "--checkpoint", trained / "checkpoint-4"]
    run_here("export.py", *checkpoint, monkeypatch=monkeypatch)
    budget = ["--run", trained / "checkpoint-4", "--max_parameters", "1M", "--output_dir", tmp_path / "chosen"]
    run_here("choose_level.py", *budget, monkeypatch=monkeypatch)
    assert "chosen: full" in capsys.readouterr().out
    for name, directory in (("core", "out/core"), ("full", "out/full"), ("full", "chosen")):
        once, again = (load_file(folder / "model.safetensors") for folder in (trained / name, tmp_path / directory))
        assert once.keys() == again.keys() and all(torch.equal(once[key], again[key]) for key in once)
        processor = "preprocessor_config.json"
        assert (tmp_path / directory / processor).read_text() == (trained / name / processor).read_text()


@pytest.mark.law(number=2)
def test_a_run_goes_on_from_its_checkpoint_to_the_same_end(trained, tmp_path, monkeypatch):
    output_dir = trained
    more = f"--max_steps 4 --save_steps 2 --resume_from_checkpoint {output_dir / 'checkpoint-2'}"
    run(train, *arguments(tmp_path / "again", more))
    for level in ("core", "full"):
        once, again = (
            AutoModelForImageClassification.from_pretrained(folder / level).state_dict()
            for folder in (output_dir, tmp_path / "again")
        )
        assert all(torch.equal(tensor, again[name]) for name, tensor in once.items())


def test_standard_and_slimmable_training_and_the_table_of_all(trained, tmp_path, monkeypatch, capsys):
    runs = {"standard": "--method none --schedule full", "slimmable": "--schedule slimmable"}
    for name, flags in runs.items():
        run(train, *arguments(tmp_path / name, f"--max_steps 4 --save_strategy no {flags}"))
    assert (tmp_path / "standard" / "full").exists() and not (tmp_path / "standard" / "core").exists()
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- begin images -->\n<!-- end images -->\nbelow\n")
    files = [folder / "results.json" for folder in (tmp_path / "standard", trained, tmp_path / "slimmable")]
    run_here(
        "compare_runs.py", *files, "--update", page, "--block", "images", "--no_commands", monkeypatch=monkeypatch
    )
    rows = [line for line in page.read_text().splitlines() if line.startswith(("| full alone", "| altern", "| slimm"))]
    assert [row.split("|")[1].strip() for row in rows[:3]] == ["full alone", "alternating", "slimmable"]
    run_here(
        "compare_runs.py", *files, "--update", page, "--block", "images", "--no_commands", monkeypatch=monkeypatch
    )
    assert "up to date" in capsys.readouterr().err
    (results, *others) = [json.loads(file.read_text()) for file in files]
    full = results["levels"]["full"]["flops_per_image"]
    core = others[0]["levels"]["core"]["flops_per_image"]
    assert results["training"]["epoch_forward_flops"] == 64 * full
    assert others[1]["training"]["epoch_forward_flops"] == 64 * (full + core)
    assert results["partition"] is None


def test_a_ladder_of_widths(tmp_path, monkeypatch):
    more = "--max_steps 3 --save_strategy no --ratios 0.25 0.5"
    run(train, *arguments(tmp_path / "ladder", more))
    results = read_results(tmp_path / "ladder" / "results.json", task="image-classification")
    sizes = [level["parameters"] for level in results["levels"].values()]
    assert list(results["levels"]) == ["core", "level1", "full"] and sizes == sorted(set(sizes))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--method none", "--method none has one network only, and --schedule alternating more; give full"),
        ("--ratios 1.5", "ratios=[1.5] must lie between 0 and 1"),
        ("--validation_images 5000", "--validation_images 5000 and --train_images 64 do not fit into the 2000 images"),
        ("--train_file no.parquet --test_file no.parquet", "no.parquet"),
        ("--resume_from_checkpoint nowhere", "--resume_from_checkpoint nowhere: nowhere is not"),
    ],
)
def test_mistakes_end_with_a_sentence(tmp_path, monkeypatch, capsys, flags, words):
    with pytest.raises(SystemExit) as ended:
        run(train, *arguments(tmp_path / "run", flags))
    assert words in f"{ended.value} {capsys.readouterr().err}"


def test_images_of_ones_own_are_trained_on(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    pictures = generated_images(train=4, test=1, size=8)[0]["train"].images.movedim(1, -1).numpy()
    file = write(tmp_path / "images.parquet", pictures, [0, 1, 2, 0], image="img")
    flags = f"--train_file {file} --test_file {file} --image_column img --max_steps 1 --save_strategy no"
    run(train, *arguments(tmp_path / "run", f"{flags} --validation_images 1 --train_images 3"))
    results = read_results(tmp_path / "run" / "results.json", task="image-classification")
    assert results["data"]["name"] == file and results["data"]["image_shape"] == [3, 8, 8]
    network = AutoModelForImageClassification.from_pretrained(tmp_path / "run" / "core")
    assert network.config.id2label == {0: "cat", 1: "dog", 2: "frog"}


def test_another_export_in_the_way_is_not_overwritten(tmp_path, monkeypatch):
    (tmp_path / "run" / "full").mkdir(parents=True)
    (tmp_path / "run" / "full" / "thesis.txt").write_text("my only copy")
    with pytest.raises(SystemExit, match="full"):
        run(train, *arguments(tmp_path / "run"))


# ---- Recipes ----


def prepared(tmp_path, *words):
    """The groups of flags, and what prepares their run."""
    flags = parse_flags("a run", ["--output_dir", str(tmp_path / "run"), "--use_cpu", "--report_to", "none", *words])
    network_args, data_args, partition_args, args, _ = flags
    return flags, lambda: train.prepare(network_args, data_args, partition_args.config(), args)


def test_the_recipe_of_table_3_is_the_papers(tmp_path):
    (network, data, partition, args, _), _ = prepared(tmp_path, "--recipe", "cifar10")
    model = train.build_network(network, [str(label) for label in range(10)], 3, seed=0)
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_173_962, "ResNet-18 for CIFAR"
    assert (partition.method, partition.ratios) == ("width", [0.5])
    assert (args.optim, args.optim_args, args.weight_decay) == ("sgd", "momentum=0.9", 5e-4)
    assert (args.weight_decay_on, args.max_grad_norm, args.schedule) == ("all", 0.0, "alternating")
    assert data.validation_images == 5000
    # Every other run of the table is a flag away.
    for words in (("--schedule", "slimmable"), ("--method", "none", "--schedule", "full")):
        prepared(tmp_path, "--recipe", "cifar10", *words)


def test_the_recipe_is_what_a_run_without_one_does(tmp_path):
    """The flags' defaults and `recipes/cifar10.yaml` are the same training."""
    (*groups, recipe), _ = prepared(tmp_path, "--recipe", "cifar10")
    (*plain, _), _ = prepared(tmp_path)
    for with_recipe, without in zip(groups, plain, strict=True):
        for key in recipe.values:
            if hasattr(without, key) and key not in (
                *("validation_images", "eval_strategy", "save_strategy", "save_total_limit", "logging_steps"),
            ):
                assert getattr(with_recipe, key) == getattr(without, key), key


def test_the_small_recipe_trains_a_step(tmp_path):
    words = "--recipe cifar10-small --max_steps 1 --validation_images 20 --train_images 64 --disable_tqdm true"
    flags, prepare_run = prepared(tmp_path, *words.split())
    _, trainer = prepare_run()
    trainer.train()
    (group, *rest) = [group for group in trainer.optimizer.param_groups if group["params"]]
    assert not rest and (group["momentum"], group["weight_decay"]) == (0.9, 5e-4)
    assert len(group["params"]) == len(list(trainer.model.parameters()))
    assert trainer.model.config.hidden_sizes == [16, 32, 64, 128]
    assert (RECIPES / "cifar10-small.yaml").exists() and flags[-1].name == "cifar10-small"


def test_the_accuracy_is_the_share_of_highest_logits():
    class Prediction:
        predictions = torch.eye(4)[[0, 1, 2, 2]].numpy()
        label_ids = torch.tensor([0, 1, 2, 3]).numpy()

    assert compute_accuracy(Prediction) == {"accuracy": 75.0}
