"""What the tests of the checkpoint room share: partitioned models, a tokenizer, and other interpreters."""

import json
import os
import subprocess
import textwrap
from pathlib import Path

import pytest
import torch
from transformers.utils.logging import is_progress_bar_enabled

from hf_ats.data import train_tokenizer
from hf_ats.partition import partitioned_layers

REPOSITORY = Path(__file__).parents[2]
TRANSFORMERS_4 = Path(os.environ.get("HF_ATS_TRANSFORMERS_4", REPOSITORY / ".venv-transformers-4/bin/python"))

GERMAN = ["ein Hund läuft im Park", "die Katze schläft", "zwei Männer spielen Ball", "eine Frau liest ein Buch"]
ENGLISH = ["a dog runs in the park", "the cat sleeps", "two men play ball", "a woman reads a book"]


def trained_tokenizer(directory):
    """A Marian tokenizer of 96 pieces, the vocabulary of the tiny models, for sentences of up to 64 tokens."""
    return train_tokenizer(
        GERMAN * 5, ENGLISH * 5, directory, vocab_size=96, source_lang="de", target_lang="en", model_max_length=64
    )


@torch.no_grad()
def logits(model, batch) -> torch.Tensor:
    """Shape `(batch, target, vocabulary)`."""
    return model(**batch).logits


def assert_close_logits(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4) -> None:
    """Their differences are small beside the largest logit, as rounding is on every processor."""
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * expected.abs().max().item())


def snapshot(model) -> dict:
    """Everything about a model that an export must not change."""
    return {
        "state": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "identity": {name: id(parameter) for name, parameter in model.named_parameters()},
        "gradients": {
            name: None if p.grad is None else p.grad.clone()
            for name, p in model.named_parameters(remove_duplicate=False)
        },
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "training": {name: module.training for name, module in model.named_modules()},
        "levels": {name: layer.level for name, layer in partitioned_layers(model).items()},
        "config": model.config.to_dict(),
        "generation_config": model.generation_config.to_dict() if model.can_generate() else None,
        "random_state": torch.get_rng_state(),
        "progress_bars": is_progress_bar_enabled(),
    }


def assert_same(before, after, path="model") -> None:
    """Two snapshots are equal, bit by bit."""
    if isinstance(before, dict):
        assert before.keys() == after.keys(), path
        for key in before:
            assert_same(before[key], after[key], f"{path}.{key}")
    elif isinstance(before, torch.Tensor):
        assert before.dtype == after.dtype, path
        assert torch.equal(before, after), path
    else:
        assert before == after, path


def run_elsewhere(
    interpreter: str | Path, code: str, folder: Path, *arguments, with_package: bool, variables: dict | None = None
) -> dict:
    """Run `code` in another interpreter and return its last line, JSON, with what it wrote to standard error.

    The code finds `arguments` in `sys.argv[1:]`. Without the package, importing `hf_ats` fails, installed or not. The
    environment says that there is no network, unless `variables` say something else.
    """
    if not Path(interpreter).exists():
        pytest.skip(f"there is no {interpreter}; `make test` makes it, or set HF_ATS_TRANSFORMERS_4")
    hidden = "import sys; sys.modules['hf_ats'] = None\n" if not with_package else ""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HF_", "TRANSFORMERS"))
    }
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    environment |= variables or {}
    if with_package:
        environment["PYTHONPATH"] = str(REPOSITORY)
    finished = subprocess.run(
        [str(interpreter), "-c", hidden + textwrap.dedent(code), *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr
    return {**json.loads(finished.stdout.splitlines()[-1]), "stderr": finished.stderr}
