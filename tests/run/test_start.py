"""How a run starts: what it says of the machine."""

import logging

import pytest
import torch

from hf_ats import ATSTrainingArguments
from hf_ats.run import start


@pytest.mark.parametrize("flag", ["bf16", "bf16_full_eval", "fp16_full_eval"])
@pytest.mark.parametrize(("times", "says"), [(68.25, True), (0.4, False)])
def test_a_cpu_that_is_slow_with_16_bits_is_told_of_before_training(flag, times, says, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(
        start.__globals__, "product_seconds", lambda dtype: 1e-3 if dtype == torch.float32 else times * 1e-3
    )
    with caplog.at_level(logging.WARNING, logger="hf_ats"):
        start(ATSTrainingArguments(tmp_path / "run", use_cpu=True, report_to=[], **{flag: True}), cores=1)
    dtype = "bfloat16" if flag.startswith("b") else "float16"
    message = (
        f"--{flag}: this CPU takes 68.2 times as long for a matrix product in {dtype} as in float32 "
        f"(measured, 68 against 1 ms); leave the flag out, or write --{flag} false if a recipe has it."
    )
    assert [record.getMessage() for record in caplog.records] == [message] * says


def test_a_product_is_measured():
    assert 0 < start.__globals__["product_seconds"](torch.float32) < 5
