"""The page on performance shows what the files say, and no figure of it is typed by hand."""

import shutil
from pathlib import Path

import pytest

from benchmarks.page import GOALS, plot_goals, plot_steps, record_files, render_goals, update_page
from benchmarks.record import build_record, write_record

REPOSITORY = Path(__file__).parents[2]
CORE, SENT = "core step / stock step", "bytes of a core step / bytes of a full step, DDP"
PROFILE = {"attention": 0.25, "dropout": 0.75}


def record(ratios, measurements=None):
    return build_record("x", settings={}, measurements=measurements or {"a": {"steps": 1}}, ratios=ratios)


def test_the_page_of_this_repository_is_rendered_from_its_records(tmp_path):
    page = REPOSITORY / "docs" / "performance.md"
    copy = Path(shutil.copy(page, tmp_path / "page.md"))
    records = record_files(REPOSITORY / "benchmarks" / "results")
    assert len(records) >= 4
    assert not update_page(copy, records)
    for picture in ("performance-goals.png", "training-steps.png"):
        assert picture in page.read_text(encoding="utf-8") and page.with_name(picture).is_file()


def test_what_varies_a_record_comes_after_it(tmp_path):
    for name in ("training-no-dropout", "training", "epoch"):
        (tmp_path / f"{name}.json").touch()
    assert [file.stem for file in record_files(tmp_path)] == ["epoch", "training", "training-no-dropout"]


def test_a_record_fills_its_block(tmp_path):
    write_record(tmp_path / "training.json", record({CORE: dict(median=0.5, low=0.4, high=0.6)}))
    page = tmp_path / "page.md"
    page.write_text("<!-- begin goals -->\n<!-- end goals -->\n<!-- begin training -->\n<!-- end training -->\n")
    assert update_page(page, [tmp_path / "training.json"])
    assert not update_page(page, [tmp_path / "training.json"])
    goals, fast = page.read_text().split("<!-- end goals -->")
    assert CORE in goals and "0.400 to 0.600" in fast


def test_a_block_without_a_record_is_left_as_it_is(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- begin goals -->\n<!-- end goals -->\n<!-- begin fast -->\n<!-- end fast -->\n")
    write_record(tmp_path / "fast.json", record({}))
    assert update_page(page, [])
    assert page.read_text().endswith("<!-- begin fast -->\n<!-- end fast -->\n")
    assert update_page(page, [tmp_path / "fast.json"])


def test_a_record_without_a_block_is_refused(tmp_path):
    write_record(tmp_path / "slow.json", record({}))
    (tmp_path / "page.md").write_text("no blocks")
    with pytest.raises(ValueError, match="begin slow"):
        update_page(tmp_path / "page.md", [tmp_path / "slow.json"])


def test_a_goal_is_reached_or_not():
    core, sent = (next(goal for goal in GOALS if goal.ratio == ratio) for ratio in (CORE, SENT))
    spread = dict(median=core.most, low=0.4, high=0.6, limit=0.43)

    def reached(median, sent_share):
        records = {
            core.record: record({CORE: spread | {"median": median}}),
            sent.record: record({SENT: {"value": sent_share, "limit": 0.4}}),
            "another": record({CORE: spread | {"median": 0.0}}),
        }
        return [line.split("|")[-2].strip() for line in render_goals(records).splitlines()[2:]]

    assert reached(core.most, 0.404) == ["yes", "yes"]
    assert reached(0.9, 0.405) == ["no", "no"]


def test_the_pictures_are_drawn_or_refused(tmp_path):
    profiled = {"full step": {"seconds": dict(median=1.0, low=0.9, high=1.1), "profile": PROFILE}}
    plot_steps(record({}, profiled), tmp_path / "steps.png")
    plot_goals({"training": record({CORE: dict(median=0.5, low=0.4, high=0.6)})}, tmp_path / "goals.png")
    for name in ("steps.png", "goals.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="has no profile"):
        plot_steps(record({}), tmp_path / "none.png")
    with pytest.raises(ValueError, match="no record has a ratio with a goal"):
        plot_goals({"training": record({})}, tmp_path / "none.png")
