"""Settings that every test shares: no network, few threads, no progress bars."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
import transformers

transformers.utils.logging.disable_progress_bar()
# The models are tiny: a second thread gains nothing, and waits for its turn on a busy machine.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)
