"""Tables of runs on images."""

import copy
import json

import pytest

from examples.image_classification import render_run
from hf_ats.results import build_results, read_results, render_comparison, write_results
from tests.results.test_results import SECTIONS


def results(schedule="alternating", seed=1, core=70.0, full=80.0, **data) -> dict:
    def level(accuracy):
        return {"parameters": 1000, "size_bytes": 4100, "flops_per_image": 10**7, "accuracy": accuracy}

    levels = {"core": level(core), "full": level(full)}
    if schedule == "full":
        del levels["core"]
    return build_results(
        task="image-classification",
        levels=levels,
        seed=seed,
        model={"name": "cifar-resnet", "width": 16, "depths": [1, 1]},
        partition=None if schedule == "full" else {"method": "width", "ratios": [0.5]},
        data={
            "test_fingerprint": "abc",
            "image_shape": [3, 32, 32],
            "split_seed": 0,
            "padding": 4,
            "mirror": True,
            "train": 45000,
            "validation": 5000,
            "test": 10000,
            **data,
        },
        training={
            "schedule": schedule,
            "epochs": 2.0,
            "steps": 10,
            "flops": 5 * 10**12,
            "epoch_forward_flops": 1.25e12,
            "seconds": 1.0,
        },
        command=f"python -m examples.image_classification.train --schedule {schedule} --train_file /data/train",
    )


@pytest.fixture
def write(tmp_path):
    def write(*runs):
        files = []
        for run in runs:
            files.append(tmp_path / f"{len(list(tmp_path.iterdir()))}.json")
            write_results(files[-1], run)
        return files

    return write


def rows_of(table: str) -> list[list[str]]:
    lines = table.split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_each_kind_of_training_is_a_row(write):
    table = render_comparison(
        write(results("full"), results(), results("slimmable", core=71.5)), replace={"/data": "data"}
    )
    assert rows_of(table)[0] == [
        *("training", "r", "seeds", "epochs", "core accuracy (%)", "full accuracy (%)"),
        *("forward FLOPs per epoch (T)", "training FLOPs (T)"),
    ]
    assert rows_of(table)[2:] == [
        ["full alone", "-", "1", "2", "-", "80.00", "1.250", "5.0"],
        ["alternating", "width 0.5", "1", "2", "70.00", "80.00", "1.250", "5.0"],
        ["slimmable", "width 0.5", "1", "2", "71.50", "80.00", "1.250", "5.0"],
    ]
    assert "the share that it keeps of the channels" in table and "BLEU" not in table
    assert "--schedule slimmable\n" in table and 'SHARED="--train_file data/train"' in table


def test_seeds_share_a_row(write):
    table = render_comparison(
        write(results(seed=1, core=70), results(seed=2, core=72), results("full")), commands=False
    )
    assert rows_of(table)[2][:6] == ["alternating", "width 0.5", "2", "2", "71.00 (1.41)", "80.00 (0.00)"]
    assert "commands" not in table


def test_runs_that_do_not_compare_are_refused_or_have_rows_of_their_own(write):
    first, second = write(results("full"), results(test_fingerprint="xyz"))
    with pytest.raises(ValueError, match=rf"data of {second} and {first} differ"):
        render_comparison([first, second])
    wider = results()
    wider["model"]["width"] = 64
    for changed in (results(train=100), results(split_seed=1), wider):
        assert len(rows_of(render_comparison(write(results(), changed)))) == 4


def test_other_epochs_are_another_row(write):
    longer = results()
    longer["training"]["epochs"] = 4.0
    table = render_comparison(write(results(), longer))
    assert [row[3] for row in rows_of(table)[2:]] == ["2", "4"]


def test_a_seed_twice_is_refused(write):
    with pytest.raises(ValueError, match=r"differ in nothing, with the seeds \[1, 1\]; give"):
        render_comparison(write(results(), results()))
    with pytest.raises(ValueError, match="result_files is empty"):
        render_comparison([])


def test_results_of_one_task_are_no_table_of_the_other(write, tmp_path):
    file, of_text = write(results(), build_results(**SECTIONS))
    with pytest.raises(ValueError, match=rf"tasks of {of_text} and {file} differ, translation and image-class"):
        render_comparison([file, of_text])
    with pytest.raises(ValueError, match="holds the results of image-classification, and these are tables of transl"):
        read_results(file)
    old = json.loads(file.read_text())
    del old["task"]
    file.write_text(json.dumps(old))
    with pytest.raises(ValueError, match="has no section 'generation'"):
        read_results(file, task="image-classification")


def test_a_level_or_a_training_without_its_figures_is_refused():
    run = results()
    for section, field in (("training", "epoch_forward_flops"), ("levels", "accuracy")):
        broken = copy.deepcopy(run)
        del (broken[section]["core"] if section == "levels" else broken[section])[field]
        with pytest.raises(ValueError, match=f"lacks {field}"):
            write_results("never.json", broken)


def test_another_task_is_refused():
    run = results() | {"task": "speech"}
    with pytest.raises(ValueError, match="task='speech' is not known; write one of translation, image-classification"):
        write_results("never.json", run)


def test_one_run_is_a_row_for_each_network():
    text = render_run(results())
    assert text.splitlines()[2].split() == ["core", "1,000", "0.00", "10.00", "70.00"]
    assert "10,000 test images" in text and "An epoch of 45,000 images runs 1.25e12 FLOPs forward" in text
    assert render_run(results(), "markdown").startswith("| network |")
