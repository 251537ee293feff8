"""Tables of a grid that is half done, and the grids that are committed."""

import base64
import copy
import json
import statistics
import zlib

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from experiments import grids
from experiments.curves import plot_scores
from experiments.table import _difference
from hf_ats.partition import FlopsLedger, blank_sentences, num_levels, partition_
from hf_ats.results import read_results
from hf_ats.training.schedules import kinds_of_steps
from tests.support.models import tiny_model


@pytest.fixture
def recorded(half_done):
    """Two runs of the first seed are done, and one of the second, as if it had scored two points more."""
    half_done.run("--jobs", 0)
    record = json.loads((half_done.records / "alternating-seed1.json").read_text())
    record["seed"] = record["training"]["arguments"]["seed"] = 2
    for level in record["levels"].values():
        level["bleu"] += 2
    (half_done.records / "alternating-seed2.json").write_text(json.dumps(record))
    return half_done


def rows_of(text: str) -> list[dict[str, str]]:
    header, _, *rows = (
        [cell.strip() for cell in line[1:-1].split("|")] for line in text.split("\n\n")[0].splitlines()
    )
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_what_is_there_stands_beside_the_papers_figures_and_what_is_missing_is_said(recorded, capsys):
    capsys.readouterr()
    recorded.table()
    text = capsys.readouterr().out
    full, alternating = rows_of(text)
    assert (full["training"], full["seeds"], full["paper's full"], full["paper's core"]) == (
        *("full alone", "1", "32.48 (0.32)", "-"),
    )
    first, second = (read_results(recorded.records / f"alternating-seed{seed}.json")["levels"] for seed in (1, 2))
    bleu = [one["full"]["bleu"] for one in (first, second)]
    assert alternating["seeds"] == "2" and alternating["paper's core"] == "24.03 (0.77)"
    assert alternating["full BLEU"] == f"{statistics.mean(bleu):.2f} ({statistics.stdev(bleu):.2f})"
    assert "Not done yet: full (seed 2), core (seeds 1, 2)." in text
    # The core that it compares with is not there, nor the full network of the second seed.
    assert alternating["core − alone, by seed"] == "?; ?" and full["full − alone, by seed"] == "-"
    alone = read_results(recorded.records / "full-seed1.json")["levels"]["full"]["bleu"]
    known, unknown = alternating["full − alone, by seed"].split("; ")
    assert known.startswith(f"{bleu[0] - alone:+.2f} (p ") and unknown == "?"
    assert "python experiments/run.py tiny-grid --scale small --data data" in text


def test_a_difference_is_significant_where_every_sentence_is_better(recorded):
    alone, joint = (read_results(recorded.records / f"{name}-seed1.json") for name in ("full", "alternating"))
    counts = np.tile(np.array([9, 9, 9, 8, 7, 6, 9, 8, 7, 6]), (12, 1))
    for run, matches in ((joint, 0), (alone, 3)):
        rows = counts.copy()
        rows[:, 2:6] -= matches
        run["sentence_statistics"]["full"] = pack(rows)
    difference, p = _difference(joint, alone, "full").rstrip(")").split(" (p ")
    assert float(difference) > 10 and float(p) < 0.01
    difference, p = _difference(alone, alone, "full").split(" (p ")
    assert float(difference) == 0 and p == "1.000)"


def pack(rows) -> str:
    return base64.b64encode(zlib.compress(rows.astype("<u2").tobytes())).decode()


def test_the_table_goes_into_a_page_and_its_scores_into_a_picture(recorded, capsys):
    page, picture = recorded.folder / "page.md", recorded.folder / "scores.png"
    page.write_text("# Page\n\n<!-- begin tiny -->\n<!-- end tiny -->\n")
    recorded.table("--update", page, "--block", "tiny", "--plot", picture)
    assert "full alone" in page.read_text() and "page.md is updated" in capsys.readouterr().err
    drawn = np.asarray(Image.open(picture).convert("L"))
    assert drawn.shape[0] > 300 and (drawn < 128).mean() > 0.005
    recorded.table("--update", page, "--block", "tiny")
    assert "page.md is up to date" in capsys.readouterr().err


def test_a_picture_has_a_curve_for_each_method_and_network(recorded, tmp_path, monkeypatch):
    labels, draw = [], Axes.errorbar
    monkeypatch.setattr(Axes, "errorbar", lambda *a, **k: labels.append((k["label"], len(a[1]))) or draw(*a, **k))
    run = read_results(recorded.records / "alternating-seed1.json")
    half = copy.deepcopy(run)
    half["partition"]["ratios"] = [0.5]
    width = copy.deepcopy(run)
    width["partition"]["method"] = "width"
    alone = copy.deepcopy(run)
    alone["training"]["schedule"] = "core"
    del alone["levels"]["full"]
    plot_scores({"a": {1: run}, "b": {1: half}, "c": {1: width}, "d": {1: alone}}, tmp_path / "x.png", "title")
    assert labels == [
        ("core by rank, alternating", 2),
        ("full by rank, alternating", 2),
        ("core by width, alternating", 1),
        ("full by width, alternating", 1),
        ("core by rank, alone", 1),
    ]


def test_a_record_of_another_recipe_and_an_empty_grid_are_refused(recorded):
    recipe = recorded.folder / "tiny.yaml"
    recipe.write_text(recipe.read_text().replace("learning_rate: 1e-3", "learning_rate: 2e-3"))
    with pytest.raises(SystemExit, match=r"full-seed1\.json is of a run with learning_rate 0.001, and tiny-grid asks"):
        recorded.table()
    for record in recorded.records.iterdir():
        record.unlink()
    with pytest.raises(SystemExit, match=r"no run of tiny-grid is done at scale small; python experiments/run\.py"):
        recorded.table()


def test_a_row_of_equal_cost_says_how_equal_and_one_that_is_deployed_what_it_takes(recorded, capsys):
    grid = recorded.grid.read_text()
    extra = "equal_cost: {alternating: [full], core: [full, alternating]}\nformats: [onnx]\npaper:\n  full"
    recorded.grid.write_text(grid.replace("paper:\n  full", extra, 1))
    run = read_results(recorded.records / "alternating-seed1.json")
    flops = [
        read_results(recorded.records / f"{name}-seed1.json")["training"]["flops"] for name in ("alternating", "full")
    ]
    found = {"format": "onnx", "runtime": "onnxruntime 1", "tokens": 9, "machine": {"processor": "a processor"}}
    full = found | {"partition": None, "size_bytes": 2_000_000, "share": 1.01, "full_ms": 8.0}
    core = found | {"partition": run["partition"], "size_bytes": 1_500_000, "share": 0.5, "full_ms": 9.0}
    rows = {}
    for name, measured in (("none", []), ("some", [full, core])):
        (recorded.records / "deployed.json").write_text(json.dumps({"measured": measured}))
        capsys.readouterr()
        recorded.table()
        text = capsys.readouterr().out
        rows[name] = rows_of(text)
    alone, joint = rows["some"]
    assert alone["FLOPs / equal cost"] == "-" and joint["FLOPs / equal cost"] == f"{flops[0] / flops[1]:.2f}"
    # The run of equal cost is the one that trained full alone; none trained the core.
    assert joint["full − equal cost, by seed"] == joint["full − alone, by seed"] != "-"
    assert joint["core − equal cost, by seed"] == alone["full − equal cost, by seed"] == "-"
    assert (alone["core, onnx int8"], alone["full, onnx int8"]) == ("-", "2.0 MB, 8.0 ms")
    assert (joint["core, onnx int8"], joint["full, onnx int8"]) == ("1.5 MB, 4.0 ms (0.50)", "2.0 MB, 8.0 ms")
    assert all(row[f"{level}, onnx int8"] == "-" for row in rows["none"] for level in ("core", "full"))
    assert "onnxruntime 1 on a processor, 9 tokens" in text
    assert "python experiments/deployed.py tiny-grid --scale small --data data" in text


# ---- The committed grids ----


@pytest.mark.parametrize("path", sorted(grids.GRIDS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_grid_is_read_by_its_trainer_at_every_scale(path, tmp_path):
    text = path.read_text(encoding="utf-8")
    for scale in ("small", "paper"):
        if f"\n  {scale}: #" in text:
            grid = grids.load_grid(path.stem, scale, tmp_path)
            assert len(grid.runs) == 3 * len(grid.flags)
            for run in grid.runs[: len(grid.flags)]:
                run.check()


def test_the_small_runs_of_all_tables_of_text_are_of_one_recipe_whose_learning_rate_ends_at_zero(tmp_path):
    for name in ("tables-1a-2a", "tables-1b-2b", "schedules", "cores", "upcycling"):
        grid = grids.load_grid(name, "small", tmp_path)
        assert grid.pool == "multi30k"
        args = grid.runs[0].flags[2]
        assert args.lr_scheduler_type == "linear" and args.num_train_epochs == 10 and not args.bf16
    images = grids.load_grid("table-3", "small", tmp_path).runs[0].flags[2]
    assert images.lr_scheduler_type == "cosine"


@pytest.mark.parametrize("name", ["cores", "upcycling"])
def test_runs_that_are_to_cost_the_same_train_as_many_flops(name, tmp_path):
    grid = grids.load_grid(name, "small", tmp_path)
    batch = blank_sentences(100, 20, 20)  # about what a batch of Multi30k holds; the ratios hardly depend on it

    costs: dict[str, list[int]] = {}

    def of_levels(run) -> list[int]:
        model = tiny_model("marian", vocab_size=2000, d_model=128, encoder_ffn_dim=512, decoder_ffn_dim=512, **LAYERS)
        if partition := run.flags[3]:
            partition_(model, partition)
        ledger = FlopsLedger(model)
        return [ledger.training_flops(batch, level) for level in range(num_levels(model))]

    def flops(run) -> float:
        args, of_level = run.flags[2], costs.get(str(run.shape)) or costs.setdefault(str(run.shape), of_levels(run))
        steps = kinds_of_steps(args.schedule, len(of_level))
        return args.num_train_epochs * statistics.mean(of_level[level] for (level,) in steps)

    assert grid.equal_cost
    for own, others in grid.equal_cost.items():
        there = sum(flops(grid.run(other, 1)) for other in others)
        assert flops(grid.run(own, 1)) == pytest.approx(there, rel=0.01)


LAYERS = dict(encoder_layers=3, decoder_layers=3)


def test_the_papers_figures_are_those_of_its_tables():
    paper = {name: grids.load_grid(name, "paper", None).paper for name in ("tables-1a-2a", "tables-1b-2b", "table-3")}
    assert paper["tables-1a-2a"]["alternating-0.03125"] == {"core": "24.03 (0.77)", "full": "31.20 (0.58)"}
    assert paper["tables-1b-2b"]["width-alternating-0.03125"] == {"core": "20.08 (0.40)", "full": "25.46 (0.17)"}
    assert paper["table-3"]["slimmable"] == {"core": "93.99", "full": "94.72", "forward FLOPs per epoch (T)": "62.7"}
