"""Tables of several runs, rendered from their result files, and their place in a README."""

import math
import os
import re
import statistics
import textwrap
from collections.abc import Sequence
from pathlib import Path

from .results import read_results
from .tables import align, number, settings, unique

_SCHEDULES = {"full": "full alone", "core": "core alone"}


def render_comparison(
    result_files: Sequence[str | os.PathLike], commands: bool = True, replace: dict[str, str] | None = None
) -> str:
    """A Markdown table with a row for each kind of run, from the `results.json` of the runs.

    Runs that differ in nothing but their seed share a row, as mean ± standard deviation of the sample. Rows stand in
    the order of the files. Below the table are the signatures of the scores, how the translations were decoded, and
    the commands.

    Args:
        result_files: files that `write_results` wrote.
        commands: whether to list the command of each run under the table.
        replace: text in the commands to write otherwise, such as the folder where the data lay.

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

    names = unique(name for results in runs.values() for name in results["levels"])
    names.sort(key=lambda name: (name == "full", name != "core", name))
    several_seeds = any(len(group) > 1 for group in groups.values())
    header = ["training", "r", *(["seeds"] if several_seeds else []), "epochs"]
    header += [f"{name} {score}" for name in names for score in ("BLEU", "chrF")]
    header += ["training FLOPs (T)"]
    rows = []
    for (schedule, ratios, epochs, *_), group in groups.items():
        row = [
            _SCHEDULES.get(schedule, schedule),
            ratios,
            *([str(len(group))] if several_seeds else []),
            f"{epochs:g}",
        ]
        for name in names:
            for score in ("bleu", "chrf"):
                row.append(_mean_and_deviation([(run["levels"].get(name) or {}).get(score) for run in group]))
        flops = [run["training"]["flops"] for run in group]
        row.append(number(statistics.mean(flops) if None not in flops else None, 1e-12, 1))
        rows.append(row)
    parts = [align(header, rows, "markdown"), *_notes(next(iter(runs.values())))]
    if commands:
        lines = "\n".join(_shell_lines(unique(results["command"] for results in runs.values())))
        for old, new in (replace or {}).items():
            lines = lines.replace(old, new)
        parts.append(f"The commands:\n\n```bash\n{lines}\n```")
    return "\n\n".join(parts)


def update_marked_block(path: str | os.PathLike, text: str, name: str = "runs") -> bool:
    """Replaces what stands between `<!-- begin NAME -->` and `<!-- end NAME -->` in a file.

    Args:
        path: the file, such as `README.md`.
        text: what to put there, on lines of its own.
        name: which block.

    Returns:
        `bool`: whether the file changed.

    Raises:
        ValueError: the file does not have those two marks, once each and in this order.
    """
    path = Path(path)
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    before = path.read_text(encoding="utf-8")
    if before.count(begin) != 1 or before.count(end) != 1 or before.index(begin) > before.index(end):
        raise ValueError(
            f"{path} has {before.count(begin)} times {begin!r} and {before.count(end)} times {end!r}; write each "
            "once, the first above the second, where the table belongs."
        )
    head, rest = before.split(begin)
    _, tail = rest.split(end)
    after = f"{head}{begin}\n\n{text.strip()}\n\n{end}{tail}"
    if after == before:
        return False
    path.write_text(after, encoding="utf-8")
    return True


def _shell_lines(commands: Sequence[str]) -> list[str]:
    """The commands as lines for a shell, the flags that all of them share written once, in a variable."""
    split = [re.split(r"\s(?=--\w)", command) for command in commands]
    shared = [part for part in split[0][1:] if all(part in other[1:] for other in split)]
    if len(commands) == 1 or not shared:
        return list(commands)
    wrapped = textwrap.wrap(" ".join(shared), 112, break_long_words=False, break_on_hyphens=False)
    first = 'SHARED="' + " \\\n    ".join(wrapped) + '"'
    own = ([part for part in parts if part not in shared] for parts in split)
    return [first, *(" ".join([head, "$SHARED", *rest]) for head, *rest in own)]


def _kind(results: dict) -> tuple:
    """What runs of one row have in common: all but the seed and what follows from it."""
    training, partition = results["training"], results["partition"]
    ratios = ", ".join(f"{ratio:g}" for ratio in partition["ratios"]) if partition else "-"
    # The seed stands in the arguments too; the directories follow from it, and the others do not change what is
    # trained.
    own = re.compile(
        r"seed|_dir$|run_name|^logging_|^report_to$|^resume_from_checkpoint$|^save_|^eval_|^do_eval$|^disable_tqdm$"
    )
    data = {name: results["data"].get(name) for name in ("name", "train")}
    arguments = {name: value for name, value in training.get("arguments", {}).items() if not own.search(name)}
    return (
        training["schedule"],
        ratios,
        training["epochs"],
        *(
            repr(part)
            for part in (partition, results["model"], data, sorted(arguments.items(), key=lambda item: item[0]))
        ),
    )


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
    """What says that two runs were scored on the same sentences: these, or for want of them where they came from."""
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


def _mean_and_deviation(values: list[float | None]) -> str:
    if any(value is None or math.isnan(value) for value in values):
        return "-"
    mean = number(statistics.mean(values), 1, 2)
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.2f}"


def _notes(results: dict) -> list[str]:
    bleu, chrf = _signatures(results)[:2]
    notes = [f"BLEU: sacreBLEU `{bleu}`; chrF: `{chrf}`."]
    if results["generation"]:
        notes.append(f"Decoding: {settings(results['generation'])}.")
    return notes
