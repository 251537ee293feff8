"""Recipes: YAML files of flags and their values, read before the flags of the command line."""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser

_PACKAGE = Path(__file__).parents[1]
# In an installed package they lie inside, in a checkout beside it.
RECIPES = next(path for path in (_PACKAGE / "recipes", _PACKAGE.parent / "recipes") if path.is_dir())
"""The folder of the recipes that come with the package."""


@dataclass(frozen=True)
class Recipe:
    """What a recipe gave a run.

    Args:
        name: as it was given.
        values: of each of its keys, as the run used them: those of the command line if both give one.
        overridden: the keys whose value the command line changed.
    """

    name: str
    values: dict[str, Any]
    overridden: list[str]


class Manual(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """A formatter that keeps the lines above the flags as they are, and names the default of each flag with one."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, argparse.SUPPRESS) else super()._get_help_string(action)


class FlagParser(HfArgumentParser):
    """The flags of a script: groups of them, each a dataclass, and `--recipe`.

    Args:
        groups: the dataclasses; every field is a flag.
        description: what `--help` shows above them.

    Example:

    ```python
    >>> parser = FlagParser([DataArguments, ATSTrainingArguments], description=__doc__)
    >>> data_args, args, recipe = parser.parse()
    ```
    """

    def __init__(self, groups: Sequence[type], description: str):
        self.given: set[str] = set()
        self._recipe: Path | None = None
        super().__init__(
            groups,
            usage="%(prog)s --output_dir DIR [--recipe NAME] [--flag value ...]",
            description=description,
            formatter_class=Manual,
        )
        self.add_argument(
            "--recipe",
            help="A YAML file of flags and their values, or the name of one that comes with hf_ats, such as iwslt14; "
            "flags on the command line override it.",
        )

    def error(self, message: str) -> None:
        """End the program with a sentence, which names the recipe if that is wrong."""
        super().error(message if self._recipe is None else f"{self._recipe}: {message}")

    def parse(self, argv: Sequence[str] | None = None) -> tuple:
        """Read the flags of the command line, over those of its recipe; `given` then names those that either has.

        Args:
            argv: the words; by default those that this process was called with.

        Returns:
            `(*groups, recipe)`: an instance of each dataclass, and a `Recipe`, or None if none was given. A mistake of
            the user ends the program with a sentence.
        """
        argv = list(sys.argv[1:] if argv is None else argv)
        unset = object()  # argparse sets a default only if the namespace has no value yet
        marked = argparse.Namespace(**{action.dest: unset for action in self._actions})
        here = {dest: value for dest, value in vars(self.parse_args(argv, marked)).items() if value is not unset}
        name, written = here.get("recipe"), {}
        try:
            if name is not None:
                self._recipe = find_recipe(name)
                written = self._words(self._recipe)
            self.given = {*here, *written}
            # A null is not a word, so it replaces the default.
            nulls = {dest: None for dest, words in written.items() if words is None}
            self.set_defaults(**nulls)
            recipe = [word for words in written.values() for word in words or ()]
            flags = vars(self.parse_args([*recipe, *argv]))  # the last word for a flag counts
            of_recipe = vars(self.parse_args([*argv, *recipe])) | nulls
            self._recipe = None
            del flags["recipe"]
            groups = self.parse_dict(flags)
        except (ImportError, OSError, TypeError, ValueError, yaml.YAMLError) as error:
            self.error(str(error))
        if name is None:
            return *groups, None
        values = {dest: flags[dest] for dest in written}
        return *groups, Recipe(name, values, [dest for dest in written if values[dest] != of_recipe[dest]])

    def _words(self, path: Path) -> dict[str, list[str] | None]:
        """Return by flag the words that give it on a command line; None for a null."""
        with path.open("rb") as file:
            values = yaml.load(file, _Words)
        if not isinstance(values, dict):
            raise ValueError("this is not a mapping from flags to values; write lines such as `learning_rate: 5e-4`.")
        words = {}
        for key, value in values.items():
            action = self._option_string_actions.get(f"--{key}")
            if action is None:
                raise ValueError(f"unrecognized arguments: --{key}")
            if action.dest == "recipe" or action.dest.endswith("_token"):  # results.json would tell the token
                raise ValueError(f"{key} cannot stand in a recipe, which is shared; give it as --{key}.")
            if isinstance(value, list):
                words[action.dest] = [f"--{key}", *map(_word, value)]
            elif isinstance(value, dict):
                words[action.dest] = [f"--{key}={json.dumps(_plain(value))}"]
            else:
                words[action.dest] = None if value is None else [f"--{key}={value}"]
        return words


def find_recipe(name: str) -> Path:
    """Return the file of a recipe.

    Args:
        name: a file, or the name of one that comes with the package, with or without `.yaml`.

    Raises:
        FileNotFoundError: there is neither.
    """
    paths = [Path(name)]
    if Path(name).name == name:
        paths += [RECIPES / name, RECIPES / f"{name}.yaml"]
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        known = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
        raise FileNotFoundError(f"--recipe {name} is neither a file nor one of hf_ats's own, which are {known}.")
    return found


class _Words(yaml.BaseLoader):
    """A loader that reads every scalar as it is written, and null as None, and refuses a key that is there twice."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise ValueError(f"{twice[0]} is there twice; keep one of them.")
        return super().construct_mapping(node, deep)


_Words.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(~|null|)$"), ["~", "n", ""])
_Words.add_constructor("tag:yaml.org,2002:null", lambda loader, node: None)


def _word(value) -> str:
    """Return the word that stands on a command line for an entry of a list."""
    if isinstance(value, list):
        return ",".join([*value, *([""] if len(value) == 1 else [])])
    return json.dumps(_plain(value)) if isinstance(value, dict) else value


def _plain(value):
    """Return what the scalars inside a mapping say: JSON's numbers and constants, or text."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    try:
        return json.loads(value)
    except (TypeError, ValueError):
        return value
