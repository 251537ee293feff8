import math

import matplotlib.figure
import numpy as np
import pytest

from hf_ats.results import plot_training


@pytest.fixture
def figures(monkeypatch):
    """The figures that were saved, to look into."""
    saved = []
    save = matplotlib.figure.Figure.savefig

    def savefig(figure, *args, **kwargs):
        saved.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", savefig)
    return saved


@pytest.fixture
def log_history():
    """As the trainer logs it: training entries, evaluations, and the summary at the end."""
    history = []
    for step in range(10, 101, 10):
        history.append({"step": step, "loss": 3.0, "loss_core": 5 - step / 50, "loss_full": 4 - step / 50})
        if step % 50 == 0:
            evaluation = {
                f"eval_{level}_{score}": step / 10 for level in ("core", "full") for score in ("loss", "bleu")
            }
            history.append(evaluation | {"step": step, "eval_core_runtime": 1.0, "eval_core_gen_len": 9.0})
    return [*history, {"step": 100, "train_loss": 3.0, "train_runtime": 60.0}]


def drawn(axis):
    return {line.get_label(): line for line in axis.lines}


def test_each_panel_has_a_curve_for_each_level(figures, log_history, tmp_path):
    plot_training(log_history, tmp_path / "plots" / "training.png", title="a run")
    assert (tmp_path / "plots" / "training.png").read_bytes().startswith(b"\x89PNG")
    (figure,) = figures
    panels = {axis.get_title(): axis for axis in figure.axes}
    assert list(panels) == ["Training loss", "Validation loss", "Validation BLEU"]
    core = drawn(panels["Training loss"])["core"]
    assert core.get_xdata().tolist() == list(range(10, 101, 10))
    assert core.get_ydata().tolist() == [5 - step / 50 for step in range(10, 101, 10)]
    assert drawn(panels["Validation BLEU"])["full"].get_ydata().tolist() == [5, 10]
    assert figure.get_suptitle() == "a run"


def test_every_panel_is_labelled_and_levels_keep_their_colour(figures, log_history, tmp_path):
    plot_training(log_history, tmp_path / "training.png")
    for axis in figures[0].axes:
        assert axis.get_xlabel() == "optimizer step"
        assert "(" in axis.get_ylabel(), "the unit"
        assert [text.get_text() for text in axis.get_legend().get_texts()] == ["core", "full"]
    colors = [{name: line.get_color() for name, line in drawn(axis).items()} for axis in figures[0].axes]
    assert colors[0] == colors[1] == colors[2]
    assert colors[0]["core"] != colors[0]["full"]


def test_the_levels_of_a_ladder_have_colours_of_their_own(figures, tmp_path):
    names = ["core", "level1", "level2", "level3", "full"]
    history = [{"step": step, **{f"loss_{name}": 1.0 for name in reversed(names)}} for step in (1, 2)]
    plot_training(history, tmp_path / "training.png")
    lines = drawn(figures[0].axes[0])
    assert list(lines) == names
    assert len({line.get_color() for line in lines.values()}) == 5
    assert len({line.get_marker() for line in lines.values()}) == 5


def test_many_points_are_drawn_with_their_running_mean(figures, tmp_path):
    noise = np.random.default_rng(0).normal(size=400)
    plot_training([{"step": i, "loss_core": value} for i, value in enumerate(noise)], tmp_path / "training.png")
    raw, smooth = figures[0].axes[0].lines
    assert raw.get_ydata().tolist() == noise.tolist()
    assert smooth.get_label() == "core"
    assert smooth.get_ydata()[200] == pytest.approx(noise[190:211].mean())
    assert smooth.get_ydata()[0] == pytest.approx(noise[:11].mean())


def test_a_diverged_loss_leaves_a_gap(figures, tmp_path):
    history = [{"step": i, "loss_core": value} for i, value in enumerate([2.0, float("nan"), None, 1.0])]
    plot_training(history, tmp_path / "training.png")
    values = figures[0].axes[0].lines[0].get_ydata()
    assert [math.isnan(value) for value in values] == [False, True, True, False]


def test_nothing_to_draw_is_said(tmp_path):
    with pytest.raises(ValueError, match="log_history has 1 entries and none of loss_<level>"):
        plot_training([{"step": 1, "train_loss": 2.0}], tmp_path / "training.png")
    assert not list(tmp_path.iterdir())
