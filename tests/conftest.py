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


@pytest.fixture(autouse=True)
def launcher_of_its_own():
    """Training arguments of transformers 4 leave their precision in the environment, for whoever comes next."""
    before = {name: value for name, value in os.environ.items() if name.startswith("ACCELERATE_")}
    yield
    for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
        del os.environ[name]
    os.environ.update(before)
