"""`hf-ats COMMAND ...`: every command by one name, packaged as hf_ats_command.

It stands beside the package hf_ats, whose import loads PyTorch, so that the list of commands is there at once.
"""

import ast
import importlib
import importlib.metadata
import sys
from pathlib import Path

COMMANDS = {
    "train": "train_translation",
    "translate": "translate",
    "evaluate": "evaluate_translation",
    "export": "export",
    "push": "push_to_hub",
    "app": "app",
    "choose": "choose_level",
    "plan": "plan",
    "compare": "compare_runs",
    "report": "report",
    "demo": "demo",
}
"""By command, the file in scripts/ whose `main` it is."""


def main() -> None:
    """Run the command that the first word names, with the rest of the command line."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(f"usage: hf-ats COMMAND [--flag value ...]\n\n{commands()}\n\nhf-ats COMMAND --help says what it takes.")
    elif name == "--version":
        print(f"hf-ats {importlib.metadata.version('hf_ats')}")
    elif name in COMMANDS:
        sys.argv = [f"hf-ats {name}", *sys.argv[2:]]  # what argparse calls the program
        importlib.import_module(f"hf_ats.scripts.{COMMANDS[name]}").main()
    else:
        print(f"hf-ats: {name} is not a command; write one of {', '.join(COMMANDS)}.", file=sys.stderr)
        sys.exit(2)


def commands() -> str:
    """Return a line for each command, with the first line of its file."""
    folder = scripts()
    files = {name: ast.parse((folder / f"{file}.py").read_text(encoding="utf-8")) for name, file in COMMANDS.items()}
    return "\n".join(f"  {name:<10} {ast.get_docstring(tree).splitlines()[0]}" for name, tree in files.items())


def scripts() -> Path:
    """Return the folder of the commands, of an installed hf_ats or of a checkout, without importing hf_ats."""
    folder = Path(__file__).parents[1]
    installed = folder / "hf_ats" / "scripts"
    return installed if installed.is_dir() else folder
