"""What is measured for the figures of docs/theory.md: runs go on where they were killed, and tables say all of it."""

import json
import sys
from dataclasses import replace

import pytest
import torch

from examples.image_classification.generated import generated_images
from experiments import alternation, dropout, figures, subnets

TINY = dropout.Scale(width=2, size=8, images=48, epochs=2, batch=16, probes=4, probe_images=8, masks=2)


@pytest.fixture
def images(monkeypatch):
    """Small generated images in the place of CIFAR-10's files."""
    parts = generated_images(train=TINY.images, test=10, size=TINY.size)[0]
    for module in (dropout, subnets):
        monkeypatch.setattr(module, "reduced_images", lambda *given: parts)
    monkeypatch.setitem(dropout.SCALES, "small", TINY)
    return parts


def call(main, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["program", *map(str, words)])
    main()


def files(tmp_path):
    return "--train_file", tmp_path / "train", "--test_file", tmp_path / "test"


def test_the_dropout_figures_go_on_at_an_epoch_and_are_drawn(images, tmp_path, monkeypatch):
    def measure(name):
        call(dropout.main, monkeypatch, "--scale", "small", "--output_dir", tmp_path / name, *files(tmp_path))

    measure("whole")
    train_epoch, killed = dropout.Run.train_epoch, []

    def kill_in_the_second_run(run):
        if run.epochs_done == 1 and "without" in str(sorted((tmp_path / "cut").iterdir())[-1]) and not killed:
            killed.append(True)
            raise KeyboardInterrupt
        train_epoch(run)

    monkeypatch.setattr(dropout.Run, "train_epoch", kill_in_the_second_run)
    with pytest.raises(KeyboardInterrupt):
        measure("cut")
    measure("cut")
    whole, cut = ((tmp_path / name / "results.json").read_text() for name in ("whole", "cut"))
    assert killed and cut == whole
    assert (tmp_path / "cut" / "figures.png").read_bytes().startswith(b"\x89PNG")
    runs = json.loads(whole)["runs"]
    for run in runs.values():
        assert [probe["step"] for probe in run["probes"]] == [0, 2, 4, 6]
        assert run["probes"][0]["neurons"]["c_norm_squared"] >= 1
    first, other = (run["probes"] for run in runs.values())
    assert first[0] == other[0] and first[1] != other[1]  # with and without
    monkeypatch.setitem(dropout.SCALES, "small", replace(TINY, keep=0.5))
    with pytest.raises(SystemExit, match=r"'keep': 0\.8.*, not of .*'keep': 0\.5.*give another --output_dir"):
        measure("cut")
    assert (tmp_path / "cut" / "results.json").read_text() == whole


def test_the_network_of_the_figures_has_no_batch_normalization_and_channels_as_neurons():
    model = dropout.network(TINY, 0)
    assert not [name for name, _ in model.named_buffers()]
    layers = dropout.inner_channels(model)
    assert [layer.size for layer in layers] == [2, 2, 4, 4, 8, 8, 16, 16]


SETTINGS = subnets.Settings(
    hidden=6, size=8, images=48, steps=6, batch=8, most_steps=3, tolerances=(1.0, 1e9), seeds=(0,)
)


def test_subnets_are_compared_at_equal_exchanges_and_steps(images, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(subnets, "Settings", lambda: SETTINGS)
    results = tmp_path / "subnets.json"
    call(subnets.main, monkeypatch, "--results", results, *files(tmp_path))
    written = json.loads(results.read_text())
    for run in written["runs"]:
        assert sum(run["by_rule"]["lengths"]) == sum(run["fixed"]["lengths"]) == SETTINGS.steps
        assert len(run["by_rule"]["lengths"]) == len(run["fixed"]["lengths"]) == run["fixed"]["exchanges"]
    assert [run["by_rule"]["lengths"] for run in written["runs"]] == [[1] * 6, [3, 3]]
    call(figures.main, monkeypatch, results)
    table = capsys.readouterr().out
    assert "| 1         |                  6 |" in table and "| 1e+09     |                  2 |" in table

    trained, train = [], subnets.train
    monkeypatch.setattr(subnets, "train", lambda *given, **more: trained.append(given) or train(*given, **more))
    results.write_text(json.dumps({**written, "runs": written["runs"][:1]}))
    call(subnets.main, monkeypatch, "--results", results, *files(tmp_path))
    assert len(trained) == 2 and json.loads(results.read_text()) == written
    monkeypatch.setattr(subnets, "Settings", lambda: replace(SETTINGS, batch=4))
    with pytest.raises(SystemExit, match=r"'batch': 8.*, not of .*'batch': 4.*give another --results"):
        call(subnets.main, monkeypatch, "--results", results, *files(tmp_path))


def test_even_rounds():
    assert subnets.evenly(10, 4) == [2, 3, 2, 3]
    assert subnets.evenly(3, 3) == [1, 1, 1]


def test_figure_4_is_drawn_from_two_runs_and_leaves_out_what_is_undefined(tmp_path, monkeypatch, capsys):
    lines = [
        {"step": step, "level": level, "c_norm": 2.0, "c_sim": 0.5, "c_align": c_align, "alpha": 1, "q": None}
        for step, c_align in ((0, 1.5), (50, None), (100, 2.0))
        for level in ("core", "other")
    ]
    for name in ("standard", "alternating"):
        (tmp_path / name).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    given = (tmp_path / "standard", tmp_path / "alternating")
    written = ("--results", tmp_path / "alternation.json", "--picture", tmp_path / "figure.png")
    call(alternation.main, monkeypatch, *given, *written)
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    call(figures.main, monkeypatch, tmp_path / "alternation.json")
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| alternating"))
    assert [cell.strip() for cell in row.split("|")[2:-1]] == ["4.00", "0.50", "4.00", "0.50", "2.00", "1 of 2"]
    with pytest.raises(
        SystemExit, match="has no line of the level 'core-0', but of core, other: give another --level"
    ):
        call(alternation.main, monkeypatch, *given, *written, "--level", "core-0")


def test_a_file_of_no_figure_is_refused(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=r"other\.json has no table: give a file named subnets\.json, dropout\.json"):
        call(figures.main, monkeypatch, tmp_path / "other.json")


def test_reduced_images_are_averages(monkeypatch):
    parts = generated_images(train=20, test=10, size=8)[0]
    monkeypatch.setattr(dropout, "load_images", lambda **given: (parts, []))
    reduced = dropout.reduced_images("train", "test", 10, 4)
    assert {part: tuple(data.images.shape) for part, data in reduced.items()} == {
        "train": (10, 3, 4, 4),
        "test": (5, 3, 4, 4),
    }
    whole = dropout.reduced_images("train", "test", 20, 8)["train"].images
    assert torch.equal(whole.sum(), parts["train"].images.sum())
