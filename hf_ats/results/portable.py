"""Paths as other people may see them: without the folders of the machine that a run was on."""

import os
import re
import shlex
from pathlib import PurePosixPath

_WIDTH = 90  # after which the next flag begins a line


def portable(text: str) -> str:
    """Shorten a path that is absolute or leaves the working directory to its last two parts; leave all else.

    Example:

    ```python
    >>> portable("/home/ann/data/multi30k/train")
    'multi30k/train'
    ```
    """
    if not re.match(r"(file:|/|~|\.\./|[A-Za-z]:[\\/])", text):
        # also within a word, as in the JSON of a flag; an address of the web is not such a path
        return re.sub(r"(?<=[\"'=:,\[{ ])(?<!:/)(/(?!/)[^\s\"',}\]]+)", lambda found: portable(found[1]), text)
    text = text.removeprefix("file:")
    parts = [part for part in PurePosixPath(text.replace(os.sep, "/")).parts if part not in ("/", "..")]
    return "/".join(parts[-2:])


def portable_results(results: dict) -> dict:
    """Return a run's results with portable paths in the fields that say how they were found; idempotent."""

    def shortened(value):
        if isinstance(value, dict):
            return {name: one if name == "source_prefix" else shortened(one) for name, one in value.items()}
        if isinstance(value, list):
            return [shortened(one) for one in value]
        return portable(value) if isinstance(value, str) else value

    of_machine = {name: shortened(results[name]) for name in ("model", "data", "training")}
    command = shlex.join(map(_portable_word, _words(results["command"])))
    return {**results, **of_machine, "command": command}


def portable_command(command: str) -> str | None:
    """Return the command line of a training with portable paths, in lines; None for any other, as a notebook's."""
    words = _words(command)
    if words[:2] != ["hf-ats", "train"] and not any(word.endswith("train_translation.py") for word in words):
        return None
    lines, line = [], []
    for word in (shlex.quote(_portable_word(word)) for word in words):
        # A flag stays with its values.
        if line and word.startswith("--") and len(" ".join([*line, word])) > _WIDTH:
            lines.append(" ".join(line))
            line = []
        line.append(word)
    return " \\\n    ".join([*lines, " ".join(line)])


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:  # a command that somebody wrote by hand
        return command.split()


def _portable_word(word: str) -> str:
    flag, given, value = word.partition("=")
    return f"{flag}={portable(value)}" if given and flag.startswith("--") else portable(word)
