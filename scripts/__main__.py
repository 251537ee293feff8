"""`hf-ats COMMAND ...`: the commands by one name. `hf-ats COMMAND --help` says what each takes."""

import ast
import importlib.util
import runpy
import sys

COMMANDS = {
    "train": "train_translation",
    "translate": "translate",
    "evaluate": "evaluate_translation",
    "export": "export",
    "push": "push_to_hub",
    "choose": "choose_level",
    "compare": "compare_runs",
    "report": "report",
    "demo": "demo",
}


def main() -> None:
    """Run the command that the first word names, with the rest of the command line."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(
            "usage: hf-ats COMMAND [--help] ...\n\n"
            + "\n".join(f"  {name:<10} {first_line(name)}" for name in COMMANDS)
        )
        return
    if name not in COMMANDS:
        sys.exit(f"hf-ats: {name} is not a command; write one of {', '.join(COMMANDS)}.")
    sys.argv = [f"hf-ats {name}", *sys.argv[2:]]
    runpy.run_module(f"hf_ats.scripts.{COMMANDS[name]}", run_name="__main__", alter_sys=False)


def first_line(name: str) -> str:
    """What a command does, from the first line of its file, without running it."""
    path = importlib.util.find_spec(f"hf_ats.scripts.{COMMANDS[name]}").origin
    with open(path, encoding="utf-8") as file:
        return ast.get_docstring(ast.parse(file.read())).splitlines()[0]


if __name__ == "__main__":
    main()
