"""What the tests of the commands share: a small corpus, and what a small run leaves."""

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, GenerationConfig, MarianMTModel

from tests.support.models import tiny_model
from tests.support.scripts import train, training_arguments, write_corpus

POSITIONS = 40


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@dataclass
class Trained:
    """A run that ended."""

    output_dir: Path
    printed: str


@pytest.fixture(scope="session")
def trained(corpus, tmp_path_factory) -> Trained:
    output_dir, printed = tmp_path_factory.mktemp("runs") / "run", io.StringIO()
    saving = "--max_steps 6 --save_steps 3 --logging_steps 2"
    scoring = "--eval_strategy steps --eval_steps 3 --predict_with_generate"
    with contextlib.redirect_stdout(printed):
        train(*training_arguments(corpus, output_dir, f"{saving} {scoring}"))
    return Trained(output_dir, printed.getvalue())


@pytest.fixture(scope="session")
def bart(trained, tmp_path_factory) -> Path:
    """A model that prescribes neither length nor beams, has few positions, and is stored in half precision."""
    directory = tmp_path_factory.mktemp("bart")
    tokenizer = AutoTokenizer.from_pretrained(trained.output_dir / "tokenizer")
    pad = tokenizer.pad_token_id
    tokens = {"pad_token_id": pad, "decoder_start_token_id": pad, "eos_token_id": 0}
    model = tiny_model("bart", vocab_size=len(tokenizer), max_position_embeddings=POSITIONS, **tokens)
    model.generation_config = GenerationConfig(**tokens)
    model.to(torch.bfloat16).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def adapted(trained, tmp_path_factory) -> tuple[Path, torch.nn.Module]:
    """An adapter that names its base model, and what both make together."""
    directory = tmp_path_factory.mktemp("adapted")
    MarianMTModel.from_pretrained(trained.output_dir / "full").save_pretrained(directory / "base")
    AutoTokenizer.from_pretrained(trained.output_dir / "full").save_pretrained(directory / "base")
    model = MarianMTModel.from_pretrained(directory / "base")
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "fc1"], task_type="SEQ_2_SEQ_LM")
    model = get_peft_model(model, config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(directory / "adapter")
    return directory, model.merge_and_unload().eval()
