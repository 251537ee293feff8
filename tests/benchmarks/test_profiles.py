"""The shares of a profile: which operation is counted where."""

import pytest
import torch
from torch import nn

from benchmarks.profiles import OTHER, VOCABULARY, profile_shares
from benchmarks.report import render_profiles

VOCABULARY_SIZE = 331
SQUARE = torch.ones(300, 300)
LARGE = torch.ones(VOCABULARY_SIZE, 300)
HEADS = torch.ones(4, 8, 64, 32)


def shares_of(step):
    return profile_shares(step, VOCABULARY_SIZE, torch.device("cpu"))


@pytest.mark.parametrize(
    ("kind", "step"),
    [
        ("layers: matrix products", lambda: nn.functional.linear(SQUARE, SQUARE)),
        (VOCABULARY, lambda: nn.functional.linear(SQUARE, LARGE)),
        (VOCABULARY, lambda: LARGE.logsumexp(0)),
        ("attention", lambda: nn.functional.scaled_dot_product_attention(*[HEADS] * 3)),
        ("dropout", lambda: nn.functional.dropout(SQUARE)),
        ("layer norm", lambda: nn.functional.layer_norm(SQUARE, (300,))),
        (OTHER, lambda: SQUARE + SQUARE),
    ],
    ids=["linear", "projection", "loss", "attention", "dropout", "norm", "sum"],
)
def test_an_operation_counts_where_it_belongs(kind, step):
    shares = shares_of(step)
    assert kind in shares and shares.keys() <= {kind, OTHER}
    assert sum(shares.values()) == pytest.approx(1)


def test_the_optimizer_counts_by_itself_even_for_the_embeddings():
    parameter = nn.Parameter(torch.ones(VOCABULARY_SIZE, 300))
    parameter.grad = torch.ones_like(parameter)
    optimizer = torch.optim.AdamW([parameter], fused=True)

    shares = shares_of(optimizer.step)
    assert "optimizer and clipping" in shares and VOCABULARY not in shares


def test_profiles_stand_side_by_side():
    record = {
        "measurements": {
            "full step": {"profile": {"attention": 0.75, OTHER: 0.25}},
            "core step": {"profile": {OTHER: 1.0}},
            "alternating mean": {},
        }
    }
    (table,) = render_profiles(record, "markdown")
    assert "| full step | core step |" in table.splitlines()[0]
    assert [line.split("|")[1:4] for line in table.splitlines()[2:]] == [
        ["attention".ljust(31).join("  "), "       75% ", "        0% "],
        [OTHER.ljust(31).join("  "), "       25% ", "      100% "],
    ]
    assert render_profiles({"measurements": {}}) == []
