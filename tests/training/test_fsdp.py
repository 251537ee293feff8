"""The laws under FSDP version 2, over two real processes (gloo on the CPU)."""

import itertools
from pathlib import Path

import pytest
import torch

from hf_ats.checkpoint import export_core, export_full, load_network, load_partitioned
from hf_ats.partition import num_levels, parameters_at_level, partitioned_layers
from hf_ats.run.architectures import keep_pad_row_zero_
from tests.support.distributed import assert_same_state, launch, train_on_one_process
from tests.support.distributed.fsdp_worker import RESUMED_AT
from tests.support.laws import assert_moved, assert_still
from tests.support.models import partitioned
from tests.support.training import make_trainer, sentences
from tests.support.versions import needs_5

pytestmark = needs_5("transformers 4 takes FSDP 2 only from the file of accelerate")


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("fsdp")
    launch("-m", "tests.support.distributed.fsdp_worker", str(out), timeout=420)
    return out


@pytest.fixture(scope="module")
def ranks(two_processes) -> list[dict]:
    return [torch.load(two_processes / f"rank{rank}.pt") for rank in (0, 1)]


@pytest.mark.law(number=8)
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("alternating", {}),
        ("launched", {}),
        ("accumulated", {}),
        ("checkpointing", {}),
        ("gathered_once", {}),
        ("slimmable", dict(schedule="slimmable")),
        ("slimmable_accumulated", dict(schedule="slimmable")),
        ("core", dict(schedule="core")),
        ("ladder", dict(partition="rank ladder")),
        ("width", dict(partition="width")),
        ("width_ladder", dict(partition="width ladder")),
        ("depth", dict(partition="depth")),
        ("composition", dict(partition="composition")),
        ("t5", dict(family="t5")),
        ("own_embeddings", dict(overrides=dict(share_encoder_decoder_embeddings=False, decoder_vocab_size=96))),
    ],
)
def test_sharded_processes_train_what_one_does(name, fields, two_processes, tmp_path):
    options = fields.pop("overrides", {})
    model = partitioned(fields.pop("family", "marian"), fields.pop("partition", "rank"), **options)
    # Double precision: what is left is the order of the sums, which AdamW's division can enlarge.
    expected = train_on_one_process(tmp_path, model, **fields)
    assert_same_state(torch.load(two_processes / f"{name}.pt"), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.law(number=1)
def test_a_core_step_leaves_every_shard_of_W_and_of_its_state_alone(ranks):
    W = {f"{name}.residual.weight" for name in partitioned_layers(partitioned())}
    for rank in ranks:
        for step, (before, after) in enumerate(itertools.pairwise(rank["weights"])):
            (assert_still if step % 2 else assert_moved)(before, after, W)
        states = rank["states"]
        of_W = [key for key in states[1] if key.partition("/")[0] in W]
        assert {key.partition("/")[0] for key in of_W} == W
        for step in (1, 3, 5):
            assert_still(states[step], states[step + 1], of_W)
        assert_moved(states[2], states[3], [key for key in of_W if key.endswith("/step")])


@pytest.mark.law(number=1)
def test_what_takes_no_part_in_a_step_gets_no_gradient_on_any_process(ranks):
    for key, partition in (
        ("with_gradient", "rank"),
        ("ladder_with_gradient", "rank ladder"),
        ("width_ladder_with_gradient", "width ladder"),
        ("composition_with_gradient", "composition"),
    ):
        model = partitioned(partition=partition)
        levels = [num_levels(model) - 1, *range(num_levels(model) - 1)]
        for rank in ranks:
            for step, names in enumerate(rank[key]):
                mask = parameters_at_level(model, levels[step % len(levels)])
                assert set(names) == {name for name, parameter in mask.items() if parameter.requires_grad}


@pytest.mark.law(number=5)
@pytest.mark.parametrize("partition", ["rank", "width", "depth"])
def test_a_core_step_neither_gathers_nor_reduces_what_it_does_not_train(partition, ranks):
    model = partitioned(partition=partition).double()
    core = parameters_at_level(model, "core")
    # A parameter is cut by its rows, and padded to as many on each process.
    every = {name: p.nbytes // len(p) * (len(p) + len(p) % 2) for name, p in model.named_parameters()}
    padded = {name: size for name, size in every.items() if name in core}
    rest = sum(size for name, size in every.items() if name not in core)
    assert rest
    # The units of the blocks are gathered for the forward pass and again for the backward pass, the rest once.
    gathered = sum(size * (2 if ".layers." in name else 1) for name, size in padded.items())
    scattered = sum(size for name, size in padded.items() if core[name].requires_grad)
    for rank in ranks:
        for step, counted in enumerate(rank["bytes"][partition]):
            full = step % 2 == 0
            assert counted["gathered"] == gathered + 2 * rest * full
            assert counted["scattered"] == scattered + rest * full
            # The norm of each gradient, to clip them by, and the norm of those, to log; in double precision.
            trainable = sum(p.requires_grad for p in (dict(model.named_parameters()) if full else core).values())
            assert counted.keys() == {"gathered", "scattered", "reduced"}
            assert counted["reduced"] <= 8 * (trainable + 1)


def test_the_levels_and_micro_batches_of_a_step_are_reduced_once_together(ranks):
    for rank in ranks:
        assert {step["scattered"] for step in rank["slimmable_bytes"]} == {rank["bytes"]["rank"][0]["scattered"]}


@pytest.mark.law(number=2)
@pytest.mark.parametrize(("kind", "stop"), [(kind, stop) for kind, stops in RESUMED_AT.items() for stop in stops])
def test_a_resume_is_exact(kind, stop, two_processes):
    whole, resumed = (torch.load(two_processes / f"{name}_{kind}.pt") for name in ("whole", f"resumed{stop}"))
    assert_same_state(whole, resumed, rtol=0, atol=0)


@pytest.mark.law(number=2)
def test_a_resume_of_a_core_alone_is_exact_though_W_has_no_state(two_processes):
    whole, resumed = (torch.load(two_processes / f"{name}_core.pt") for name in ("whole", "resumed"))
    assert_same_state(whole, resumed, rtol=0, atol=0)


@pytest.mark.law(number=9)
@pytest.mark.parametrize("kind", RESUMED_AT)
def test_a_checkpoint_of_the_training_is_complete(kind, two_processes):
    loaded = load_partitioned(two_processes / f"whole_{kind}" / "checkpoint-9").state_dict()
    trained = torch.load(two_processes / f"whole_{kind}.pt")
    assert loaded.keys() == trained.keys()
    for name, parameter in partitioned().named_parameters():
        if parameter.requires_grad:  # no checkpoint holds the tables of positions
            assert torch.equal(loaded[name], trained[name]), name


@pytest.mark.law(number=9)
@pytest.mark.parametrize("level", ["full", "core"])
def test_exports_of_the_trained_and_of_the_saved_model_are_those_of_one_process(level, two_processes, tmp_path):
    one = partitioned()
    train_on_one_process(tmp_path / "run", one)
    export = {"full": export_full, "core": export_core}[level]
    export(one, tmp_path / "one")
    export(load_partitioned(two_processes / "saved"), tmp_path / "saved")
    expected = load_network(tmp_path / "one").state_dict()
    for directory in (two_processes / "exported" / level, tmp_path / "saved"):
        assert_same_state(load_network(directory).state_dict(), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.law(number=8)
def test_every_level_is_scored_and_decoded_as_on_one_process(ranks, tmp_path):
    model = partitioned().double()
    fields = dict(per_device_train_batch_size=4, weight_decay=0.1, label_smoothing_factor=0.1, max_steps=2)
    trainer = make_trainer(model, tmp_path, eval_dataset=sentences(7, seed=1), **fields)
    trainer.train()
    expected = trainer.evaluate()
    for rank in ranks:
        for level in ("core", "full"):
            assert rank["metrics"][f"eval_{level}_sentences"] == 7
            assert rank["metrics"][f"eval_{level}_loss"] == pytest.approx(expected[f"eval_{level}_loss"], rel=1e-6)


def test_logs_by_level_are_those_of_one_process(ranks, tmp_path):
    model = partitioned().double()
    fields = dict(per_device_train_batch_size=4, weight_decay=0.1, label_smoothing_factor=0.1)
    trainer = make_trainer(model, tmp_path, logging_strategy="steps", logging_steps=2, **fields)
    trainer.train()
    for one, two in zip(trainer.state.log_history, ranks[0]["log"], strict=True):
        assert one.keys() == two.keys()
        for name in {"loss", "loss_core", "loss_full", "grad_norm_core", "grad_norm_full"} & one.keys():
            assert one[name] == pytest.approx(two[name], rel=1e-5), name


def test_the_row_that_a_gradient_hook_protects_stays(two_processes, tmp_path):
    pad = partitioned().config.pad_token_id
    start = partitioned().double().state_dict()
    trained = torch.load(two_processes / "padded.pt")
    expected = train_on_one_process(tmp_path, keep_pad_row_zero_(partitioned()), weight_decay=0.0)
    for name in ("model.decoder.embed_tokens.weight", "lm_head.weight"):
        assert torch.equal(trained[name][pad], start[name][pad])
        assert not torch.equal(trained[name][pad - 1], start[name][pad - 1])
    assert_same_state(trained, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.law(number=1)
def test_in_bfloat16_the_weights_that_train_are_float32_and_W_stays_in_core_steps(ranks, two_processes, tmp_path):
    trainer = make_trainer(
        partitioned(),
        tmp_path,
        label_smoothing_factor=0.1,
        weight_decay=0.1,
        logging_strategy="steps",
        logging_steps=1,
    )
    trainer.train()
    W = {f"{name}.residual.weight" for name in partitioned_layers(partitioned())}
    for rank in ranks:
        weights = rank["bf16_weights"]
        assert {tensor.dtype for tensor in weights[-1].values()} == {torch.float32}
        for step, (before, after) in enumerate(itertools.pairwise(weights)):
            (assert_still if step % 2 else assert_moved)(before, after, W)
        for one, two in zip(trainer.state.log_history[:6], rank["bf16_log"][:6], strict=True):
            # bfloat16 has 8 bits, and the first steps of AdamW follow signs.
            assert one["loss"] == pytest.approx(two["loss"], rel=2e-2)


@pytest.mark.law(number=10)
def test_what_cannot_be_had_is_refused(ranks):
    for rank in ranks:
        assert "would replicate the model without a word; drop the fsdp" in rank["refused"]["on the cpu"]
        assert "evaluate after train(), during it (eval_on_start=True)" in rank["refused"]["before training"]
        assert (
            "criteria_steps=2 compares the gradients of a core and of the full network, and FSDP"
            in rank["refused"]["measured"]
        )
        assert "a trainer trains once" in rank["refused"]["again"]
