"""Tables of several runs, rendered from their result files, and their place in a README."""

import os
import re
import statistics
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from ..partition import sort_levels
from ..storage import write_file
from .markdown import fenced, in_code, inert
from .results import read_results, task_of
from .tables import align, mean_and_deviation, number, parts_of, settings, told_sizes, unique

_SCHEDULES = {"full": "full alone", "core": "core alone"}
# By task, the scores of a level and their headings.
_SCORES = {"translation": {"bleu": "BLEU", "chrf": "chrF"}, "image-classification": {"accuracy": "accuracy (%)"}}
_WATCHING = re.compile(
    r"_dir$|run_name|^log_|^logging_|^report_to$|^resume_from_checkpoint$|^save_|^eval_|^do_eval$|^disable_tqdm$|^debug$"
    r"|^include_num_input_tokens_seen$"
)


def render_comparison(
    result_files: Sequence[str | os.PathLike],
    commands: bool = True,
    replace: dict[str, str] | None = None,
    beside: Callable[[list[dict]], dict[str, str]] | None = None,
) -> str:
    """Render Markdown tables of runs, from their `results.json`: one of runs with a single core, one of ladders.

    The first has a row for each kind of run; the second, of runs with several cores, a row for each level of each kind
    of run. Runs that differ only in their seed share their rows, as mean (standard deviation of the sample).
    Rows follow the order of the files. Column `training` has the schedule and, where two rows would look the same, the
    arguments that differ. Column `r` has the ratio of a core: of its rank, or after the word "width" of its width, or
    how many layers it has; and the layers that are partitioned, where they are not the preset's. Below the tables are
    the signatures of the scores, how the translations were decoded, and the commands.

    Args:
        result_files: files that `write_results` wrote, of translation or of images.
        commands: whether to list the command of each run under the tables.
        replace: text to replace in the commands, such as the folder where the data lay.
        beside: more cells of each row of the first table, by their heading, from the results of its runs.

    Raises:
        ValueError: there are no files; one holds no results; or two are of different tasks, or were scored in
            different ways or on different data, so that their scores do not compare. The message names the files.

    Example:
    ```python
    >>> print(render_comparison(sorted(Path("runs").glob("*/results.json"))))
    ```
    """
    if not result_files:
        raise ValueError("result_files is empty; give the results.json of each run.")
    runs = {str(file): read_results(file, task=None) for file in result_files}
    _refuse_what_does_not_compare(runs)
    groups: dict[tuple, list[dict]] = {}
    for results in runs.values():
        groups.setdefault(_kind(results), []).append(results)
    for group in groups.values():
        _refuse_a_seed_twice(group)

    ladders = [group for group in groups.values() if len(_ratios(group[0])) > 1]
    others = [group for group in groups.values() if len(_ratios(group[0])) <= 1]
    parts = [_table_of_runs(others, beside)] if others else []
    if ladders:
        parts.append(_table_of_ladders(ladders))
    parts += _notes(list(runs.values()))
    if commands:
        lines = "\n".join(_shell_lines(unique(results["command"] for results in runs.values())))
        for old, new in (replace or {}).items():
            lines = lines.replace(old, new)
        parts.append(f"The commands:\n\n{fenced('bash', lines)}")
    return "\n\n".join(parts)


def _table_of_runs(groups: list[list[dict]], beside: Callable[[list[dict]], dict[str, str]] | None) -> str:
    """Return a table: a row for each group of runs that differ only in their seed, a column for each score."""
    scores = _SCORES[task_of(groups[0][0])]
    names = sort_levels(name for group in groups for run in group for name in run["levels"])
    more = [beside(group) if beside else {} for group in groups]
    headings = unique(heading for cells in more for heading in cells)
    rows = []
    for group, training, cells in zip(groups, _trainings(groups), more, strict=True):
        ratio = next(iter(_ratios(group[0]).values()), "-")
        row = [training, ratio, str(len(group)), _epochs(group[0])]
        for name in names:
            levels = [run["levels"].get(name) or {} for run in group]
            row += [mean_and_deviation([level.get(score) for level in levels]) for score in scores]
        rows.append([*row, *_costs(group), *(cells.get(heading, "-") for heading in headings)])
    header = ["training", "r", "seeds", "epochs"]
    header += [f"{inert(name)} {score}" for name in names for score in scores.values()]
    return align([*header, *_cost_headings(groups[0]), *headings], rows, "markdown")


def _table_of_ladders(groups: list[list[dict]]) -> str:
    """Return a table: a row for each level of each group; the first of a group says what was trained, how long."""
    scores = _SCORES[task_of(groups[0][0])]
    rows = []
    for group, training in zip(groups, _trainings(groups), strict=True):
        ratios = _ratios(group[0])
        names = [name for name in (*ratios, "full") if any(name in run["levels"] for run in group)]
        of_run = [training, str(len(group)), _epochs(group[0]), *_costs(group)]
        for name in names:
            levels = [run["levels"].get(name) or {} for run in group]
            parameters = unique(f"{level['parameters']:,}" for level in levels if level)
            rows.append(
                [
                    *(of_run if name == names[0] else [""] * len(of_run)),
                    inert(name),
                    ratios.get(name, "-"),
                    " / ".join(parameters),
                    *(mean_and_deviation([level.get(score) for level in levels]) for score in scores),
                ]
            )
    header = ["training of a ladder", "seeds", "epochs", *_cost_headings(groups[0])]
    return align([*header, "level", "r", "parameters", *scores.values()], rows, "markdown")


def _trainings(groups: list[list[dict]]) -> list[str]:
    """Return what each group trained: the schedule and, where two would look the same, the arguments that differ."""
    alike: dict[tuple, list[dict]] = {}
    for group in groups:
        alike.setdefault(_looks(group[0]), []).append(_arguments_beside_the_schedule(group[0]))
    names = []
    for group in groups:
        schedule, own = group[0]["training"]["schedule"], _arguments_beside_the_schedule(group[0])
        others = alike[_looks(group[0])]
        differ = {name: own[name] for name in own if any(own[name] != other.get(name) for other in others)}
        name = _SCHEDULES.get(schedule, inert(schedule))
        names.append(f"{name} ({inert(settings(differ))})" if differ else name)
    return names


def _looks(results: dict) -> tuple:
    return (results["training"]["schedule"], results["training"]["epochs"], *_ratios(results).items())


def _costs(group: list[dict]) -> list[str]:
    epoch = [run["training"].get("epoch_forward_flops") for run in group]
    flops = [run["training"]["flops"] for run in group]
    forward = [] if None in epoch else [number(statistics.mean(epoch), 1e-12, 3)]
    return [*forward, number(statistics.mean(flops) if None not in flops else None, 1e-12, 1)]


def _cost_headings(group: list[dict]) -> list[str]:
    return ["forward FLOPs per epoch (T)", "training FLOPs (T)"][-len(_costs(group)) :]


def _epochs(results: dict) -> str:
    epochs = results["training"]["epochs"]
    return "-" if epochs is None else f"{round(epochs, 2):g}"


def _ratios(results: dict) -> dict[str, str]:
    """Return the size of each core by level, as column `r` has it; nothing for an unpartitioned network."""
    parts = len(parts_of(results["partition"]))

    def told(size: str, part: dict) -> str:
        if not part.get("ratios"):
            return size
        method = "" if part["method"] == "rank" and parts == 1 else f"{part['method']} "
        targets = part.get("target_modules") or ()  # names, roles by name, or an expression; none is the preset
        layers = f" ({inert(targets if isinstance(targets, str) else ', '.join(targets))})" if targets else ""
        return f"{method}{size}{layers}"

    return told_sizes(results["partition"], told)


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
    data = {name: value for name, value in results["data"].items() if not name.startswith(("test", "validation"))}
    arguments = _arguments_beside_the_schedule(results)
    parts = (results["partition"], results["model"], data, sorted(arguments.items(), key=lambda item: item[0]))
    return (training["schedule"], training["epochs"], *map(repr, parts))


def _arguments_beside_the_schedule(results: dict) -> dict:
    arguments = training_arguments(results["training"].get("arguments", {}))
    own = {name: value for name, value in arguments.items() if name != "seed" and not name.startswith("schedule")}
    calibration = results["model"].get("calibration_sentences")
    return own | ({"calibration_sentences": calibration} if calibration else {})


def training_arguments(arguments: dict) -> dict:
    """Return those of a run's arguments that change what is trained, not how it is watched and where it is kept."""
    own = {name: value for name, value in arguments.items() if not _WATCHING.search(name)}
    if own.get("alternate_lr_coef") != "auto":  # which alone follows what is measured
        own.pop("criteria_steps", None)
    return own


def _refuse_what_does_not_compare(runs: dict[str, dict]) -> None:
    (first, reference), *others = runs.items()
    for file, results in others:
        fields = _fields_of_test_data(results, reference)
        for what, one, other in (
            ("tasks", task_of(results), task_of(reference)),
            ("scores", _signatures(results), _signatures(reference)),
            ("decoding", results.get("generation"), reference.get("generation")),
            ("data", *({name: run["data"].get(name) for name in fields} for run in (results, reference))),
        ):
            if one != other:
                raise ValueError(
                    f"{what} of {file} and {first} differ, {one} and {other}, so their scores do not compare; "
                    "evaluate them alike, or give them tables of their own."
                )


def _signatures(results: dict) -> list[str]:
    levels = results["levels"].values()
    return unique(level.get(field) for field in ("bleu_signature", "chrf_signature") for level in levels)


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
    images = task_of(runs[0]) != "translation"
    if images:
        notes = [
            "Accuracy of the exported networks on the test images. FLOPs: a multiply-add is 2; of an epoch the passes "
            "forward alone, of the training forward and backward."
        ]
    else:
        level = next(iter(runs[0]["levels"].values()))
        bleu, chrf = level["bleu_signature"], level["chrf_signature"]
        notes = [f"BLEU: sacreBLEU {in_code(bleu)}; chrF: {in_code(chrf)}."]
    if runs[0].get("generation"):
        notes.append(f"Decoding: {inert(settings(runs[0]['generation']))}.")
    if any(part["method"] == "width" for run in runs for part in parts_of(run["partition"])):
        keeps = (
            "channels"
            if images
            else ("feed-forward neurons and, where they are partitioned, of each head's query and key dimensions")
        )
        notes.append(
            f'r is the ratio of a core\'s rank to the full one; after "width", the share that it keeps of the {keeps}.'
        )
    return notes
