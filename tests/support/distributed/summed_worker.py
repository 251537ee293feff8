"""What two processes do with a sum of two networks, for test_partition_summed.py; launched by torchrun."""

import sys
from pathlib import Path

import torch

from tests.support.summed import BATCH, examples, summed_trainer


def main(out: Path):
    torch.set_num_threads(1)
    sent, stock = [], torch.distributed.all_reduce

    def counted(tensor, *args, **kwargs):
        sent[-1] += tensor.nbytes
        return stock(tensor, *args, **kwargs)

    trainer = summed_trainer(out / "run", examples(), per_device_train_batch_size=BATCH // 2, double=True)
    step = trainer.training_step

    def counting_step(*args, **kwargs):
        sent.append(0)
        torch.distributed.all_reduce = counted
        try:
            return step(*args, **kwargs)
        finally:
            torch.distributed.all_reduce = stock

    trainer.training_step = counting_step
    assert trainer.args.world_size == trainer.accelerator.num_processes == 2
    trainer.train()
    torch.save({"state": trainer.model.state_dict(), "sent": sent}, out / f"rank{trainer.args.process_index}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
