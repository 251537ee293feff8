"""What two processes push, for tests/hub/test_trainer_push.py; launched by torchrun."""

import gc
import json
import os
import sys
from pathlib import Path

import pytest
import torch

from tests.support.checkpoints import trained_tokenizer
from tests.support.pushes import report, trainer_of


def words(kind: type[Exception], action) -> str:
    """What `action` is refused with."""
    with pytest.raises(kind) as caught:
        action()
    return str(caught.value)


def main(out: Path):
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    tokenizer = trained_tokenizer(out / f"tokenizer{rank}")
    elsewhere = dict(push_to_hub=True, hub_model_id="bob/pair")
    refused = words(OSError, lambda: trainer_of(tokenizer, out / "refused", **elsewhere))
    trainer = trainer_of(tokenizer, out / "pair", push_to_hub=True)
    assert trainer.accelerator.num_processes == 2
    trainer.train()
    lacking = words(ValueError, trainer.push_to_hub)
    if trainer.is_world_process_zero():
        report(trainer)
    commit = trainer.push_to_hub()
    record = {"refused": refused, "lacking": lacking, "commit": commit.oid, "name": trainer.hub_model_id}
    (out / f"rank{rank}.json").write_text(json.dumps(record), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    torch.distributed.destroy_process_group()
    gc.collect()  # what holds the group beside, so that its threads end before the interpreter
