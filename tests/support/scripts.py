"""The commands as a user runs them, in processes of their own or in this one."""

import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hf_ats import ATSSeq2SeqTrainer
from hf_ats.data import default_corpus
from hf_ats.scripts import train_translation

SCRIPTS = Path(__file__).parents[2] / "scripts"


def run_command(
    command: list, stdin: str | None = None, status: int = 0, timeout: float = 240
) -> subprocess.CompletedProcess:
    """In a process of its own, which must end with `status`."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPTS.parent)}
    options = dict(env=environment, input=stdin, capture_output=True, encoding="utf-8", timeout=timeout)
    done = subprocess.run(list(map(str, command)), **options)
    assert done.returncode == status, done.stderr[-4000:]
    return done


def run(script: str, *arguments, **options) -> subprocess.CompletedProcess:
    """`python scripts/SCRIPT`, in a process of its own."""
    return run_command([sys.executable, SCRIPTS / script, *arguments], **options)


def run_here(script: str, *arguments, monkeypatch) -> None:
    """The same in this process, which has loaded everything already."""
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    runpy.run_path(str(SCRIPTS / script), run_name="__main__")


def train(*arguments, watch: Callable[[ATSSeq2SeqTrainer], None] | None = None) -> ATSSeq2SeqTrainer:
    """`hf-ats train` in this process; returns its trainer. `watch` is called with it when training begins."""
    seen, original = [], ATSSeq2SeqTrainer.train

    def watched(trainer, *args, **kwargs):
        seen.append(trainer)
        if watch is not None:
            watch(trainer)
        return original(trainer, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ATSSeq2SeqTrainer, "train", watched)
        patch.setattr(sys, "argv", ["hf-ats train", *map(str, arguments)])
        train_translation.main()
    return seen[0]


def begin(*arguments) -> ATSSeq2SeqTrainer:
    """The trainer of `hf-ats train` as it is when training begins; nothing is trained."""

    class Begun(Exception):
        """Carries the trainer out of the command."""

    def stop(trainer):
        raise Begun(trainer)

    with pytest.raises(Begun) as begun:
        train(*arguments, watch=stop)
    return begun.value.args[0]


SIZES = "--architecture tiny --layers 1 --width 32 --feed_forward 64 --vocab_size 300 --generation_max_length 24"
TRAINING = "--max_tokens 512 --learning_rate 1e-3 --use_cpu --report_to none --disable_tqdm true --speed_sentences 4"


def write_corpus(directory: Path) -> Path:
    """Text files of the first pairs of the generated corpus: 300 to train on, 20 for validation, 12 to score."""
    for part, number in (("train", 300), ("validation", 20), ("test", 12)):
        pairs = default_corpus()[part]["translation"][:number]
        for language in ("de", "en"):
            text = "".join(f"{pair[language]}\n" for pair in pairs)
            (directory / f"{part}.{language}").write_text(text, encoding="utf-8")
    return directory


def prefixes(corpus: Path) -> list[str]:
    """The flags that name the files of `write_corpus`."""
    return [f"--{part}_prefix={corpus / part}" for part in ("train", "validation", "test")]


def training_arguments(corpus: Path, output_dir: Path, more: str = "") -> list[str]:
    """The flags of a small run with a core of rank ratio 0.25."""
    words = f"--output_dir {output_dir} {SIZES} {TRAINING} --ratios 0.25 {more}"
    return [*words.split(), *prefixes(corpus)]
