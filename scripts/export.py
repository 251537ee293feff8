"""Turn a training checkpoint into models for use: the full network, its cores, a LoRA adapter.

    python scripts/export.py --checkpoint runs/iwslt/checkpoint-20000 --output_dir runs/iwslt/best
    python scripts/export.py --checkpoint runs/iwslt/checkpoint-20000 --output_dir out --kinds core core-dense adapter
    python scripts/export.py --checkpoint runs/ladder/checkpoint-500 --output_dir out --kinds core --level 1

Kinds, each in a directory of its name under OUTPUT_DIR:

    full        the stock architecture with W + V U merged; needs no code of ours
    core        the factors V and U alone; loads with hf_ats, or with trust_remote_code=True
    core-dense  the same network with V U multiplied out; stock architecture, as large as full
    adapter     the split as a PEFT LoRA adapter, and the base W that it belongs to

Every export is loaded back and its logits are compared with the checkpoint's before it is reported.
"""

import argparse
import sys
from pathlib import Path

from transformers import AutoTokenizer

from hf_ats import export_adapter, export_core, export_full, load_partitioned
from hf_ats.partition import level_names, resolve_level


def main() -> None:
    """Load the checkpoint once, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, type=Path, help="a checkpoint-N directory of a training run")
    parser.add_argument("--output_dir", required=True, type=Path, help="where the exports go")
    parser.add_argument(
        "--kinds",
        nargs="+",
        default=["full", "core"],
        choices=["full", "core", "core-dense", "adapter"],
        help="what to export (default: full core)",
    )
    parser.add_argument("--level", default="core", help="which core of a ladder: a name or a number (default: core)")
    arguments = parser.parse_args()

    model = load_partitioned(arguments.checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(arguments.checkpoint)
    level = resolve_level(model, int(arguments.level) if arguments.level.isdigit() else arguments.level)
    # The smallest core has the plain name; a larger one of a ladder goes by its own, such as level1.
    core = level_names(model)[level]
    out = arguments.output_dir
    writers = {
        "full": lambda: export_full(model, out / "full", tokenizer=tokenizer),
        "core": lambda: export_core(model, out / core, tokenizer=tokenizer, level=level),
        "core-dense": lambda: export_core(model, out / f"{core}-dense", tokenizer=tokenizer, level=level, dense=True),
        "adapter": lambda: export_adapter(model, out / "adapter", tokenizer=tokenizer),
    }
    for kind in arguments.kinds:
        report = writers[kind]()
        print(
            f"{report.path}: {report.parameters:,} parameters, {report.size_bytes / 1e6:.1f} MB, logits within "
            f"{report.parity:.1e} of the checkpoint's"
        )


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"export.py: {error}")
