"""What the trials work on: a small corpus, a base model with an adapter, and flags of runs that take two seconds."""

from pathlib import Path
from random import Random

import peft
import torch
from transformers import AutoTokenizer, MarianMTModel

WORDS = dict(
    hund="dog", katze="cat", haus="house", baum="tree", ein="a", der="the", und="and", rot="red", blau="blue",
    neun="nine", zehn="ten", alt="old", jung="young", rennt="runs", schläft="sleeps", über="over", größe="size",
)  # fmt: skip
SIZES = "--layers 1 --width 16 --feed_forward 32 --heads 2 --vocab_size 80"
TRAINING = (
    "--per_device_train_batch_size 8 --per_device_eval_batch_size 8 --learning_rate 0.01 --generation_max_length 10 "
    "--generation_num_beams 1 --use_cpu --report_to none --disable_tqdm true --speed_sentences 0"
)


def write_corpus(directory: Path, seed: int = 0) -> Path:
    """Write 160 pairs to train on, 8 for validation and 8 to score, words translated one by one."""
    directory.mkdir(parents=True, exist_ok=True)
    draw = Random(seed)
    for part, number in (("train", 160), ("validation", 8), ("test", 8)):
        lines = [draw.choices(list(WORDS), k=draw.randint(2, 6)) for _ in range(number)]
        for language, words in (("de", lines), ("en", [[WORDS[word] for word in line] for line in lines])):
            text = "".join(f"{' '.join(line)}\n" for line in words)
            (directory / f"{part}.{language}").write_text(text, encoding="utf-8")
    return directory


def prefixes(corpus: Path) -> list[str]:
    """Return the flags that name the files of `write_corpus`."""
    return [word for part in ("train", "validation", "test") for word in (f"--{part}_prefix", str(corpus / part))]


def write_adapter(directory: Path, full: Path, seed: int = 0) -> None:
    """Write a LoRA adapter for a full network into `adapter/`, and that network into `base/`."""
    model = MarianMTModel.from_pretrained(full)
    model.save_pretrained(directory / "base")
    AutoTokenizer.from_pretrained(full).save_pretrained(directory / "base")
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "fc1"], task_type="SEQ_2_SEQ_LM")
    torch.manual_seed(seed)
    model = peft.get_peft_model(MarianMTModel.from_pretrained(directory / "base"), config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(directory / "adapter")
