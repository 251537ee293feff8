"""Grids: YAML files of recipe x method x seed, the runs that they ask for, and whether what lies there is of them."""

import contextlib
import io
import json
import re
import shlex
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import yaml

from examples.image_classification import parse_flags as parse_image_flags
from hf_ats.deployment import FORMATS
from hf_ats.partition import stock_config_dict
from hf_ats.results import RESULTS, json_text, read_results, training_arguments
from hf_ats.run import parse_flags
from hf_ats.storage import checkpoints_in, read_checkpoint
from hf_ats.training import trained_levels

HERE = Path(__file__).parent
ROOT = HERE.parent
GRIDS, RECORDS, WORK = HERE / "grids", HERE / "results", ROOT / "runs" / "experiments"

# By what a grid trains: the words that start the command, and what reads its flags.
_COMMANDS = {
    "translation": (["scripts/train_translation.py"], parse_flags),
    "images": (["-m", "examples.image_classification.train"], parse_image_flags),
}
# Of a run, beside the trainer's flags: the run whose full network it starts from, and a recipe instead of the scale's.
_OF_GRID = ("start", "recipe")


@dataclass(frozen=True)
class Scale:
    """How large a grid's runs are.

    Args:
        recipe: a file beside the grid, or the name of one of hf_ats.
        seeds: of each run.
        data: flags whose values are paths below the folder of the data.
        flags: those that all runs have beside the recipe.
    """

    recipe: str
    seeds: list[str]
    data: dict[str, str]
    flags: dict[str, str | list[str]]


@dataclass(frozen=True)
class Grid:
    """A grid at one scale.

    Args:
        path: its file.
        title: what it is, for people.
        train: `"translation"` or `"images"`.
        scale: the name of the scale, and
        setting: what it is.
        data: the folder of the data.
        flags: of each run, by its name.
        paper: the paper's figures of a run, by their heading.
        equal_cost: by the name of a run, the runs whose training FLOPs together its own are to equal.
        formats: those of runtimes that `deployed.py` measures the networks in.
    """

    path: Path
    title: str
    train: str
    scale: str
    setting: Scale
    data: Path
    flags: dict[str, dict[str, str | list[str]]]
    paper: dict[str, dict[str, str]]
    equal_cost: dict[str, list[str]]
    formats: list[str]

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.path.stem

    @property
    def pool(self) -> str:
        """The recipe's name: grids of one recipe share the runs that have the same name."""
        return Path(self.setting.recipe).stem

    @cached_property
    def runs(self) -> list["Run"]:
        """All runs, one seed after another."""
        return [Run(self, name, int(seed)) for seed in self.setting.seeds for name in self.flags]

    def run(self, name: str, seed: int) -> "Run":
        """Return the run of a name and a seed."""
        return next(run for run in self.runs if (run.name, run.seed) == (name, seed))

    def check_data(self) -> None:
        """Raise FileNotFoundError if there is no file of a part of the data."""
        for flag, path in self.setting.data.items():
            if not list(self.data.glob(f"{path}*")):
                raise FileNotFoundError(
                    f"{self.name} asks for {flag} {path}, and {self.data} has no such file; give the folder of the "
                    "data as --data, and see docs/experiments.md for how it is prepared."
                )


@dataclass(frozen=True, eq=False)
class Run:
    """One run of a grid: a name, whose flags the grid has, with a seed."""

    grid: Grid
    name: str
    seed: int

    @property
    def id(self) -> str:
        """The name of its folder and file."""
        return f"{self.name}-seed{self.seed}"

    @property
    def folder(self) -> Path:
        """Where it trains, which git ignores."""
        return WORK / self.grid.pool / self.id

    @property
    def is_trained(self) -> bool:
        """Whether its exports lie in its folder."""
        return (self.folder / RESULTS).exists()

    @cached_property
    def start(self) -> "Run | None":
        """The run of the same seed whose full network it starts from; None for a run from scratch."""
        name = self.grid.flags[self.name].get("start")
        return self.grid.run(name, self.seed) if name else None

    @property
    def log(self) -> Path:
        """What it prints; the process that trains it holds the lock of this file."""
        return self.folder.with_name(f"{self.id}.log")

    @property
    def record(self) -> Path:
        """Its small JSON file, which is committed."""
        return RECORDS / self.grid.pool / f"{self.id}.json"

    def words(self, data: Path | str, output_dir: Path | str) -> list[str]:
        """Return the command line after the interpreter, but for a resume."""
        setting, own = self.grid.setting, self.grid.flags[self.name]
        name = own.get("recipe", setting.recipe)
        recipe = self.grid.path.parent / name
        words = [*_COMMANDS[self.grid.train][0], "--recipe"]
        words.append(str(recipe.resolve()) if recipe.suffix and recipe.is_file() else name)
        if self.start:
            words += ["--model_name_or_path", str(Path(output_dir).with_name(self.start.id) / "full")]
        for flag, path in setting.data.items():
            words += [f"--{flag}", str(Path(data, path))]
        for flag, value in {**setting.flags, **{name: own[name] for name in own if name not in _OF_GRID}}.items():
            words += [f"--{flag}", *([value] if isinstance(value, str) else value)]
        return [*words, "--seed", str(self.seed), "--output_dir", str(output_dir)]

    def command(self) -> str:
        """Return the command as it is shown: the same wherever data and repository lie."""
        words = self.words("data", Path("runs", "experiments", self.grid.pool, self.id))
        return shlex.join(["python", *words]).replace(f"{ROOT}/", "")

    @cached_property
    def flags(self) -> tuple:
        """What the trainer makes of the flags: model, data and training arguments, and the partition.

        Raises:
            ValueError: they are not flags of the trainer, or contradict one another.
        """
        begin, parse = _COMMANDS[self.grid.train]
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                model, data, partition, *_, args, _recipe = parse(
                    "", self.words(self.grid.data, self.folder)[len(begin) :]
                )
            return model, data, args, partition.config()
        except (SystemExit, ValueError) as error:
            reason = said.getvalue().strip().rpartition("error: ")[2] or error
            raise ValueError(f"{self.grid.name}: run {self.name!r} cannot be trained: {reason}") from None

    @property
    def shape(self) -> dict:
        """What tells its core from those of other partitions."""
        partition = self.flags[3]
        return shape_of(partition and partition.to_dict())

    def portable(self, facts: dict) -> dict:
        """Return facts of the model with the name of `start` in place of the folder that its full network lies in."""
        folder = f"/{self.start.id}/full" if self.start else None
        return {name: self.start.name if folder and str(one).endswith(folder) else one for name, one in facts.items()}

    def check(self) -> None:
        """Raise ValueError if flags are wrong, or what lies in the run's folder is of another recipe."""
        if self.start:
            _, _, args, partition = self.start.flags
            cores = partition.num_cores if partition else 0
            if cores not in trained_levels(args.schedule, cores + 1):
                raise ValueError(
                    f"{self.grid.name}: run {self.name!r} starts from {self.start.name!r}, which trains no full "
                    "network; name one that does."
                )
        self.flags  # noqa: B018
        if self.is_trained:
            self.check_results(self.folder / RESULTS)
        elif found := checkpoints_in(self.folder):
            self._check_checkpoint(found[0])
        if self.record.exists():
            self.check_results(self.record)

    def check_results(self, path: Path) -> dict:
        """Return the results in a file.

        Raises:
            ValueError: the file holds no results, or those of a run that is not this one.
        """
        results = read_results(path, task=None)
        model, _, args, _ = self.flags
        found, asked = training_arguments(results["training"]["arguments"]), training_arguments(args.changed_fields())
        self._compare(path, {"seed": results["seed"]}, {"seed": self.seed})
        self._compare(path, shape_of(results["partition"]), self.shape)
        facts = self.portable(model.facts() if self.grid.train == "translation" else vars(model))
        found_facts = self.portable(results["model"])
        self._compare(path, found_facts, {name: facts[name] for name in facts if name in found_facts})
        self._compare(path, found, asked)
        return results

    def _check_checkpoint(self, checkpoint: Path) -> None:
        record = read_checkpoint(checkpoint)
        stored = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        found = stock_config_dict(stored)[1].to_dict() if "ats_partition" in stored else None
        model, data, args, _ = self.flags
        self._compare(checkpoint, shape_of(found), self.shape)
        here = {
            name: value for name, value in (vars(model) | vars(data)).items() if name not in self.grid.setting.data
        }
        shared = here.keys() & record["settings"].keys()
        settings = (self.portable({name: one[name] for name in shared}) for one in (record["settings"], here))
        self._compare(checkpoint, *settings)
        names = {one.name for one in fields(args)} & record["arguments"].keys()
        now = args.to_dict()
        here = training_arguments({name: now[name] for name in names if not name.endswith("_token")})
        self._compare(checkpoint, {name: record["arguments"][name] for name in here}, here)

    def _compare(self, path: Path, found: dict, asked: dict) -> None:
        asked = json.loads(json_text(asked))
        for name in sorted(found.keys() | asked.keys()):
            one, other = found.get(name), asked.get(name)
            if one != other and name not in ("class", "name"):
                raise ValueError(
                    f"{path} is of a run with {name} {one}, and {self.grid.name} asks for {name} {other} in "
                    f"{self.id}; move it away, or give this run another name."
                )


def shape_of(partition: dict | None) -> dict:
    """Return what tells partitions apart in every record of one; not all keep the start of the cores."""
    if partition is None:
        return {"method": None}
    parts = [
        {name: value for name, value in part.items() if value is not None and name not in ("init", "tables")}
        for part in partition.get("parts", [partition])
    ]
    return parts[0] if len(parts) == 1 else {"partitions": parts}


class _Unique(yaml.BaseLoader):
    """A loader that reads scalars as they are written, and refuses a key that is there twice."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        twice = [key for key in dict.fromkeys(keys) if keys.count(key) > 1]
        if twice:
            raise ValueError(
                f"{twice[0]!r} is there twice (line {node.start_mark.line + 1} on); each needs a name of its own."
            )
        return super().construct_mapping(node, deep)


def load_grid(name: str, scale: str | None, data: Path) -> Grid:
    """Read a grid.

    Args:
        name: a file, or the name of one in `experiments/grids`.
        scale: one of its scales; by default its first.
        data: the folder of the data.

    Raises:
        FileNotFoundError: there is no such grid.
        ValueError: it has an unknown field, a run twice, or no such scale.
    """
    path = next((path for path in (Path(name), GRIDS / f"{name}.yaml") if path.is_file()), None)
    if path is None:
        known = ", ".join(sorted(path.stem for path in GRIDS.glob("*.yaml")))
        raise FileNotFoundError(f"{name} is neither a file nor one of the grids here, which are {known}.")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Unique)
        needed = ("title", "train", "scales", "runs")
        values = _mapping(values, "the grid", (*needed, "paper", "equal_cost", "formats"), needed)
        if values["train"] not in _COMMANDS:
            raise ValueError(f"train: {values['train']} is not known; write one of {', '.join(_COMMANDS)}.")
        scales = _mapping(values["scales"], "scales")
        scale = scale or next(iter(scales))
        if scale not in scales:
            raise ValueError(f"it has no scale {scale!r}; give one of {', '.join(scales)}.")
        setting = _mapping(scales[scale], scale, ("recipe", "seeds", "data", "flags"), ("recipe", "seeds"))
        seeds = setting["seeds"]
        if not isinstance(seeds, list) or not all(re.fullmatch(r"\d+", str(seed)) for seed in seeds):
            raise ValueError(f"seeds: {seeds} of {scale} is not a list of whole numbers.")
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds: {', '.join(seeds)} of {scale} has one twice; each seed is a run of its own.")
        runs = {run: _flags(flags, run) for run, flags in _mapping(values["runs"], "runs").items()}
        wrong = [run for run in runs if not re.fullmatch(r"[\w.-]+", run)]
        if wrong:
            raise ValueError(f"run {wrong[0]!r} cannot name a folder; write letters, digits, dots and dashes.")
        for number, (run, flags) in enumerate(runs.items()):
            if "start" in flags and flags["start"] not in list(runs)[:number]:
                raise ValueError(
                    f"run {run!r} starts from {flags['start']!r}, which is no run above it; name one that is, or "
                    "leave start out."
                )
        paper = {
            run: _mapping(row, run) for run, row in _mapping(values.get("paper", {}), "paper", tuple(runs)).items()
        }
        equal_cost = _mapping(values.get("equal_cost", {}), "equal_cost", tuple(runs))
        for run, others in equal_cost.items():
            _names(others, f"equal_cost of {run}", tuple(runs))
        formats = _names(values.get("formats", []), "formats", tuple(FORMATS))
        whole = Scale(
            setting["recipe"],
            seeds,
            _mapping(setting.get("data", {}), "data"),
            _flags(setting.get("flags", {}), "flags"),
        )
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None
    return Grid(path, values["title"], values["train"], scale, whole, data, runs, paper, equal_cost, formats)


def _flags(value, what: str) -> dict[str, str | list[str]]:
    for name, given in _mapping(value, what).items():
        if not all(isinstance(one, str) for one in (given if isinstance(given, list) else [given])):
            raise ValueError(f"{what}: {name} is {given!r}; write a value, or a list of them.")
    return value


def _names(value, what: str, known: tuple[str, ...]) -> list[str]:
    if not isinstance(value, list) or not set(map(str, value)) <= set(known):
        raise ValueError(f"{what} is {value!r}; write a list of some of {', '.join(known)}.")
    return value


def _mapping(value, what: str, known: tuple[str, ...] | None = None, needed: tuple[str, ...] = ()) -> dict:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is {value!r}; write a mapping of names to values.")
    unknown = [name for name in value if known is not None and name not in known]
    if unknown:
        raise ValueError(f"{what} has the unknown field {unknown[0]!r}; there are {', '.join(known)}.")
    missing = [name for name in needed if name not in value]
    if missing:
        raise ValueError(f"{what} lacks the field {missing[0]!r}.")
    return value
