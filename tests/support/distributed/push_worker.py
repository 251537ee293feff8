"""What two processes push, under FSDP version 2 where that can be, for test_training_push.py; launched by torchrun."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
import transformers

from benchmarks.distributed import shard_on_cpu
from tests.support.checkpoints import trained_tokenizer
from tests.support.pushes import trainer_of

IS_SHARDED = int(transformers.__version__.split(".")[0]) >= 5  # transformers 4 shards on GPUs alone
SHARDED = dict(fsdp=True, fsdp_config={"version": 2}, once_arguments_are_made=shard_on_cpu) if IS_SHARDED else {}


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
    refused = words(OSError, lambda: trainer_of(tokenizer, out / "refused", **elsewhere, **SHARDED))
    trainer = trainer_of(tokenizer, out / "pair", push_to_hub=True, **SHARDED)
    assert trainer.accelerator.is_fsdp2 == IS_SHARDED
    assert trainer.accelerator.num_processes == 2
    trainer.train()
    lacking = words(ValueError, lambda: trainer.push_to_hub(dataset="words"))
    commit = trainer.push_to_hub(dataset="words", license="mit")
    record = {"refused": refused, "lacking": lacking, "commit": commit.oid, "name": trainer.hub_model_id}
    (out / f"rank{rank}.json").write_text(json.dumps(record), encoding="utf-8")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
