import copy
import json
import statistics

import pytest

from hf_ats.results import build_results, render_comparison, update_marked_block, write_results
from tests.results.test_results import LEVEL, SECTIONS
from tests.support.scripts import run_here


def scored(bleu):
    return LEVEL | {"bleu": bleu, "chrf": bleu + 20}


def write_run(directory, name, **changes):
    """A results.json; `changes` are fields of `training` or whole sections."""
    sections = copy.deepcopy(SECTIONS)
    for key, value in changes.items():
        if key in ("schedule", "epochs", "flops", "seconds", "arguments"):
            sections["training"][key] = value
        else:
            sections[key] = value
    path = directory / name / "results.json"
    write_results(path, build_results(**sections, command=f"python scripts/train_translation.py --output_dir {name}"))
    return path


@pytest.fixture
def runs(tmp_path):
    """The four rows of the paper's comparison."""
    seeds = [
        write_run(
            tmp_path,
            f"joint-{seed}",
            seed=seed,
            levels={"core": scored(bleu), "full": scored(bleu + 5)},
            arguments={"seed": seed, "output_dir": f"joint-{seed}", "max_tokens": 4096},
        )
        for seed, bleu in ((1, 21.0), (2, 23.0))
    ]
    return [
        write_run(tmp_path, "full", schedule="full", partition=None, levels={"full": scored(28.4)}, flops=5e12),
        write_run(tmp_path, "core", schedule="core", levels={"core": scored(24.3)}),
        *seeds,
        write_run(tmp_path, "twice", epochs=4, levels={"core": scored(26.1), "full": scored(31.6)}),
    ]


def tables_of(markdown):
    tables = []
    for block in markdown.split("\n\n"):
        if block.startswith("|"):
            header, _, *rows = ([cell.strip() for cell in line[1:-1].split("|")] for line in block.splitlines())
            tables.append([dict(zip(header, row, strict=True)) for row in rows])
    return tables


def table_of(markdown):
    (table,) = tables_of(markdown)
    return table


def test_one_row_for_each_kind_of_run_in_the_order_of_the_files(runs):
    full, core, joint, twice = table_of(render_comparison(runs))
    assert [row["training"] for row in (full, core, joint, twice)] == [
        "full alone",
        "core alone",
        "alternating",
        "alternating",
    ]
    assert [row["r"] for row in (full, core, joint, twice)] == ["-", "0.125", "0.125", "0.125"]
    assert [row["epochs"] for row in (full, core, joint, twice)] == ["2", "2", "2", "4"]
    assert (full["core BLEU"], full["full BLEU"], full["full chrF"]) == ("-", "28.40", "48.40")
    assert (core["core BLEU"], core["core chrF"], core["full BLEU"]) == ("24.30", "44.30", "-")
    assert (full["training FLOPs (T)"], core["training FLOPs (T)"]) == ("5.0", "1.0")
    assert list(full)[4:] == [
        *("core BLEU", "core chrF", "full BLEU", "full chrF"),
        "training FLOPs (T)",
    ]


def test_seeds_share_a_row(runs):
    _, core, joint, _ = table_of(render_comparison(runs))
    deviation = f"{statistics.stdev([21, 23]):.2f}"
    assert joint["seeds"] == "2"
    assert joint["core BLEU"] == f"22.00 ({deviation})"
    assert joint["full chrF"] == f"47.00 ({deviation})"
    assert (core["seeds"], core["core BLEU"]) == ("1", "24.30")


def test_runs_that_differ_in_more_than_the_seed_do_not_share_a_row(tmp_path):
    base = {"arguments": {"seed": 1, "learning_rate": 1e-3}, "seed": 1}
    other = {"arguments": {"seed": 2, "learning_rate": 2e-3}, "seed": 2}
    first = write_run(tmp_path, "first", **base)
    rows = table_of(render_comparison([first, write_run(tmp_path, "second", **other)]))
    assert [row["training"] for row in rows] == [
        "alternating (learning_rate=0.001)",
        "alternating (learning_rate=0.002)",
    ]
    other["arguments"] |= {"learning_rate": 1e-3, "alternate_lr_coef": "auto"}
    rows = table_of(render_comparison([first, write_run(tmp_path, "second", **other)]))
    assert [row["training"] for row in rows] == ["alternating", "alternating (alternate_lr_coef=auto)"]
    del other["arguments"]["alternate_lr_coef"]
    calibrated = write_run(tmp_path, "second", **other, model=SECTIONS["model"] | {"calibration_sentences": "a.de"})
    rows = table_of(render_comparison([first, calibrated]))
    assert [row["training"] for row in rows] == ["alternating", "alternating (calibration_sentences=a.de)"]
    assert len(table_of(render_comparison([first, write_run(tmp_path, "second", **other)]))) == 1
    with_ratio = write_run(tmp_path, "second", **other, partition={"method": "rank", "ratios": [0.25]})
    assert [row["r"] for row in table_of(render_comparison([first, with_ratio]))] == ["0.125", "0.25"]


def test_how_a_run_was_watched_and_interrupted_does_not_part_seeds(tmp_path):
    watched = {"resume_from_checkpoint": "x", "save_steps": 5, "eval_strategy": "epoch", "do_eval": True}
    watched |= {"disable_tqdm": True, "save_total_limit": 1}
    first = write_run(tmp_path, "first", seed=1, arguments={"seed": 1})
    second = write_run(tmp_path, "second", seed=2, arguments={"seed": 2, **watched})
    assert len(table_of(render_comparison([first, second]))) == 1
    second = write_run(tmp_path, "second", seed=2, arguments={"seed": 2, "load_best_model_at_end": True})
    assert len(table_of(render_comparison([first, second]))) == 2


def test_the_test_set_goes_by_its_text_and_other_training_data_are_another_row(tmp_path):
    def data(name, fingerprint):
        return {"source_lang": "de", "target_lang": "en", "name": name, "test": 9, "test_fingerprint": fingerprint}

    first = write_run(tmp_path, "first", seed=1, data=data("here/train", "a"))
    second = write_run(tmp_path, "second", seed=2, data=data("there/train", "a"))
    assert len(table_of(render_comparison([first, second]))) == 2
    second = write_run(tmp_path, "second", seed=2, data=data("here/train", "b"))
    with pytest.raises(ValueError, match=r"data of .*second/results.* differ, .*'b'.*'a'"):
        render_comparison([first, second])
    # Of an earlier version, whose files do not have it.
    old = data("here/train", "a")
    del old["test_fingerprint"]
    assert len(table_of(render_comparison([first, write_run(tmp_path, "second", seed=2, data=old)]))) == 1


LADDER = {"method": "rank", "ratios": [0.03125, 0.125, 0.25]}
LEVELS = {name: scored(bleu) for name, bleu in (("core", 1), ("level1", 2), ("level2", 3), ("full", 4))}


def test_ladders_have_a_table_of_their_own_with_a_row_for_each_level(runs, tmp_path):
    one = write_run(tmp_path, "ladder", partition=LADDER, levels=LEVELS, flops=3e12)
    two = write_run(tmp_path, "ladder-twice", partition=LADDER, levels=LEVELS, epochs=4, schedule="slimmable")
    without = render_comparison(runs)
    first, second = tables_of(render_comparison([runs[0], one, *runs[1:], two]))
    assert first == table_of(without), "the runs with one core are as they were"
    assert [row["level"] for row in second] == ["core", "level1", "level2", "full"] * 2
    assert [row["r"] for row in second] == ["0.03125", "0.125", "0.25", "-"] * 2
    assert [row["BLEU"] for row in second] == ["1.00", "2.00", "3.00", "4.00"] * 2
    assert {row["parameters"] for row in second} == {f"{LEVEL['parameters']:,}"}
    assert [row["training of a ladder"] for row in second] == ["alternating", "", "", "", "slimmable", "", "", ""]
    assert [row["epochs"] for row in second] == ["2", "", "", "", "4", "", "", ""]
    assert [row["training FLOPs (T)"] for row in second][:2] == ["3.0", ""]
    assert [table_of(render_comparison([one, two]))] == [second], "and stand alone"


def test_seeds_of_a_ladder_share_its_rows_and_levels_that_were_not_trained_have_none(tmp_path):
    other = LEVELS | {"level1": scored(5)}
    ladders = [
        write_run(tmp_path, name, partition=LADDER, levels=levels, seed=seed)
        for name, levels, seed in (("one", LEVELS, 1), ("two", other, 2))
    ]
    rows = table_of(render_comparison(ladders))
    assert [row["seeds"] for row in rows] == ["2", "", "", ""]
    assert rows[1]["BLEU"] == f"3.50 ({statistics.stdev([2, 5]):.2f})"
    core = write_run(tmp_path, "core", partition=LADDER, schedule="core", levels={"core": scored(7)})
    (row,) = table_of(render_comparison([core]))
    assert (row["training of a ladder"], row["level"], row["r"]) == ("core alone", "core", "0.03125")


def test_the_width_of_a_core_is_told_from_its_rank(runs, tmp_path):
    width = {"method": "width", "ratios": [0.125]}
    joint = write_run(tmp_path, "width", partition=width, levels={"core": scored(20), "full": scored(22)})
    levels = {name: LEVELS[name] for name in ("core", "level1", "full")}
    ladder = write_run(tmp_path, "ladder", partition=width | {"ratios": [0.125, 0.25]}, levels=levels)
    comparison = render_comparison([runs[1], joint, ladder])
    first, second = tables_of(comparison)
    assert [row["r"] for row in first] == ["0.125", "width 0.125"]
    assert [row["r"] for row in second] == ["width 0.125", "width 0.25", "-"]
    assert comparison.count('after "width"') == 1
    for targets, shown in (
        (["fc1", "fc2"], "fc1, fc2"),
        ({"up": "out", "down": "in"}, "up, down"),
        (".*fc1", r".\*fc1"),
    ):
        some = write_run(tmp_path, "some", partition=width | {"target_modules": targets}, levels={"core": scored(20)})
        assert [row["r"] for row in table_of(render_comparison([joint, some]))] == [
            "width 0.125",
            f"width 0.125 ({shown})",
        ]
    assert "width" not in render_comparison(runs)


@pytest.mark.parametrize(("ranks", "shown"), [({"fc1": 8, "fc2": 8}, "rank 8"), ({"a": 8, "b": 4}, "ranks 4 to 8")])
def test_ranks_of_their_own_stand_where_a_ratio_would(ranks, shown, tmp_path):
    partition = {"method": "rank", "ratios": [], "ranks": ranks, "target_modules": None}
    run = write_run(tmp_path, "ranks", partition=partition, levels={"core": scored(20), "full": scored(22)})
    (row,) = table_of(render_comparison([run]))
    assert row["r"] == shown


def test_layers_and_the_parts_of_a_composition_stand_where_a_ratio_would(tmp_path):
    depth = {"method": "depth", "ratios": [], "decoder_layers": [1, [0, 5]]}
    levels = {name: LEVELS[name] for name in ("core", "level1", "full")}
    ladder = write_run(tmp_path, "depth", partition=depth, levels=levels)
    parts = [depth | {"decoder_layers": [2], "encoder_layers": [3]}]
    parts += [
        {"method": "width", "ratios": [0.5], "target_modules": ["fc1", "fc2"]},
        {"method": "rank", "ratios": [0.25]},
    ]
    both = {name: LEVELS[name] for name in ("core", "full")}
    composed = write_run(tmp_path, "composed", partition={"parts": parts}, levels=both)
    first, second = tables_of(render_comparison([ladder, composed]))
    assert [row["r"] for row in first] == ["3 encoder and 2 decoder layers, width 0.5 (fc1, fc2), rank 0.25"]
    assert [row["r"] for row in second] == ["1 decoder layer", "2 decoder layers", "-"]


def test_signatures_decoding_and_commands_stand_below(runs):
    comparison = render_comparison(runs)
    assert comparison.count(LEVEL["bleu_signature"]) == comparison.count(LEVEL["chrf_signature"]) == 1
    assert "Decoding: num_beams=1." in comparison
    for run in runs:
        assert f"python scripts/train_translation.py --output_dir {run.parent.name}\n" in comparison
    assert "train_translation" not in render_comparison(runs, commands=False)


def test_flags_that_all_commands_share_are_written_once(runs, tmp_path):
    for number, run in enumerate(runs):
        results = json.loads(run.read_text())
        results["command"] = (
            f"python train.py --output_dir {number} --data /somewhere/text --epochs 2 4 --seed {number}"
        )
        write_results(run, results)
    comparison = render_comparison(runs, replace={"/somewhere": "data"})
    assert 'SHARED="--data data/text --epochs 2 4"' in comparison
    for number in range(len(runs)):
        assert f"python train.py $SHARED --output_dir {number} --seed {number}\n" in comparison


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"levels": {"core": LEVEL | {"bleu_signature": "nrefs:1|case:lc|tok:13a"}}}, "scores"),
        ({"generation": {"num_beams": 5}}, "decoding"),
        ({"data": {"source_lang": "de", "target_lang": "en", "test": 13}}, "data"),
        ({"data": {"source_lang": "de", "target_lang": "en", "test": 12, "name": "another"}}, "data"),
        ({"data": {"source_lang": "de", "target_lang": "en", "test": 12, "test_part": "validation"}}, "data"),
    ],
)
def test_scores_that_do_not_compare_are_refused(runs, tmp_path, changes, what):
    other = write_run(tmp_path, "other", **changes)
    with pytest.raises(ValueError, match=rf"{what} of .*other/results\.json and .*full/results\.json differ"):
        render_comparison([*runs, other])


def test_the_same_run_twice_is_refused(runs, tmp_path):
    with pytest.raises(ValueError, match=r"differ in nothing, with the seeds \[3, 3\]"):
        render_comparison([*runs, write_run(tmp_path, "copy", schedule="core", levels={"core": scored(24.3)})])
    with pytest.raises(ValueError, match="result_files is empty"):
        render_comparison([])


README = "# Title\n\n<!-- begin runs -->\nold\n<!-- end runs -->\n\nafter\n"


def test_the_marked_block_is_replaced_and_the_rest_left(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(README)
    assert update_marked_block(path, "| new |")
    assert path.read_text() == "# Title\n\n<!-- begin runs -->\n\n| new |\n\n<!-- end runs -->\n\nafter\n"
    assert not update_marked_block(path, "| new |\n"), "nothing to change"


@pytest.mark.parametrize(
    "text",
    ["no marks", "<!-- begin runs -->", "<!-- end runs --><!-- begin runs -->", README + README],
    ids=["none", "one", "reversed", "twice"],
)
def test_wrong_marks_are_refused_and_the_file_left(tmp_path, text):
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"README\.md has \d times '<!-- begin runs -->' and \d times"):
        update_marked_block(path, "new")
    assert path.read_text() == text


def test_the_script_prints_updates_and_explains(runs, tmp_path, monkeypatch, capsys):
    run_here("compare_runs.py", *runs, monkeypatch=monkeypatch)
    assert capsys.readouterr().out.strip() == render_comparison(runs)

    path = tmp_path / "README.md"
    path.write_text(README)
    run_here("compare_runs.py", *runs, "--no_commands", "--update", path, monkeypatch=monkeypatch)
    assert render_comparison(runs, commands=False) in path.read_text()
    assert "README.md is updated" in capsys.readouterr().err

    with pytest.raises(SystemExit, match=r"compare_runs\.py: .*begin other"):
        run_here("compare_runs.py", *runs, "--update", path, "--block", "other", monkeypatch=monkeypatch)
    with pytest.raises(SystemExit, match=r"missing\.json"):
        run_here("compare_runs.py", tmp_path / "missing.json", monkeypatch=monkeypatch)


def test_what_only_measures_or_spells_the_schedule_makes_no_row_of_its_own(tmp_path):
    def rows(*arguments):
        runs = [
            write_run(tmp_path, f"{number}", seed=number, schedule="full full core", arguments=given)
            for number, given in enumerate(arguments)
        ]
        return [row["training"] for row in table_of(render_comparison(runs))]

    pattern = {"schedule_pattern": ["full", "full", "core"]}
    assert rows(pattern, {"schedule": "full full core", "criteria_steps": 5}) == ["full full core"]
    auto = {"alternate_lr_coef": "auto"}
    assert len(rows(auto | {"criteria_steps": 5}, auto)) == 2
