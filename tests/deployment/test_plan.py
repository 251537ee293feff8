"""A plan for a budget: what it holds, that it is the best there is, what it takes, and the command."""

import itertools
import sys
from types import SimpleNamespace

import pytest
import torch
import yaml

from hf_ats.checkpoint import export_core, load_network
from hf_ats.deployment import (
    Stopwatch,
    make_plan,
    plot_spectra,
    read_layers,
    render_depths,
    render_plan,
)
from hf_ats.deployment import plan as plan_module
from hf_ats.deployment.spectra import composed, partitions_of
from hf_ats.deployment.stopwatch import Times
from hf_ats.evaluation import input_moments
from hf_ats.partition import (
    PartitionConfig,
    count_parameters,
    find_partition,
    moments_of,
    partition_,
    partition_structure_,
)
from tests.support.checkpoints import ENGLISH, GERMAN, trained_tokenizer
from tests.support.models import tiny_model
from tests.support.scripts import begin, run_here


def uneven_model(family="marian", **overrides):
    """A model whose weights have spectra that fall, each at its own pace, and blocks of which few neurons matter."""
    model = tiny_model(family, **overrides)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, module in model.named_modules():
            if not isinstance(module, torch.nn.Linear):
                continue
            if 64 in module.weight.shape and ".1." in name.replace(".layer.1.", "."):
                rows = module.weight if module.out_features == 64 else module.weight.T
                rows[16:] *= 1e-2
            else:
                left, values, right = torch.linalg.svd(module.weight, full_matrices=False)
                pace = 0.05 + 0.6 * torch.rand((), generator=generator)
                module.weight.copy_(left * values * (-pace * torch.arange(len(values))).exp() @ right)
    return model


@pytest.fixture(scope="module")
def model():
    return uneven_model()


@pytest.fixture(scope="module")
def layers(model):
    return read_layers(model)


def test_a_plan_is_the_best_of_its_layers():
    small = uneven_model(encoder_layers=1, decoder_layers=1)
    own = read_layers(small)
    for (layer,) in own.values():  # of which every block gets three choices, so that trying everything ends
        layer.blocks[:] = [block[:: max(1, (len(block) + 2) // 3)] for block in layer.blocks]
    limit = int(0.8 * small.num_parameters())
    plan = make_plan(small, own, "max_parameters", limit).plans[0]
    blocks = [block for of_half in own.values() for block in of_half[0].blocks]
    saving = small.num_parameters() - limit
    best = max(
        sum(one.energy for one in picked)
        for picked in itertools.product(*blocks)
        if sum(one.saved for one in picked) >= saving
    )
    linears = sum(of_half[0].linears for of_half in own.values())
    others = linears - sum(block[0].energy for block in blocks)
    assert plan.energy == pytest.approx((best + others) / linears)


@pytest.mark.parametrize("family", ["marian", "m2m_100", "t5", "mt5"])
def test_a_plan_is_as_large_as_its_export_to_the_byte(family, tmp_path):
    model = uneven_model(family)
    layers, before = read_layers(model), {name: one.clone() for name, one in model.state_dict().items()}
    for number, (budget, limit) in enumerate(
        [("max_parameters", int(0.7 * model.num_parameters())), ("max_megabytes", 2.5e-6 * model.num_parameters())]
    ):
        planned = make_plan(model, layers, budget, limit)
        assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
        core = partition_(uneven_model(family), planned.partitions)
        report = export_core(core, tmp_path / str(number))
        assert (report.parameters, report.size_bytes) == (planned.plans[0].parameters, planned.size_bytes)
        need = report.parameters if budget == "max_parameters" else report.size_bytes / 1e6
        assert 0.9 * limit <= need <= limit


def test_a_plan_cuts_where_little_is_lost_by_rank_width_and_depth(model, layers):
    def parts(share, **options):
        return make_plan(model, layers, "max_parameters", int(share * model.num_parameters()), **options).partitions

    methods = {part.method for share in (0.75, 0.6) for part in parts(share)}
    assert methods == {"rank", "width"}
    depth, *others = parts(0.5, depth={"decoder": 1})
    assert depth == PartitionConfig(method="depth", decoder_layers=[1]) and others
    assert not any("decoder.layers.1" in module for part in others for module in (part.ranks or part.target_modules))


def test_energies_are_those_of_the_cores_that_are_made(model, layers):
    layer = layers["encoder"][1]
    wide = next(one for block in layer.blocks for one in block if one.width == 0.5)
    low = next(one for block in layer.blocks for one in block if len(one.ranks) == 2)
    table = layers["vocabulary"][0].blocks[0][3]
    for choice in (wide, low, table):
        core = partition_(uneven_model(), partitions_of({}, [choice]))
        energy = saved = 0
        for name in choice.modules:
            name = "model.shared" if name == "embeddings" else name
            full, part = model.get_submodule(name).weight, core.get_submodule(name)
            kept = part.merged_weight(0) if choice.ranks else part.at(0)[0]
            energy += full.numel() * (kept.square().sum() / full.square().sum()).item()
        saved = model.num_parameters() - count_parameters(core, "core")
        assert choice.energy == pytest.approx(energy, rel=1e-4) and choice.saved == saved


@torch.no_grad()
def test_with_calibration_sentences_energies_are_those_of_the_cores_that_begin_from_them(model, tmp_path):
    moments = input_moments(model, trained_tokenizer(tmp_path), GERMAN[:2], progress=False)
    lookups = [name for name, one in moments.items() if one.products is None]
    layers = read_layers(model, moments)
    blocks = layers["decoder"][0].blocks
    wide = next(one for block in blocks for one in block if one.width == 0.5)
    *_, low = (one for block in blocks for one in block if len(one.ranks) == 2)
    table = layers["vocabulary"][0].blocks[0][-1]
    for choice in (wide, low, table):
        core, energy = partition_(uneven_model(), partitions_of({}, [choice]), moments), 0
        for name in choice.modules:
            name = lookups[0] if name == "embeddings" else name
            whole, part = model.get_submodule(name).weight, core.get_submodule(name)
            if choice.ranks:
                kept = part.merged_weight(0)
            else:  # the neurons of the core, each where it was before
                neurons = part.at(0)[0].T if name.endswith("fc2") else part.at(0)[0]
                is_kept = torch.tensor(
                    [(neurons == one).all(1).any() for one in (whole.T if name.endswith("fc2") else whole)]
                )
                kept = whole * is_kept if name.endswith("fc2") else whole * is_kept[:, None]
                assert is_kept.sum() == 32
            lost, total = (
                moments_of(moments, lookups if name in lookups else [name]).weighted(one).square().sum()
                for one in (whole - kept, whole)
            )
            energy += whole.numel() * (1 - lost / total).item()
        assert choice.energy == pytest.approx(energy, rel=1e-4)


def test_nothing_fits_or_everything_does_or_the_model_is_no_such(model, layers):
    with pytest.raises(
        ValueError, match=r"no core fits max_parameters=99: .* of 1 encoder and 1 decoder layers, needs"
    ):
        make_plan(model, layers, "max_parameters", 99)
    with pytest.raises(
        ValueError, match=r"1 decoder layers, needs 0\.\d+ MB\. Allow .* leave the number of layers open"
    ):
        make_plan(model, layers, "max_megabytes", 0.001, depth={"encoder": 2, "decoder": 1})
    smallest = plan_module._Search(model, layers, None).smallest(plan_module._depths(model, layers, {}))
    assert make_plan(model, layers, "max_parameters", smallest.parameters).plans[0].parameters == smallest.parameters
    with pytest.raises(ValueError, match="no core fits"):
        make_plan(model, layers, "max_parameters", smallest.parameters - 1)
    with pytest.raises(ValueError, match=r"enough for the full network, of [\d,]+ parameters, which needs no core"):
        make_plan(model, layers, "max_parameters", model.num_parameters())
    with pytest.raises(ValueError, match="decoder_layers=3, but the model has 2 decoder layers; write 1 to 2"):
        make_plan(model, layers, "max_parameters", 9e9, depth={"decoder": 3})
    t5, t5_layers = tiny_model("t5"), read_layers(tiny_model("t5"))
    with pytest.raises(ValueError, match="more decoder than encoder layers"):
        make_plan(t5, t5_layers, "max_parameters", 9e9, depth={"encoder": 1, "decoder": 2})
    with pytest.raises(ValueError, match="partitioned already, or a core; give the full/ export of its run"):
        read_layers(partition_(tiny_model("marian"), PartitionConfig()))
    linear = torch.nn.Linear(2, 2)
    linear.config = SimpleNamespace(model_type="linear")
    with pytest.raises(ValueError, match=r"a plan knows the layers of marian, .*, and not those of this Linear"):
        read_layers(linear)


class FakeStopwatch:
    """A machine on which every number takes a time, and every factor another; `bend` makes it less than a line."""

    full_ms = 100.0
    tokens = 7

    def __init__(self, model, bend=0.0):
        self.model, self.bend, self.measured = model, bend, []
        linears = (name for name, one in model.named_modules() if isinstance(one, torch.nn.Linear))
        self.calls = {name: 7 if ".decoder." in name and "encoder_attn.k" not in name else 1 for name in linears}

    def share(self, partition):
        parts = partition_structure_(tiny_model("marian"), partition)
        numbers = count_parameters(parts, "core") / self.model.num_parameters()
        factors = sum(len(part.ranks or ()) for part in partition.parts)
        share = 0.2 + 0.8 * numbers + 0.002 * factors
        self.measured.append(share)
        return share + self.bend * (1 - share) ** 2


def test_times_are_predicted_from_a_few_networks(model, layers):
    stopwatch = FakeStopwatch(model)
    times = Times(layers, stopwatch, progress=False)
    assert len(stopwatch.measured) == 10
    planned = make_plan(model, layers, "max_parameters", int(0.6 * model.num_parameters()))
    plan = planned.plans[0]
    kept = {half: len(of) for half, of in plan.kept.items()}
    predicted = times.of_depth(kept) + sum(map(times.of_choice, plan.choices))
    assert predicted == pytest.approx(stopwatch.share(composed(planned.partitions)), rel=0.02)


@pytest.mark.parametrize("bend", [0.0, 0.6])
def test_a_limit_of_time_is_kept_as_measured_and_predicted_within_a_tenth(model, layers, bend):
    stopwatch = FakeStopwatch(model, bend)
    planned = make_plan(model, layers, "max_latency_ms", 75.0, stopwatch=stopwatch, progress=False)
    assert planned.measured_ms == 100 * stopwatch.share(composed(planned.partitions)) <= 75
    assert abs(planned.predicted_ms / planned.measured_ms - 1) <= 0.1
    assert "latency (ms)" in render_depths(planned)
    with pytest.raises(ValueError, match=r"no core fits max_latency_ms=5: .* layers, needs [\d.]+ ms"):
        make_plan(model, layers, "max_latency_ms", 5, stopwatch=FakeStopwatch(model, bend), progress=False)


def test_times_that_vary_too_much_are_no_basis_for_a_plan(model, layers):
    stopwatch = FakeStopwatch(model)
    share, turn = stopwatch.share, itertools.count()
    stopwatch.share = lambda partition: share(partition) * (0.6 if next(turn) % 2 else 1.2)
    with pytest.raises(ValueError, match=r"predicted to take [\d.]+; times vary too much here\. Give more rounds"):
        make_plan(model, layers, "max_latency_ms", 75.0, stopwatch=stopwatch, progress=False)


def test_a_stopwatch_lets_all_networks_decode_equally_many_tokens(model, tmp_path, monkeypatch):
    tokenizer = trained_tokenizer(tmp_path)
    stopwatch = Stopwatch(model, tokenizer, [*GERMAN, ""], batch_size=2, num_beams=2, rounds=1)
    assert stopwatch.share(PartitionConfig(method="depth", decoder_layers=[1])) > 0 < stopwatch.full_ms
    assert stopwatch.tokens == sorted(len(tokenizer(text)["input_ids"]) for text in GERMAN)[2]
    assert stopwatch._full().shape == (2, 1 + stopwatch.tokens)
    calls = stopwatch.calls
    assert calls["model.encoder.layers.0.fc1"] == calls["model.decoder.layers.1.encoder_attn.k_proj"] == 1
    assert calls["model.decoder.layers.1.fc1"] == stopwatch.tokens
    with pytest.raises(ValueError, match="sentences holds 1, none with text"):
        Stopwatch(model, tokenizer, [" "])
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    with pytest.raises(ValueError, match=r"'ctranslate2' needs the package ctranslate2"):
        Stopwatch(model, tokenizer, GERMAN, runtime="ctranslate2")


def test_ctranslate2_is_timed_with_cores_of_the_stock_class(tmp_path):
    pytest.importorskip("ctranslate2")
    model = tiny_model("marian")
    with torch.no_grad():
        model.get_decoder().embed_tokens.weight[-1] = 0  # that of <pad>
    stopwatch = Stopwatch(
        model, trained_tokenizer(tmp_path), GERMAN, batch_size=2, rounds=1, runtime="ctranslate2", quantization="int8"
    )
    narrow = PartitionConfig("width", [0.25], target_modules=["fc1", "fc2"])
    assert stopwatch.share(composed([PartitionConfig(method="depth", decoder_layers=[1]), narrow])) > 0
    assert [len(row) for row in stopwatch._full()] == [stopwatch.tokens] * 2


@pytest.mark.parametrize("family", ["marian", "t5"])
def test_a_plan_of_a_stock_class_is_the_best_of_its_widths_and_depths(family, tmp_path):
    model = uneven_model(family)
    layers = read_layers(model)
    planned = make_plan(model, layers, "max_parameters", int(0.7 * model.num_parameters()), stock=True)
    assert all(part.method != "rank" for part in planned.partitions)
    report = export_core(partition_(uneven_model(family), planned.partitions), tmp_path / "core")
    assert report.parameters == planned.plans[0].parameters
    assert type(load_network(tmp_path / "core")) is type(model)
    # Every depth and width that fits is as good at most.
    groups = [["encoder", "decoder"]] if family == "t5" else [["encoder"], ["decoder"]]
    plans = [one for one in planned.plans if one.kept == planned.plans[0].kept]
    for widths in itertools.product([None, 0.25, 0.5, 0.75], repeat=len(groups)):
        width = {half: one for halves, one in zip(groups, widths, strict=True) for half in halves}
        choices = [c for half, of_half in layers.items() for layer in of_half for c in layer.of_width(width.get(half))]
        if sum(one.saved for one in choices) >= 0.3 * model.num_parameters():
            linears = sum(layer.linears for of_half in layers.values() for layer in of_half)
            others = linears - sum(
                block[0].energy for of_half in layers.values() for one in of_half for block in one.blocks
            )
            assert plans[0].energy >= (others + sum(one.energy for one in choices)) / linears - 1e-9


def test_times_of_stock_classes_need_no_others(model, layers):
    stopwatch = FakeStopwatch(model)
    for groups, number in (([["encoder"], ["decoder"]], 4), ([["encoder", "decoder"]], 4)):
        stopwatch.measured.clear()
        times = Times(layers, stopwatch, groups, progress=False)
        assert len(stopwatch.measured) == number
        choices = [one for of_half in layers.values() for layer in of_half for one in layer.of_width(0.5)]
        predicted = times.of_depth({"encoder": 2, "decoder": 2}) + sum(map(times.of_choice, choices))
        assert predicted == pytest.approx(stopwatch.share(composed(partitions_of({}, choices))), rel=0.02)


def test_the_command_writes_a_recipe_that_trains_the_core_it_promised(tmp_path, monkeypatch, capsys):
    model, other, tokenizer = tmp_path / "model", tmp_path / "other", trained_tokenizer(tmp_path / "tokenizer")
    tiny_model("marian").save_pretrained(model)
    tiny_model("marian", encoder_layers=3).save_pretrained(other)
    for directory in (model, other):
        tokenizer.save_pretrained(directory)
    for part, (language, lines) in itertools.product(["train", "test"], [("de", GERMAN), ("en", ENGLISH)]):
        (tmp_path / f"{part}.{language}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    prefixes = (f"--{part}_prefix={tmp_path / part}" for part in ("train", "test"))
    training = ["--use_cpu", "--report_to", "none", *prefixes]
    recipe = tmp_path / "plan.yaml"

    def plan(*words, status=None):
        words = [*words, *([] if "--output" in words else ["--output", tmp_path / "bad.yaml"])]
        if status is None:
            run_here("plan.py", *words, monkeypatch=monkeypatch)
            return capsys.readouterr().out
        with pytest.raises(SystemExit, match=status):
            run_here("plan.py", *words, monkeypatch=monkeypatch)
        return None

    printed = plan(model, "--max_megabytes", 0.16, "--output", recipe)
    assert "the plan" in printed and "encoder 0" in printed
    assert recipe.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    promised = yaml.safe_load(recipe.read_text(encoding="utf-8"))["core_parameters"]

    begun = begin("--recipe", recipe, "--output_dir", tmp_path / "run", *training)
    report = export_core(begun.model, tmp_path / "core")
    assert report.parameters == promised and report.size_bytes <= 160_000
    assert f"A core of {promised:,} parameters, {report.size_bytes:,} bytes: {recipe}" in printed

    own = tmp_path / "own.yaml"
    (tmp_path / "calibration.de").write_text("\n".join([*GERMAN[:2], "", "ein Hund " * 99]), encoding="utf-8")
    plan(model, "--max_megabytes", 0.13, "--calibration_sentences", tmp_path / "calibration.de", "--output", own)
    assert "% of the outputs' energy" in own.read_text(encoding="utf-8")
    begun = begin("--recipe", own, "--output_dir", tmp_path / "calibrated", *training).model
    parts = find_partition(begun).parts
    assert {part.init for part in parts} >= {"svd"}
    stock = load_network(model, dtype=torch.float32)
    moments = input_moments(stock, tokenizer, [*GERMAN[:2], "ein Hund " * 99], progress=False)
    for name, tensor in partition_(stock, parts, moments).state_dict().items():
        assert torch.equal(begun.state_dict()[name], tensor), name
    plan(model, "--max_megabytes", 1, "--calibration_sentences", tmp_path / "none.de", status="There is no file")

    message = rf"--core_parameters {promised}, but the core of this MarianMTModel has \d+: the plan is that of another"
    with pytest.raises(SystemExit, match=message):
        begin("--recipe", recipe, "--model_name_or_path", other, "--output_dir", tmp_path / "no", *training)
    plan(model, "--max_megabytes", "0", status="2")
    plan(model, "--max_megabytes", "1", "--max_parameters", "1M", status="2")
    plan(model, "--max_megabytes", "1", "--output", tmp_path / "plan.png", status="2")
    plan(model, "--max_megabytes", "1", "--quantization", "int8", status="2")
    plan(model, "--max_megabytes", "0.001", status=r"plan\.py: no core fits max_megabytes=0\.001")
    plan(model, "--max_parameters", "5q", status="max_parameters='5q' is not a whole number")
    plan(model, "--max_megabytes", "1", "--output", tmp_path / "none" / "plan.yaml", status="cannot be written")
    plan(tmp_path / "core", "--max_parameters", "1k", status="partitioned already, or a core")
    assert not list(tmp_path.glob("bad.*"))


def test_the_table_shows_ranks_and_widths(model, layers, tmp_path):
    planned = make_plan(model, layers, "max_parameters", int(0.6 * model.num_parameters()))
    table = render_plan(layers, planned.plans[0])
    columns = ["self_attn.k_proj", "self_attn.q_proj", "fc1", "fc2", "encoder_attn.k_proj", "encoder_attn.q_proj"]
    assert sorted(table.splitlines()[0].split()) == sorted(["layer", *columns, "embeddings"])
    ranks = {module: rank for part in planned.partitions for module, rank in (part.ranks or {}).items()}
    assert all(str(rank) in table for rank in ranks.values()) and "wide" in table
    plot_spectra(layers, ranks, tmp_path / "spectra.png", "a model")
    assert (tmp_path / "spectra.png").read_bytes().startswith(b"\x89PNG")
