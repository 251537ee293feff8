import itertools
import json
import os
import re
import shlex
import shutil
import stat

import pytest

from hf_ats.checkpoint import ExportReport
from hf_ats.results import write_report_page
from hf_ats.results.page import render_report_page, wrap_command
from tests.support.pages import (
    ROOT,
    SENTENCES,
    Element,
    chart,
    facts,
    figures,
    history,
    parse_page,
    read,
    render,
    with_samples,
)
from tests.support.scripts import run_here


@pytest.fixture
def results() -> dict:
    return with_samples(read("experiments/results/one-seed/width-from-full.json"))


# ---- The page as a whole ----


def test_the_page_is_whole_and_refers_to_nothing_outside_itself(results):
    page = render(results)
    assert [child.name for child in page.children if isinstance(child, Element)] == ["html"]
    ids = [one["id"] for one in page.walk() if "id" in one.attributes]
    assert len(ids) == len(set(ids))
    for one in page.walk():
        assert one.name not in ("script", "img", "iframe", "object", "embed", "base", "form")
        assert not any(name.startswith("on") for name in one.attributes), one.attributes
        for name in ("href", "src", "xlink:href"):
            reference = one.attributes.get(name) or "#circle"
            assert reference == "data:," or (reference[0] == "#" and reference[1:] in ids), reference
        for name in one.attributes.get("aria-labelledby", "").split():
            assert name in ids
    style = page.find("style").text
    assert "url(" not in style and "@import" not in style and "http" not in style


def test_exports_for_runtimes_are_shown_where_they_lie(results, tmp_path):
    assert render(results).find_all("table", class_="deployed") == []
    (tmp_path / "results.json").write_text(json.dumps(results))
    for name in ("full-onnx-int8", "core-onnx"):
        shutil.copytree(ROOT / "benchmarks/results/deployment" / name, tmp_path / name)
    shutil.copytree(ROOT / "benchmarks/results/deployment" / "core-onnx", tmp_path / "other")
    (tmp_path / "other/export.json").unlink()
    page = parse_page(write_report_page(tmp_path).read_text(encoding="utf-8"))
    header, *rows = page.find("table", class_="deployed").find_all("tr")
    titles = [cell.words for cell in header.find_all("th")]
    shown = [[cell.words for cell in [*row.find_all("th"), *row.find_all("td")]] for row in rows]
    assert [row[:2] for row in shown] == [
        ["core", "PyTorch, beside ONNX Runtime"],
        ["core", "ONNX Runtime, float32"],
        ["full", "PyTorch, beside ONNX Runtime"],
        ["full", "ONNX Runtime, int8"],
    ]
    report = ExportReport.read(tmp_path / "full-onnx-int8")
    found = report.runtime["searches"]["beam 4"]
    last = dict(zip(titles, shown[-1], strict=True))
    assert last["size (MB)"] == f"{report.size_bytes / 1e6:.1f}"
    assert last["same as PyTorch, beam 4"] == f"{found['equal']:.1%}"
    assert last["BLEU, beam 4"] == f"{found['bleu']:.2f}"
    assert (
        last["ms a sentence, batch 32, beam 4"] == f"{1e3 * found['seconds_per_sentence']['batch 32']['runtime']:.1f}"
    )


def test_the_headings_go_down_by_one(results):
    headings = [int(one.name[1]) for one in render(results).walk() if re.fullmatch("h[1-6]", one.name)]
    assert headings[0] == 1 and headings.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(headings))


def test_the_same_files_give_the_same_page(results, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(results))
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": history()}))
    page = write_report_page(tmp_path)
    assert page == tmp_path / "report.html"
    once = page.read_bytes()
    assert write_report_page(str(tmp_path)).read_bytes() == once
    assert parse_page(once.decode()).find("h1").text == tmp_path.name
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(page.stat().st_mode) == 0o666 & ~umask
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "results.json", "trainer_state.json"}


def test_a_failure_leaves_the_page_that_was_there(results, tmp_path, monkeypatch):
    (tmp_path / "results.json").write_text(json.dumps(results))
    (tmp_path / "report.html").write_text("as it was")

    def full_disk(descriptor):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write_report_page(tmp_path)
    assert (tmp_path / "report.html").read_text() == "as it was"
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "results.json"}


@pytest.mark.parametrize(
    "file",
    sorted(ROOT.glob("experiments/results/*/*.json")),
)
def test_every_committed_result_has_a_page(file, tmp_path):
    (tmp_path / "results.json").write_bytes(file.read_bytes())
    page = parse_page(write_report_page(tmp_path).read_text(encoding="utf-8"))
    levels = json.loads(file.read_text())["levels"]
    assert [one.words for one in page.find("table", class_="figures").find_all("th", scope="col")[1:]] == list(levels)
    assert "Nothing was logged" in page.text and not page.find_all("figure")


# ---- Figures ----


def test_the_figures_are_those_of_the_results(results):
    core, full = results["levels"]["core"], results["levels"]["full"]

    def row(value_of, form):
        share = 100 * value_of(core) / value_of(full)
        return [f"{form.format(value_of(core))} {share:.0f}% of full", form.format(value_of(full))]

    assert figures(render(results)) == {
        "BLEU": row(lambda level: level["bleu"], "{:.2f}"),
        "chrF": row(lambda level: level["chrf"], "{:.2f}"),
        "Parameters": row(lambda level: level["parameters"], "{:,}"),
        "Weights on disk": row(lambda level: level["size_bytes"] / 1e6, "{:.2f}"),
        "FLOPs per token": row(lambda level: level["flops_per_token"] / 1e6, "{:,.2f}"),
        "Decoding speed": row(lambda level: level["decoding_speed"]["tokens_per_second"], "{:,.0f}"),
    }


def test_the_bars_are_as_long_as_the_figures_are_large(results):
    table = render(results).find("table", class_="figures")
    rows = {row.find_all("th")[0].children[0].strip(): row for row in table.find_all("tr")[1:]}
    lengths = [float(bar["width"].rstrip("%")) for bar in rows["Parameters"].find_all("rect", class_="part")]
    core, full = (results["levels"][level]["parameters"] for level in ("core", "full"))
    assert lengths == [pytest.approx(100 * core / full, abs=0.1), 100]


def test_the_sentence_at_the_top_says_what_the_run_came_to(results):
    results["levels"]["core"] |= {"bleu": 20.04, "parameters": 1, "flops_per_token": 2.0}
    results["levels"]["full"] |= {"bleu": 30.0, "parameters": 4, "flops_per_token": 200.0}
    results["levels"]["core"]["decoding_speed"]["tokens_per_second"] = 300.0
    results["levels"]["full"]["decoding_speed"]["tokens_per_second"] = 200.0
    assert render(results).find("p", class_="lede").text == (
        "The core scores 20.0 BLEU where the full network scores 30.0 BLEU, with 25% of its parameters and 1.0% of "
        "its FLOPs per token; it decodes 1.50 times as fast."
    )


def test_a_speed_that_was_not_measured_is_left_out_or_dashed(results):
    results["levels"]["core"]["decoding_speed"] = None
    page = render(results)
    assert figures(page)["Decoding speed"][0] == "-"
    assert "times as fast" not in page.find("p", class_="lede").text
    results["levels"]["full"]["decoding_speed"] = None
    page = render(results)
    assert "Decoding speed" not in figures(page) and "median of the repeats" not in page.text


def test_a_score_that_is_no_number_is_a_dash(results):
    results["levels"]["core"]["bleu"] = None
    page = render(results)
    assert figures(page)["BLEU"][0] == "-"
    assert "The core scores no finite score" in page.find("p", class_="lede").text


def test_one_network_alone_has_no_shares(tmp_path):
    results = read("experiments/results/one-seed/width-from-full.json")
    del results["levels"]["core"]
    page = render(results)
    assert all("of full" not in cell for cells in figures(page).values() for cell in cells)
    assert page.find("p", class_="lede").text.startswith("The full network scores")


def test_how_it_was_found_is_said(results):
    results["training"] |= {"resumed_from": "runs/x/checkpoint-10", "processes": 2, "seconds": 3725.0}
    results["card"] = {"license": "cc-by-4.0", "datasets": ["some/set"], "base_model": "some/model"}
    page = render(results)
    said = facts(page)
    level = results["levels"]["core"]
    assert said["BLEU, sacreBLEU"] == level["bleu_signature"]
    assert said["chrF, sacreBLEU"] == level["chrf_signature"]
    assert said["Decoding"] == "num_beams=1, max_length=128"
    assert said["Decoding speed"].startswith("median of the repeats; device=cpu, threads=1, dtype=float32")
    assert said["Sizes"] == "train 29,000; validation 1,014; test 1,000"
    assert said["Length"].endswith(" epochs, 1 h 2 min, 2 processes")
    assert (said["Went on from"], said["Seed"]) == ("runs/x/checkpoint-10", str(results["seed"]))
    assert (said["License"], said["Data sets"], said["Base model"]) == ("cc-by-4.0", "some/set", "some/model")
    assert said["learning_rate"] == "0.0005" and said["torch"] == results["versions"]["torch"]
    assert set(results["training"]["arguments"]) | set(results["versions"]) <= set(said)


@pytest.mark.parametrize(
    ("partition", "short", "long"),
    [
        (None, "no partition", "none"),
        ({"method": "rank", "ratios": [0.25]}, "rank ratio 0.25", "method=rank, ratios=[0.25]"),
        ({"method": "width", "ratios": [0.25, 0.5]}, "width ratios 0.25, 0.5", "method=width, ratios=[0.25, 0.5]"),
        (
            {"method": "rank", "ratios": [], "ranks": {f"layers.{number}.fc1": number + 4 for number in range(50)}},
            "ranks 4 to 53",
            "method=rank, ranks=4 to 53 in 50 modules",
        ),
        (
            {"method": "depth", "ratios": [], "decoder_layers": [1, [0, 5]], "encoder_layers": None},
            "1 decoder layer, 2 decoder layers",
            "method=depth, decoder_layers=[1, [0, 5]]",
        ),
        (
            {
                "parts": [
                    {"method": "depth", "ratios": [], "decoder_layers": [1], "encoder_layers": [3]},
                    {"method": "width", "ratios": [0.5]},
                ]
            },
            "3 encoder and 1 decoder layer; width ratio 0.5",
            "method=depth, decoder_layers=[1], encoder_layers=[3]; method=width, ratios=[0.5]",
        ),
        ({"method": "rank", "ranks": {"fc1": 8, "fc2": 8}}, "rank 8", "method=rank, ranks=8 in 2 modules"),
    ],
)
def test_the_partition_is_said_in_short_and_in_full(results, partition, short, long):
    page = render(results | {"partition": partition})
    assert page.find("p", class_="kicker").text.split(" · ")[-1] == short
    assert facts(page)["Partition"] == long


# ---- Command ----


def test_the_command_is_the_same_words_with_a_line_for_each_flag(results):
    code = render(results).find("pre").text
    lines = code.splitlines()
    assert lines[0] == "python scripts/train_translation.py \\" and len(lines) > 10
    assert all(line.startswith("    --") for line in lines[1:])
    assert shlex.split(code.replace("\\\n", "")) == shlex.split(results["command"])


@pytest.mark.parametrize("command", ["python x.py --a 'b c' -1 --d=e '--f g'", "--a", "a -- b", "", "it's broken"])
def test_any_command_keeps_its_words(command):
    wrapped = wrap_command(command)
    if command == "it's broken":
        assert wrapped == command
    else:
        assert shlex.split(wrapped.replace("\\\n", "")) == shlex.split(command)


def test_no_curves_and_no_samples_are_said(results):
    del results["samples"]
    page = render(results, [{"step": 5, "train_loss": 2.0, "train_runtime": 1.0}])
    assert not page.find_all("figure") and "Nothing was logged" in page.text
    assert "hold no samples" in page.text and not page.find_all("ol")


# ---- Samples ----


def test_samples_stand_side_by_side_and_differences_are_marked(results):
    first, second = render(results).find("ol", class_="samples").find_all("li")
    source, reference = first.find("div", class_="given").find_all("p")
    assert (source.text, source["lang"], source["dir"]) == (SENTENCES[0][0], "de", "auto")
    assert (reference.text, reference["lang"], reference["dir"]) == (SENTENCES[0][1], "en", "auto")
    made = first.find("div", class_="made")
    assert [title.words for title in made.find_all("h3")] == ["core", "full"]
    for translation in made.find_all("p"):
        assert translation.text.replace("‸", "") == SENTENCES[0][2]
        assert [mark.text for mark in translation.find_all("mark")] == ["is running"]
        missing = translation.find("span", class_="missing")
        assert missing["title"] == "the reference has: the"
    assert all(
        title.words.endswith("same as the reference") for title in second.find("div", class_="made").find_all("h3")
    )
    assert not second.find_all("mark")


def test_text_is_text_wherever_it_comes_from(results):
    evil = "<script>alert(1)</script> & \"double\" 'single' </style> {{ 7 * 7 }} <!-- -->"
    samples = with_samples(results, [(evil, evil + " so", evil)])["samples"]
    results |= {"samples": samples, "command": f"python {shlex.quote(evil)}", "seed": 1}
    results["data"]["name"] = results["model"]["name"] = results["versions"]["python"] = evil
    results["training"]["arguments"]["run_name"] = evil
    text = render_report_page(results, history(), evil)
    page = parse_page(text)
    assert "<script" not in text and "49" not in facts(page)["Training data"]
    assert page.find("h1").text == page.find("head").find("title").text == evil
    assert facts(page)["Training data"] == evil
    assert facts(page)["run_name"] == facts(page)["python"] == evil
    (sample,) = page.find("ol").find_all("li")
    assert [one.text for one in sample.find("div", class_="given").find_all("p")] == [evil, evil + " so"]
    assert [one.text.replace("‸", "") for one in sample.find("div", class_="made").find_all("p")] == [evil, evil]


@pytest.mark.parametrize(
    ("code", "tag"),
    [
        ("de", "de"),
        ("de_DE", "de-DE"),
        ("deu_Latn", "deu-Latn"),
        ("zh-Hans", "zh-Hans"),
        ("a source", None),
        ("", None),
    ],
)
def test_the_language_is_what_a_browser_reads(results, code, tag):
    results["data"]["source_lang"] = code
    source = render(results).find("ol").find_all("p")[0]
    assert source.attributes.get("lang") == tag


def test_a_ladder_has_every_level_everywhere():
    results = with_samples(read("experiments/results/one-seed/ladder.json"))
    levels = list(results["levels"])
    page = render(results, history(levels))
    assert all(len(cells) == 4 for cells in figures(page).values())
    assert [
        title.words for title in page.find("ol").find_all("li")[0].find("div", class_="made").find_all("h3")
    ] == levels
    labels = [label.text for label in chart(page, "Validation BLEU").find_all("text", class_="label")]
    assert labels == levels
    assert "2 more levels lie between." in page.find("p", class_="lede").text


def test_images_have_accuracy_and_no_translations():
    results = read("experiments/results/cifar10-small/alternating-seed1.json")
    page = render(results, history(scores=("accuracy",)))
    core, full = results["levels"]["core"], results["levels"]["full"]
    assert figures(page)["Accuracy"] == [
        f"{core['accuracy']:.2f} {100 * core['accuracy'] / full['accuracy']:.0f}% of full",
        f"{full['accuracy']:.2f}",
    ]
    assert "FLOPs per image" in figures(page) and "BLEU" not in figures(page)
    units = {one.find("strong").text: one.find("span").text for one in page.find_all("figcaption")}
    assert units["Training loss"] == "loss per image (nats)" and units["Validation accuracy"] == "accuracy (%)"
    assert not page.find_all(id="samples") and "Translation" not in page.text
    assert facts(page)["Largest difference of an export's outputs from the trained network's"].startswith(
        "core 0.0e+00"
    )


# ---- Bad input ----


def test_no_results_is_said_with_the_remedy(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"holds no results\.json; give the output directory of a training"):
        write_report_page(tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(SystemExit, match=r"report\.py: .* holds no results\.json"):
        run_here("report.py", tmp_path, monkeypatch=monkeypatch)


@pytest.mark.parametrize("state", ["{", "[]", '{"log_history": 3}'])
def test_a_broken_log_is_said_with_the_remedy(results, tmp_path, state):
    (tmp_path / "results.json").write_text(json.dumps(results))
    (tmp_path / "trainer_state.json").write_text(state)
    with pytest.raises(ValueError, match=r"trainer_state.json .*remove it, and the page has no curves"):
        write_report_page(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_the_script_makes_the_page_of_an_old_run(tmp_path, monkeypatch, capsys):
    (tmp_path / "results.json").write_bytes((ROOT / "experiments/results/one-seed/ladder.json").read_bytes())
    run_here("report.py", tmp_path, monkeypatch=monkeypatch)
    assert capsys.readouterr().out.strip() == str(tmp_path / "report.html") and (tmp_path / "report.html").is_file()
