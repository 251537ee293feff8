"""What `report_to` brings to TensorBoard and any other tracker: all that is logged of a level, and every setting."""

import importlib.util
import json
from pathlib import Path
from typing import ClassVar

import pytest
from transformers import TrainerCallback
from transformers.integrations import integration_utils

from hf_ats.partition import PartitionConfig
from tests.support.models import partitioned
from tests.support.scripts import run_here
from tests.support.training import make_trainer, sentences

LEVELS = ("core", "full")
needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None,
    reason="tensorboard is not installed; `pip install tensorboard` to have its event files read back.",
)


def train(output_dir: Path, **fields):
    """Six steps with a log every second one and two evaluations."""
    trainer = make_trainer(
        partitioned("marian", PartitionConfig(ratios=[0.125])),
        output_dir,
        logging_strategy="steps",
        logging_steps=2,
        eval_strategy="steps",
        eval_steps=3,
        eval_dataset=sentences(6),
        compute_metrics=lambda prediction: {"bleu": float(len(prediction.label_ids))},
        alternate_lr_coef=0.5,
        **fields,
    )
    trainer.train()
    trainer.log({f"test_{level}_bleu": 30.0 for level in LEVELS})  # as the report of a run does
    return trainer


def expected_values(trainer) -> dict[str, list[tuple[int, float]]]:
    """The log of the trainer under the names that trackers show: the part before the slash is a group of charts."""
    values: dict[str, list[tuple[int, float]]] = {}
    for entry in trainer.state.log_history:
        for name, value in entry.items():
            group, _, rest = name.partition("_")
            tag = f"{group}/{rest}" if group in ("eval", "test") else f"train/{name}"
            if name != "step":
                values.setdefault(tag, []).append((entry["step"], value))
    return values


def assert_complete(values: dict[str, list[tuple[int, float]]]) -> None:
    for level in LEVELS:
        for name in ("loss", "grad_norm", "learning_rate"):
            assert [step for step, _ in values[f"train/{name}_{level}"]] == [2, 4, 6]
        for name in ("loss", "bleu"):
            assert [step for step, _ in values[f"eval/{level}_{name}"]] == [3, 6]
        assert values[f"test/{level}_bleu"] == [(6, 30.0)]
    (_, core), (_, full) = values["train/learning_rate_core"][0], values["train/learning_rate_full"][0]
    assert core == pytest.approx(full / 2)


def read_events(output_dir: Path) -> tuple[dict[str, list[tuple[int, float]]], dict[str, str]]:
    """Scalars by tag, as step and value, and texts by tag, of every event file below the directory."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    scalars: dict[str, list[tuple[int, float]]] = {}
    texts = {}
    for directory in {file.parent for file in output_dir.rglob("events.out.tfevents.*")}:
        events = EventAccumulator(str(directory)).Reload()
        for tag in events.Tags()["scalars"]:
            scalars.setdefault(tag, []).extend((event.step, event.value) for event in events.Scalars(tag))
        for tag in events.Tags()["tensors"]:
            (event,) = events.Tensors(tag)
            texts[tag.removesuffix("/text_summary")] = event.tensor_proto.string_val[0].decode()
    return scalars, texts


@needs_tensorboard
def test_tensorboard_has_every_value_of_every_level(tmp_path):
    trainer = train(tmp_path, report_to=["tensorboard"])
    scalars, _ = read_events(tmp_path)
    assert_complete(scalars)
    expected = expected_values(trainer)
    assert scalars.keys() == expected.keys()
    for tag, values in expected.items():
        assert [step for step, _ in scalars[tag]] == [step for step, _ in values]
        assert [value for _, value in scalars[tag]] == pytest.approx([value for _, value in values], rel=1e-6)


@needs_tensorboard
def test_tensorboard_has_the_settings_of_the_training_and_of_the_partition(tmp_path):
    train(tmp_path, report_to=["tensorboard"], schedule="random")
    _, texts = read_events(tmp_path)
    settings = json.loads(texts["args"])
    assert (settings["schedule"], settings["alternate_lr_coef"]) == ("random", 0.5)
    assert {"max_tokens", "max_tokens_counts", "warmup_init_lr", "weight_decay_on"} <= settings.keys()
    partition = json.loads(texts["model_config"])["ats_partition"]
    assert (partition["method"], partition["ratios"], partition["init"]) == ("rank", [0.125], "svd")


@needs_tensorboard
def test_the_training_script_reports_its_final_scores(tmp_path, monkeypatch):
    size = "--architecture tiny --layers 1 --width 32 --feed_forward 64 --vocab_size 60 --generation_max_length 8"
    training = "--max_steps 2 --logging_steps 1 --max_tokens 512 --use_cpu --disable_tqdm true --speed_sentences 4"
    for part, number in (("train", 60), ("validation", 4), ("test", 6)):
        for language, words in (("de", "ein Hund und ein Haus"), ("en", "a dog and a house")):
            lines = "".join(f"{words} {index * 7 % 13} {index}\n" for index in range(number))
            (tmp_path / f"{part}.{language}").write_text(lines, encoding="utf-8")
    data = " ".join(f"--{part}_prefix {tmp_path / part}" for part in ("train", "validation", "test"))
    output_dir = tmp_path / "run"
    words = f"--output_dir {output_dir} {size} {training} {data} --ratios 0.25 --report_to tensorboard".split()
    run_here("train_translation.py", *words, monkeypatch=monkeypatch)
    scalars, texts = read_events(output_dir)
    levels = json.loads((output_dir / "results.json").read_text())["levels"]
    for name, figures in levels.items():
        for score in ("bleu", "chrf"):
            assert scalars[f"test/{name}_{score}"] == [(2, pytest.approx(figures[score], rel=1e-6))]
    assert list(levels) == ["core", "full"] and "train/loss_core" in scalars and "train/loss_full" in scalars
    assert json.loads(texts["args"])["max_tokens"] == 512


class Tracker(TrainerCallback):
    """Takes what every integration of transformers takes: the settings when training begins, then the logs."""

    runs: ClassVar[list["Tracker"]] = []

    def __init__(self):
        self.settings, self.values = {}, {}
        self.runs.append(self)

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.settings = {**model.config.to_dict(), **args.to_sanitized_dict()}

    def on_log(self, args, state, control, logs=None, **kwargs):
        for tag, value in integration_utils.rewrite_logs(logs).items():
            assert type(value) in (int, float), f"{tag} is a {type(value).__name__}, which trackers drop"
            self.values.setdefault(tag, []).append((state.global_step, value))


def test_any_other_tracker_has_all_of_it_too(tmp_path, monkeypatch):
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "some_tracker", Tracker)
    monkeypatch.setattr(Tracker, "runs", [])
    trainer = train(tmp_path, report_to=["some_tracker"])
    (tracker,) = Tracker.runs
    assert_complete(tracker.values)
    assert tracker.values == expected_values(trainer)
    assert (tracker.settings["schedule"], tracker.settings["alternate_lr_coef"]) == ("alternating", 0.5)
    assert tracker.settings["ats_partition"]["ratios"] == [0.125]
    json.dumps(tracker.settings["ats_partition"])
    assert not list(tmp_path.rglob("events.out.tfevents.*"))
