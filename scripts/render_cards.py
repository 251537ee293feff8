"""Render the model cards of a run, to look at them before they are pushed.

    python scripts/render_cards.py --run_directory runs/demo --name ann/demo --output_dir cards

OUTPUT_DIR then holds `core.md`, `full.md` (of a ladder every level), as the repositories `ann/demo-core`,
`ann/demo-full`, ... would have them as their README.md. With --keep_results it also holds `run/`, the result files
that the cards are rendered from, so that they can be rendered again where the models are not; the folders of this
machine are cut from their paths.
"""

import argparse
import shutil
import sys
from pathlib import Path

from hf_ats.results import read_results, write_results
from hf_ats.results.cards import render_card
from hf_ats.results.portable import portable_results


def main() -> None:
    """Render the card of every level."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run_directory", type=Path, required=True, help="the --output_dir of a training run")
    parser.add_argument("--name", required=True, help="of the repositories, such as ann/demo, without -core and -full")
    parser.add_argument("--output_dir", type=Path, required=True, help="where to write the cards")
    parser.add_argument("--keep_results", action="store_true", help="keep the result files as OUTPUT_DIR/run")
    arguments = parser.parse_args()
    try:
        results = read_results(arguments.run_directory / "results.json")
        levels = list(results["levels"])
        names = {level: f"{arguments.name}-{level}" for level in levels}
        cards = {level: render_card(arguments.run_directory, level, names) for level in levels}
    except (OSError, ValueError) as error:
        sys.exit(f"render_cards.py: {error}")
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    for level, card in cards.items():
        (arguments.output_dir / f"{level}.md").write_text(card, encoding="utf-8")
    if arguments.keep_results:
        kept = arguments.output_dir / "run"
        write_results(kept / "results.json", portable_results(results))
        for level in levels:
            (kept / level).mkdir(exist_ok=True)
            if kept.resolve() != arguments.run_directory.resolve():
                shutil.copyfile(arguments.run_directory / level / "export.json", kept / level / "export.json")
    print(f"Written to {arguments.output_dir}: {', '.join(f'{level}.md' for level in levels)}")


if __name__ == "__main__":
    main()
