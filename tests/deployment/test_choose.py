"""The level that fits a budget: what each needs, which is chosen, and the command."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_ats.checkpoint import ExportReport, export_adapter, export_core, export_full, load_network
from hf_ats.deployment import (
    Level,
    choose_level,
    copy_export,
    exported_levels,
    measure_latency,
    parse_limit,
    render_levels,
)
from hf_ats.deployment import choose as budget_module
from hf_ats.partition import PartitionConfig, count_exported_parameters, partition_
from hf_ats.results import build_results, write_results
from tests.results.test_results import LEVEL, SECTIONS
from tests.support.checkpoints import GERMAN, trained_tokenizer
from tests.support.models import tiny_model
from tests.support.scripts import run_here

NAMES = ["core", "level1", "level2", "full"]


@pytest.fixture(scope="module")
def model():
    return partition_(tiny_model("marian"), PartitionConfig(ratios=[0.05, 0.125, 0.25], init="random"))


@pytest.fixture(scope="module")
def ladder(model, tmp_path_factory):
    """What the training of a ladder leaves, and other things beside it."""
    folder = tmp_path_factory.mktemp("ladder")
    tokenizer = trained_tokenizer(folder / "tokenizer")
    model.generation_config.update(max_length=8, num_beams=1)
    for level, name in enumerate(NAMES[:-1]):
        export_core(model, folder / name, tokenizer=tokenizer, level=level)
    export_full(model, folder / "full", tokenizer=tokenizer)
    export_core(model, folder / "core-dense", tokenizer=tokenizer, dense=True)
    export_adapter(model, folder / "adapter", tokenizer=tokenizer)
    model.save_pretrained(folder / "checkpoint-3")
    tokenizer.save_pretrained(folder / "checkpoint-3")
    return folder


@pytest.fixture
def run(ladder, tmp_path):
    """A copy to write to."""
    return Path(shutil.copytree(ladder, tmp_path / "run"))


def write_scores(run, **bleu):
    with exported_levels(run) as levels:
        levels = {
            level.name: LEVEL | {"parameters": level.needs["max_parameters"], "bleu": bleu[level.name]}
            for level in levels
        }
    write_results(run / "results.json", build_results(**(SECTIONS | {"levels": levels})))


def chosen(run, **limits):
    with exported_levels(run) as levels:
        return choose_level(levels, limits).name


def test_needs_are_those_of_the_exports_on_disk(ladder, model):
    with exported_levels(ladder) as levels:
        assert [level.name for level in levels] == NAMES
        for number, level in enumerate(levels):
            assert level.directory == ladder / level.name
            size = (level.directory / "model.safetensors").stat().st_size
            assert level.needs == {"max_parameters": count_exported_parameters(model, number), "max_bytes": size}
            assert (level.score, level.quartiles_ms) == (None, None)


def test_a_checkpoint_needs_what_its_exports_would(ladder):
    with exported_levels(ladder) as ready, exported_levels(ladder / "checkpoint-3") as made:
        for one, other in zip(ready, made, strict=True):
            assert (one.name, one.needs) == (other.name, other.needs)
            first, second = (load_file(level.directory / "model.safetensors") for level in (one, other))
            assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
            place = other.directory
    assert not place.exists(), "they were only lent"


@pytest.mark.parametrize("limit", ["max_parameters", "max_bytes"])
def test_the_largest_that_fits_is_chosen_up_to_the_last_unit(ladder, limit):
    with exported_levels(ladder) as levels:
        needs = [level.needs[limit] for level in levels]
    assert needs == sorted(set(needs))
    for name, need, above in zip(NAMES, needs, [*needs[1:], 10**12], strict=True):
        assert chosen(ladder, **{limit: need}) == chosen(ladder, **{limit: above - 1}) == name
    with pytest.raises(ValueError, match=rf"no level fits {limit}={needs[0] - 1:,} .*smallest need is {needs[0]:,}"):
        chosen(ladder, **{limit: needs[0] - 1})


def made_up(*latencies, scores=None):
    return [
        Level(
            name,
            Path(name),
            dict(max_parameters=100 * (i + 1), max_bytes=1000 * (i + 1), max_latency_ms=1e3 * s),
            score,
            (5e2 * s, 2e3 * s),
        )
        for i, (name, s, score) in enumerate(zip(NAMES, latencies, scores or [None] * len(latencies), strict=False))
    ]


def test_every_limit_must_be_kept_and_an_error_names_the_smallest_need_of_each():
    levels = made_up(0.03, 0.02, 0.05, 0.04)  # a smaller network need not be faster
    assert choose_level(levels, dict(max_latency_ms=40)).name == "full"
    assert choose_level(levels, dict(max_latency_ms=39, max_bytes=10_000)).name == "level1"
    assert choose_level(levels, dict(max_latency_ms=39, max_parameters=100)).name == "core"
    message = (
        r"no level fits max_parameters=150 parameters, where the smallest need is 100 parameters \(core\); "
        r"max_latency_ms=25.0 ms, where the smallest need is 20.0 ms \(level1\)\. Allow more"
    )
    with pytest.raises(ValueError, match=message):
        choose_level(levels, dict(max_parameters=150, max_latency_ms=25))


def test_the_best_score_is_chosen_before_the_largest_network():
    levels = made_up(1, 1, 1, 1, scores=[20.0, 31.0, 29.0, 30.0])
    assert choose_level(levels, dict(max_parameters=10**6)).name == "level1"
    assert choose_level(levels, dict(max_parameters=100)).name == "core"
    same = made_up(1, 1, 1, 1, scores=[30.0] * 4)
    assert choose_level(same, dict(max_parameters=300)).name == "level2"
    one_without = made_up(1, 1, 1, 1, scores=[20.0, 31.0, None, 30.0])
    assert choose_level(one_without, dict(max_parameters=400)).name == "full"
    assert choose_level(one_without, dict(max_parameters=200)).name == "level1"


def test_scores_are_those_of_the_results_of_these_exports(run):
    write_scores(run, core=20.0, level1=31.0, level2=29.0, full=30.0)
    assert chosen(run, max_parameters=10**9) == "level1"
    results = json.loads((run / "results.json").read_text())
    results["levels"]["level2"]["parameters"] += 1
    write_results(run / "results.json", results)
    with pytest.raises(ValueError, match=r"results\.json is of a network 'level2' with .* files of two runs"):
        chosen(run, max_parameters=10**9)


def test_what_is_no_run_is_refused(ladder, run, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no exports such as core/ and full/, and is not the checkpoint-N"):
        chosen(tmp_path / "empty", max_bytes=1)
    with pytest.raises(ValueError, match="holds no exports"):
        chosen(ladder / "full", max_bytes=1)
    with pytest.raises(FileNotFoundError, match=r"missing' is not a directory"):
        chosen(tmp_path / "missing", max_bytes=1)
    load_network(ladder / "full").save_pretrained(tmp_path / "stock")
    with pytest.raises(ValueError, match=r"stock' holds no exports"):
        chosen(tmp_path / "stock", max_bytes=1)
    other = partition_(tiny_model("marian"), PartitionConfig(ratios=[0.5]))
    shutil.rmtree(run / "core")
    export_core(other, run / "core")
    with pytest.raises(ValueError, match=r"exports of several runs: core/ \(level core\), full/ \(level full\)"):
        chosen(run, max_bytes=1)


def test_a_budget_without_a_limit_is_refused():
    with pytest.raises(ValueError, match="there is no budget; give at least one of max_parameters, max_bytes, max_la"):
        choose_level(made_up(1), {})


def test_latency_is_measured_on_the_exports_in_turns_on_the_same_batches(ladder, monkeypatch):
    opened, given, rounds_seen = [], [], []

    def open_network(directory):
        opened.append(directory)
        network = load_network(directory).train()
        generate = network.generate

        def noted(**inputs):
            assert not network.training
            given.append((directory.name, inputs["input_ids"], inputs["num_beams"], inputs["max_length"]))
            return generate(**inputs)

        network.generate = noted
        return network

    def recorded(candidates, rounds, **options):
        for _ in range(rounds):
            given.clear()
            for candidate in candidates.values():
                candidate()
            rounds_seen.append(list(given))
        return {name: [float(number + 1)] * rounds for number, name in enumerate(candidates)}

    monkeypatch.setattr(budget_module, "time_in_turns", recorded)
    monkeypatch.setattr(budget_module, "load_network", open_network)
    with exported_levels(ladder) as levels:
        sentences = [*GERMAN, " ", "Hund"]  # the last and shortest is left over
        measured = measure_latency(levels, sentences, batch_size=2, rounds=3, num_beams=2, max_length=6)
    assert opened == [ladder / name for name in NAMES]
    assert [level.needs for level in measured] == [
        level.needs | {"max_latency_ms": 1e3 * (place + 1)} for place, level in enumerate(levels)
    ]
    tokenizer = budget_module.load_tokenizer(ladder / "full")
    lengths = sorted(GERMAN, key=lambda text: -len(tokenizer(text)["input_ids"]))
    batches = [tokenizer(two, padding=True, return_tensors="pt")["input_ids"] for two in (lengths[:2], lengths[2:])]
    for seen, batch in zip(rounds_seen, [*batches, batches[0]], strict=True):
        assert [name for name, *_ in seen] == NAMES
        for _, input_ids, num_beams, max_length in seen:
            assert torch.equal(input_ids, batch) and (num_beams, max_length) == (2, 6)


def test_latency_is_positive_and_spread(ladder):
    with exported_levels(ladder) as levels:
        measured = measure_latency(levels, GERMAN, rounds=2, progress=False)
    for level in measured:
        low, high = level.quartiles_ms
        assert 0 < low <= level.needs["max_latency_ms"] <= high


def test_latency_of_too_few_sentences_or_of_images_is_refused(ladder, tmp_path):
    with exported_levels(ladder) as levels, pytest.raises(ValueError, match="holds 1 with text, and a batch 2"):
        measure_latency(levels, ["eins", ""], batch_size=2)
    (tmp_path / "config.json").write_text('{"model_type": "resnet"}')
    image = Level("core", tmp_path, {})
    with pytest.raises(ValueError, match="the networks are of type 'resnet'; choose by max_parameters or max_bytes"):
        measure_latency([image], ["eins"])


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("max_parameters", "5000000", 5_000_000),
        ("max_parameters", "5e6", 5_000_000),
        ("max_parameters", "1.1M", 1_100_000),
        ("max_parameters", "7k", 7_000),
        ("max_parameters", "0.6B", 600_000_000),
        ("max_bytes", "123", 123),
        ("max_bytes", "20MB", 20_000_000),
        ("max_bytes", "20 MiB", 20 * 2**20),
        ("max_bytes", "1.5GB", 1_500_000_000),
        ("max_bytes", "0.5KiB", 512),
    ],
)
def test_units_are_read_exactly(name, text, value):
    assert parse_limit(name, text) == value


@pytest.mark.parametrize("text", ["", "5m", "M", "-5", "0", "5.5", "1e", "inf", "5MB", "5,000", "٥"])
def test_what_is_no_number_of_parameters_is_refused(text):
    with pytest.raises(ValueError, match=r"max_parameters='.*' is not a whole number above 0; write one such as 500"):
        parse_limit("max_parameters", text)


@pytest.mark.parametrize("text", ["20M", "20mb", "20 megabytes", "1.2", "0.0001kB", "20MBB"])
def test_what_is_no_number_of_bytes_is_refused(text):
    with pytest.raises(ValueError, match=r"max_bytes='.*' is not a whole number above 0; .*20MB \(10\^6\) or 20MiB"):
        parse_limit("max_bytes", text)


def test_the_table_says_what_fits_and_why_not():
    levels = made_up(0.01, 0.02, 0.03, 0.04, scores=[1.0, 2.0, 3.0, None])
    budget = dict(max_parameters=250, max_latency_ms=15)
    lines = render_levels(levels, budget, choose_level(levels, budget)).splitlines()
    assert lines[0].split("  ")[0] == "level" and "quartiles (ms)" in lines[0] and "score" in lines[0]
    assert lines[2].endswith("yes, chosen") and "5.0 to 20.0" in lines[2]
    assert lines[3].endswith("no, over 15.0 ms")
    assert lines[4].endswith("no, over 250 parameters and 15.0 ms")
    unmeasured = [dataclasses.replace(level, quartiles_ms=None, score=None) for level in levels]
    header = render_levels(unmeasured, dict(max_bytes=1)).splitlines()[0]
    assert "ms" not in header and "score" not in header


def test_an_export_is_copied_whole_and_never_over_something_else(run, tmp_path):
    with exported_levels(run) as levels:
        for level in levels[:2]:  # the second replaces the first
            copy_export(level, tmp_path / "copy")
            assert ExportReport.read(tmp_path / "copy").level == level.name
            names = sorted(path.name for path in level.directory.iterdir())
            assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == names
        assert load_network(tmp_path / "copy").num_parameters() == levels[1].needs["max_parameters"]
        with pytest.raises(FileExistsError, match="is the export of 'core' itself"):
            copy_export(levels[0], run / "core")
        (tmp_path / "copy" / "mine.txt").touch()
        with pytest.raises(FileExistsError, match=r"mine\.txt"):
            copy_export(levels[0], tmp_path / "copy")
    assert not list(tmp_path.glob(".copy*"))


def test_the_command_prints_every_level_and_copies_the_chosen(run, tmp_path, monkeypatch, capsys):
    write_scores(run, core=20.0, level1=31.0, level2=29.0, full=30.0)
    with exported_levels(run) as levels:
        limit = levels[2].needs["max_parameters"]
    options = ["--run", run, "--max_parameters", limit, "--output_dir", tmp_path / "phone"]
    run_here("choose_level.py", *options, monkeypatch=monkeypatch)
    printed = capsys.readouterr().out
    table, note, last = printed.strip().split("\n\n")[0], *printed.strip().splitlines()[-2:]
    assert [line.split()[0] for line in table.splitlines()[2:]] == NAMES
    assert table.count("yes") == 3 and "no, over" in table.splitlines()[-1]
    assert note == "level2 is larger and fits too, but scored 29.00 and not 31.00."
    assert last == f"chosen: level1, copied to {tmp_path / 'phone'}"
    assert ExportReport.read(tmp_path / "phone").level == "level1"


def test_the_command_measures_a_checkpoint_and_explains_what_does_not_fit(ladder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    sentences = tmp_path / "text.de"
    sentences.write_text("\n".join(GERMAN), encoding="utf-8")
    options = ["--sentences", sentences, "--rounds", 2, "--num_beams", 1, "--max_length", 6, "--threads", 1]
    checkpoint = ["--run", ladder / "checkpoint-3", *options]

    def command(*arguments, status=None):
        if status is None:
            run_here("choose_level.py", *arguments, monkeypatch=monkeypatch)
            return capsys.readouterr().out
        with pytest.raises(SystemExit, match=status):
            run_here("choose_level.py", *arguments, monkeypatch=monkeypatch)
        return capsys.readouterr().out

    printed = command(*checkpoint, "--max_latency_ms", 60_000)
    assert printed.strip().endswith("chosen: full") and printed.count("yes") == 4
    reason = (
        r"fits max_bytes=1,000,000,000 bytes, where the smallest need is [\d,]+ bytes \(core\); "
        r"max_latency_ms=0.001 ms, where the smallest need is [\d.]+ ms"
    )
    printed = command(*checkpoint, "--max_latency_ms", 0.001, "--max_bytes", "1GB", status=reason)
    assert printed.count("no, over 0.001 ms") == 4
    command("--run", ladder, "--max_bytes", "20M", status="max_bytes='20M' is not a whole number")
    command("--run", ladder, status="there is no budget")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--max_latency_ms nan", "--max_latency_ms nan is not a time; write milliseconds above 0"),
        ("--max_latency_ms 0", "--max_latency_ms 0 is not a time"),
        ("--rounds 0", "argument --rounds: 0 is not a count; write 1 or more"),
        ("--threads -1", "argument --threads: -1 is not a count"),
    ],
)
def test_limits_and_counts_without_a_meaning_are_refused(words, message, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="2"):
        run_here("choose_level.py", "--run", "none", *words.split(), monkeypatch=monkeypatch)
    assert message in capsys.readouterr().err
