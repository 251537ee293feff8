"""Tables of several runs, rendered from their result files, and their place in a README."""

import os
import re
import statistics
import textwrap
from collections.abc import Sequence
from pathlib import Path

from ..partition import sort_levels
from ..storage import write_file
from .markdown import fenced, in_code, inert
from .results import read_results
from .tables import align, core_sizes, mean_and_deviation, number, settings, unique

_SCHEDULES = {"full": "full alone", "core": "core alone"}


def render_comparison(
    result_files: Sequence[str | os.PathLike], commands: bool = True, replace: dict[str, str] | None = None
) -> str:
    """Render Markdown tables of runs, from their `results.json`: one of runs with a single core, one of ladders.

    The first has a row for each kind of run; the second, of runs with several cores, a row for each level of each kind
    of run. Runs that differ only in their seed share their rows, as mean ± standard deviation of the sample.
    Rows follow the order of the files. Column `r` has the ratio of a core: of its rank, or after the word "width" of
    its width; and the layers that are partitioned, where they are not the preset's. Below the tables are the
    signatures of the scores, how the translations were decoded, and the commands.

    Args:
        result_files: files that `write_results` wrote.
        commands: whether to list the command of each run under the tables.
        replace: text to replace in the commands, such as the folder where the data lay.

    Raises:
        ValueError: there are no files; one holds no results; or two were scored in different ways or on different
            data, so that their scores do not compare. The message names the files.

    Example:
    ```python
    >>> print(render_comparison(sorted(Path("runs").glob("*/results.json"))))
    ```
    """
    if not result_files:
        raise ValueError("result_files is empty; give the results.json of each run.")
    runs = {str(file): read_results(file) for file in result_files}
    _refuse_what_does_not_compare(runs)
    groups: dict[tuple, list[dict]] = {}
    for results in runs.values():
        groups.setdefault(_kind(results), []).append(results)
    for group in groups.values():
        _refuse_a_seed_twice(group)

    ladders = [group for group in groups.values() if len(_ratios(group[0])) > 1]
    others = [group for group in groups.values() if len(_ratios(group[0])) <= 1]
    parts = [_table_of_runs(others)] if others else []
    if ladders:
        parts.append(_table_of_ladders(ladders))
    parts += _notes(list(runs.values()))
    if commands:
        lines = "\n".join(_shell_lines(unique(results["command"] for results in runs.values())))
        for old, new in (replace or {}).items():
            lines = lines.replace(old, new)
        parts.append(f"The commands:\n\n{fenced('bash', lines)}")
    return "\n\n".join(parts)


def _table_of_runs(groups: list[list[dict]]) -> str:
    """Return a table: a row for each group of runs that differ only in their seed, a column for each score."""
    several_seeds = any(len(group) > 1 for group in groups)
    names = sort_levels(name for group in groups for run in group for name in run["levels"])
    rows = []
    for group in groups:
        ratio = next(iter(_ratios(group[0]).values()), "-")
        row = [_schedule(group), ratio, *_seeds_and_epochs(group, several_seeds)]
        for name in names:
            levels = [run["levels"].get(name) or {} for run in group]
            row += [mean_and_deviation([level.get(score) for level in levels]) for score in ("bleu", "chrf")]
        rows.append([*row, _training_flops(group)])
    header = ["training", "r", *(["seeds"] if several_seeds else []), "epochs"]
    header += [f"{inert(name)} {score}" for name in names for score in ("BLEU", "chrF")]
    return align([*header, "training FLOPs (T)"], rows, "markdown")


def _table_of_ladders(groups: list[list[dict]]) -> str:
    """Return a table: a row for each level of each group; the first of a group says what was trained, how long."""
    several_seeds = any(len(group) > 1 for group in groups)
    rows = []
    for group in groups:
        ratios = _ratios(group[0])
        names = [name for name in (*ratios, "full") if any(name in run["levels"] for run in group)]
        of_run = [_schedule(group), *_seeds_and_epochs(group, several_seeds), _training_flops(group)]
        for name in names:
            levels = [run["levels"].get(name) or {} for run in group]
            parameters = unique(f"{level['parameters']:,}" for level in levels if level)
            rows.append(
                [
                    *(of_run if name == names[0] else [""] * len(of_run)),
                    inert(name),
                    ratios.get(name, "-"),
                    " / ".join(parameters),
                    *(mean_and_deviation([level.get(score) for level in levels]) for score in ("bleu", "chrf")),
                ]
            )
    header = ["training of a ladder", *(["seeds"] if several_seeds else []), "epochs", "training FLOPs (T)"]
    return align([*header, "level", "r", "parameters", "BLEU", "chrF"], rows, "markdown")


def _schedule(group: list[dict]) -> str:
    schedule = group[0]["training"]["schedule"]
    return _SCHEDULES.get(schedule, inert(schedule))


def _seeds_and_epochs(group: list[dict], several_seeds: bool) -> list[str]:
    return [*([str(len(group))] if several_seeds else []), _epochs(group[0])]


def _epochs(results: dict) -> str:
    epochs = results["training"]["epochs"]
    return "-" if epochs is None else f"{epochs:g}"


def _training_flops(group: list[dict]) -> str:
    flops = [run["training"]["flops"] for run in group]
    return number(statistics.mean(flops) if None not in flops else None, 1e-12, 1)


def _ratios(results: dict) -> dict[str, str]:
    """Return the size of each core by level, as column `r` has it; nothing for an unpartitioned network."""
    partition = results["partition"] or {}
    method = "" if partition.get("method") == "rank" else f"{partition.get('method')} "
    targets = partition.get("target_modules") or ()  # names, roles by name, or an expression; none is the preset
    layers = f" ({inert(targets if isinstance(targets, str) else ', '.join(targets))})" if targets else ""
    sizes = core_sizes(partition)
    return sizes if partition.get("ranks") else {name: f"{method}{ratio}{layers}" for name, ratio in sizes.items()}


def update_marked_block(path: str | os.PathLike, text: str, name: str = "runs") -> bool:
    """Replace what stands between `<!-- begin NAME -->` and `<!-- end NAME -->` in a file.

    Args:
        path: the file, such as `README.md`.
        text: what to put there, on lines of its own.
        name: which block.

    Returns:
        `bool`: whether the file changed.

    Raises:
        ValueError: the file does not have those two marks, once each and in this order, or the text has one.
    """
    path = Path(path)
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    before = path.read_text(encoding="utf-8")
    if before.count(begin) != 1 or before.count(end) != 1 or before.index(begin) > before.index(end):
        raise ValueError(
            f"{path} has {before.count(begin)} times {begin!r} and {before.count(end)} times {end!r}; write each "
            "once, the first above the second, where the table belongs."
        )
    if begin in text or end in text:
        raise ValueError(f"the text for {path} holds {begin!r} or {end!r} itself; leave the commands out.")
    head, rest = before.split(begin)
    _, tail = rest.split(end)
    after = f"{head}{begin}\n\n{text.strip()}\n\n{end}{tail}"
    if after == before:
        return False
    write_file(path, after)
    return True


def _shell_lines(commands: Sequence[str]) -> list[str]:
    """Return the commands as lines for a shell, the flags that all of them share written once, in a variable."""
    split = [re.split(r"\s(?=--\w)", command) for command in commands]
    shared = [part for part in split[0][1:] if all(part in other[1:] for other in split)]
    if len(commands) == 1 or not shared:
        return list(commands)
    wrapped = textwrap.wrap(" ".join(shared), 112, break_long_words=False, break_on_hyphens=False)
    first = 'SHARED="' + " \\\n    ".join(wrapped) + '"'
    own = ([part for part in parts if part not in shared] for parts in split)
    return [first, *(" ".join([head, "$SHARED", *rest]) for head, *rest in own)]


def _kind(results: dict) -> tuple:
    """Return what runs of one row have in common: all but the seed and what follows from it."""
    training = results["training"]
    # Seed and schedule are among the arguments too; directories follow from them, and the others do not change what
    # is trained.
    own = re.compile(
        r"seed|_dir$|run_name|^schedule|^logging_|^report_to$|^resume_from_checkpoint$|^save_|^eval_|^do_eval$|"
        r"^disable_tqdm$"
    )
    data = {name: results["data"].get(name) for name in ("name", "train")}
    arguments = {name: value for name, value in training.get("arguments", {}).items() if not own.search(name)}
    if arguments.get("alternate_lr_coef") != "auto":  # which alone follows what is measured
        arguments.pop("criteria_steps", None)
    parts = (results["partition"], results["model"], data, sorted(arguments.items(), key=lambda item: item[0]))
    return (training["schedule"], training["epochs"], *map(repr, parts))


def _refuse_what_does_not_compare(runs: dict[str, dict]) -> None:
    (first, reference), *others = runs.items()
    for file, results in others:
        fields = _fields_of_test_data(results, reference)
        for what, one, other in (
            ("scores", _signatures(results), _signatures(reference)),
            ("decoding", results["generation"], reference["generation"]),
            ("data", *({name: run["data"].get(name) for name in fields} for run in (results, reference))),
        ):
            if one != other:
                raise ValueError(
                    f"{what} of {file} and {first} differ, {one} and {other}, so their scores do not compare; "
                    "evaluate them alike, or give them tables of their own."
                )


def _signatures(results: dict) -> list[str]:
    levels = results["levels"].values()
    return unique(level[field] for field in ("bleu_signature", "chrf_signature") for level in levels)


def _fields_of_test_data(*runs: dict) -> tuple[str, ...]:
    """Return the fields that are equal if two runs were scored on the same sentences: these, or else their origin."""
    fields = ("source_lang", "target_lang")
    if all("test_fingerprint" in run["data"] for run in runs):
        return (*fields, "test_fingerprint")
    return (*fields, "name", "test_part", "test")


def _refuse_a_seed_twice(group: list[dict]) -> None:
    seeds = [run["seed"] for run in group]
    if len(set(seeds)) < len(seeds):
        raise ValueError(
            f"result_files holds runs that differ in nothing, with the seeds {seeds}; give each run once. Commands: "
            + "; ".join(run["command"] for run in group)
        )


def _notes(runs: list[dict]) -> list[str]:
    level = next(iter(runs[0]["levels"].values()))
    bleu, chrf = level["bleu_signature"], level["chrf_signature"]
    notes = [f"BLEU: sacreBLEU {in_code(bleu)}; chrF: {in_code(chrf)}."]
    if runs[0]["generation"]:
        notes.append(f"Decoding: {inert(settings(runs[0]['generation']))}.")
    if any((run["partition"] or {}).get("method") == "width" for run in runs):
        notes.append(
            'r is the ratio of a core\'s rank to the full one; after "width", the share that it keeps of the '
            "feed-forward neurons and, where they are partitioned, of each head's query and key dimensions."
        )
    return notes
