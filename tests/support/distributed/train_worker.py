"""Runs `hf-ats train` in one of several processes, and checks that it leaves none of their group's threads behind."""

from pathlib import Path

import torch

from hf_ats.scripts.train_translation import main

main()
assert not torch.distributed.is_initialized()
names = [(thread / "comm").read_text().strip() for thread in Path("/proc/self/task").iterdir()]
assert not [name for name in names if "gloo" in name], names
