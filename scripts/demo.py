"""Train a small translation model and its low-rank core on generated text, then translate with both, side by side.

    hf-ats demo

It needs no network and a few minutes on two cores. The text is the embedded default corpus: German and English
expressions of numbers, dates, times and prices. What it does is what a user would do by hand: it prints and runs one
training command, then opens the two checkpoints with `pipeline("translation")` and translates sentences of the test
part, which training has not seen.
"""

import os
import shlex
import shutil
import subprocess
import sys
import textwrap
from itertools import zip_longest
from pathlib import Path

from transformers import pipeline

from hf_ats.data import default_corpus
from hf_ats.evaluation import decoding_threads
from hf_ats.run import count, manual_parser, user_errors

OUTPUT_DIR = Path("runs/demo")
TRAINING_ARGUMENTS = """
    --architecture tiny --source_lang de --target_lang en
    --ratios 0.125 --schedule alternating
    --max_steps 1200 --max_tokens 2048 --learning_rate 3e-3 --lr_scheduler_type linear --warmup_steps 120
    --adam_beta2 0.98 --label_smoothing_factor 0.1 --logging_steps 100
    --eval_strategy no --save_strategy no --report_to none --use_cpu --seed 0
"""


def train(output_dir: Path) -> None:
    """Run `hf-ats train` as its own process, so that the command on the screen is one to copy."""
    words = [*shlex.split(TRAINING_ARGUMENTS), "--output_dir", str(output_dir)]
    command = [sys.executable, "-m", "hf_ats.scripts.train_translation", *words]
    print(f"$ {shlex.join(command)}\n", flush=True)
    # Everything that it needs is on disk, and the model is too small to gain much from a second thread.
    environment = {"OMP_NUM_THREADS": "1"} | os.environ | {"HF_HUB_OFFLINE": "1"}
    if subprocess.run(command, env=environment).returncode != 0:
        sys.exit("The training command above failed; its own last lines say why.")


def translate(checkpoint: Path, sentences: list[str]) -> list[str]:
    """Translate with the checkpoint in `checkpoint`, through the pipeline that any translation model is used with."""
    translator = pipeline("translation", model=str(checkpoint))
    with decoding_threads(translator.model):
        return [translation["translation_text"] for translation in translator(sentences)]


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """Print `rows` under `header` in columns of equal width that fill the terminal, long cells wrapped."""
    terminal = shutil.get_terminal_size((119, 24)).columns
    width = max(20, (terminal - 2 * (len(header) - 1)) // len(header))
    rule = ["-" * width] * len(header)
    print("  ".join(title.ljust(width) for title in header).rstrip())
    for row in rows:
        cells = [textwrap.wrap(cell, width) for cell in row]
        for line in [rule, *zip_longest(*cells, fillvalue="")]:
            print("  ".join(part.ljust(width) for part in line).rstrip())


@user_errors()
def main() -> None:
    """Train, translate with core and full, print the table."""
    parser = manual_parser(__doc__)
    parser.add_argument("--output_dir", type=Path, default=OUTPUT_DIR, help="where training writes")
    parser.add_argument("--sentences", type=count, default=12, help="how many sentences of the test part to show")
    arguments = parser.parse_args()

    if arguments.output_dir == OUTPUT_DIR and OUTPUT_DIR.is_dir():
        shutil.rmtree(OUTPUT_DIR)  # an earlier demo, which a run must not overwrite
    train(arguments.output_dir)

    test = default_corpus()["test"]
    number = min(arguments.sentences, len(test))
    # Evenly spaced, so that each kind of expression appears whatever order the corpus has.
    pairs = [test[i * len(test) // number]["translation"] for i in range(number)]
    german = [pair["de"] for pair in pairs]
    english = [pair["en"] for pair in pairs]
    levels = ["core", "full"]
    translations = {level: translate(arguments.output_dir / level, german) for level in levels}

    print(f"\nTest sentences, translated by {' and '.join(str(arguments.output_dir / level) for level in levels)}:\n")
    columns = [german, english, *translations.values()]
    print_table(["German", "reference", *levels], [list(row) for row in zip(*columns, strict=True)])
    for level in levels:
        exact = sum(ours == reference for ours, reference in zip(translations[level], english, strict=True))
        print(f"{level}: {exact} of {number} equal the reference, word for word")
    print(f"Scores, sizes and speed of both over the whole test part: {arguments.output_dir / 'results.json'}")


if __name__ == "__main__":
    main()
