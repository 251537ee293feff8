"""Recipes: files of flags and their values, read below the flags of the command line."""

import argparse
import difflib
import json
import re
import types
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from transformers import HfArgumentParser

from .. import recipes

RECIPES = Path(recipes.__file__).parent
"""The folder of the recipes that come with the package."""


@dataclass(frozen=True)
class Recipe:
    """What a recipe gave a run.

    Args:
        name: as it was given.
        values: of each of its keys, as the run used them: those of the command line where both give one.
        overridden: the keys whose value the command line changed.
    """

    name: str
    values: dict[str, Any]
    overridden: list[str]


class Manual(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the lines above as they are, and names the default of every flag that has one."""

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
        super().__init__(
            groups,
            usage="%(prog)s --output_dir DIR [--recipe NAME] [--flag value ...]",
            description=description,
            formatter_class=Manual,
        )
        self.add_argument(
            "--recipe",
            help="A YAML file of flags and their values, or the name of one in recipes/, such as iwslt14; flags on "
            "the command line override it.",
        )

    def parse(self, argv: Sequence[str] | None = None) -> tuple:
        """The flags of the command line, over those of its recipe; `given` then names those that either has.

        Args:
            argv: the words; by default those that this process was called with.

        Returns:
            `(*groups, recipe)`: an instance of each dataclass, and a `Recipe`, or None where none was given. Whatever
            a user got wrong ends the program with a sentence.
        """
        name = self.parse_args(argv).recipe
        try:
            written = {} if name is None else self.read(name)
            self.given = self._on_the_command_line(argv) | set(written)
            self.set_defaults(**written)
            flags = vars(self.parse_args(argv))
            del flags["recipe"]
            groups = self.parse_dict(flags)
        except (OSError, ValueError) as error:
            self.error(str(error))
        if name is None:
            return *groups, None
        values = {key: flags[key] for key in written}
        return *groups, Recipe(name, values, [key for key in written if values[key] != written[key]])

    def _on_the_command_line(self, argv: Sequence[str] | None) -> set[str]:
        # argparse sets a default only where the namespace has nothing yet.
        unset = object()
        names = argparse.Namespace(**{action.dest: unset for action in self._actions})
        return {name for name, value in vars(self.parse_args(argv, names)).items() if value is not unset}

    def read(self, name: str) -> dict[str, Any]:
        """The flags that a recipe sets, with values of the types that the command line would give.

        Args:
            name: a file, or one of `recipes/`, with or without `.yaml`.

        Raises:
            OSError: there is no such file, or it cannot be read.
            ValueError: it is no YAML, no mapping from flags to values, a key is no flag of this script or may not be
                in a recipe, or a value is not of its flag's type or among its choices.
        """
        path = find_recipe(name)
        hints = {key: hint for group in self.dataclass_types for key, hint in get_type_hints(group).items()}
        flags = {one.name: one for group in self.dataclass_types for one in fields(group) if one.init}
        values = {}
        for key, value in load_recipe(path).items():
            if key == "recipe":
                raise ValueError(f"{path}: recipe: {value!r}, but a recipe holds no other; write its flags out.")
            if key not in flags:
                (nearest,) = difflib.get_close_matches(key, flags, n=1, cutoff=0)
                raise ValueError(f"{path}: {key} is no flag of {self.prog}; the nearest one is {nearest}.")
            if key.endswith("_token"):
                raise ValueError(f"{path}: {key} is a secret, and a recipe is shared; give it as --{key}.")
            values[key] = _checked(f"{path}: {key}", value, hints[key], flags[key].metadata.get("choices"))
        return values


def find_recipe(name: str) -> Path:
    """The file of a recipe.

    Args:
        name: a file, or the name of one in `recipes/`, with or without `.yaml`.

    Raises:
        FileNotFoundError: there is neither.
    """
    paths = [Path(name)]
    if Path(name).name == name:
        paths += [RECIPES / file for file in (name, f"{name}.yaml")]
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        known = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
        raise FileNotFoundError(f"--recipe {name} is neither a file nor a name in recipes/, which holds {known}.")
    return found


def load_recipe(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds, with scalars read by YAML 1.2's core schema.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no YAML, or no mapping from words to values, or has a key twice.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _CoreSchemaLoader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{path}{line}: {error.problem}.") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path} is no YAML: {error}.") from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ValueError(f"{path} is not a mapping from flags to values; write lines such as `learning_rate: 5e-4`.")
    return values


class _CoreSchemaLoader(yaml.SafeLoader):
    """Reads `1e-9` as a number and `no` as text, where PyYAML's YAML 1.1 does the opposite, and `010` as ten."""

    yaml_implicit_resolvers: ClassVar[dict] = {}

    def construct_mapping(self, node, deep=False):
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            seen = set()
            for key_node, _ in node.value:
                if key_node.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{key_node.value} is there twice", key_node.start_mark
                    )
                seen.add(key_node.value)
        return mapping


for _kind, _pattern, _convert in (
    ("null", r"~|null|Null|NULL|", None),
    ("bool", r"true|True|TRUE|false|False|FALSE", None),
    ("int", r"[-+]?[0-9]+", int),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", float),
):
    _tag = f"tag:yaml.org,2002:{_kind}"
    _CoreSchemaLoader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), None)
    if _convert:
        _CoreSchemaLoader.add_constructor(
            _tag, lambda loader, node, convert=_convert: convert(loader.construct_scalar(node))
        )


_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    dict: "a mapping",
}
_EXAMPLES = {float: "0.25", str: "fc1, fc2", int: "1, 2"}


def _checked(where: str, value, hint, choices: Sequence | None):
    """The value as the type of its field has it; ValueError, which begins with `where`, if it is of another type."""
    kinds, shown = _alternatives(hint), json.dumps(value, default=str)
    enums = [member.value for kind in kinds if isinstance(kind, type) and issubclass(kind, Enum) for member in kind]
    choices = choices or enums
    if choices and value is not None:
        if value not in choices:
            raise ValueError(f"{where}: {shown} is not one of {', '.join(map(str, choices))}.")
        return value
    for kind in kinds:
        fits, converted = _fit(value, kind)
        if fits:
            return converted
    words = [_words(kind) for kind in kinds if _words(kind)]
    raise ValueError(f"{where}: {shown} does not fit; this flag takes {' or '.join(words)}.")


def _words(kind) -> str | None:
    if get_origin(kind) is list:
        return f"a list, such as [{_EXAMPLES[get_args(kind)[0]]}]"
    return _WORDS.get(get_origin(kind) or kind)


def _alternatives(hint) -> list:
    """The types of a union, or the type itself."""
    if get_origin(hint) in (Union, types.UnionType):
        return [kind for one in get_args(hint) for kind in _alternatives(one)]
    return [hint]


def _fit(value, kind) -> tuple[bool, Any]:
    """Whether a value of YAML is of a type, and the value as that type has it."""
    if kind is float:
        return type(value) in (int, float), value if not isinstance(value, int) else float(value)
    if get_origin(kind) is Literal:
        return value in get_args(kind), value
    if get_origin(kind) is list and isinstance(value, list):
        (element,) = get_args(kind)
        fits = [_fit(one, element) for one in value]
        return all(fit for fit, _ in fits), [converted for _, converted in fits]
    return type(value) is (get_origin(kind) or kind), value
