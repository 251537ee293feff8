"""`report.html`: what a run found, on one page that needs only a browser."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..checkpoint import ExportReport
from ..partition import sort_levels
from ..storage import write_file
from .curves import criteria_panels, is_shown, level_colors, training_panels
from .deployed import deployed_header, deployed_note, deployed_rows
from .page_curves import HEIGHT, WIDTH, lay_out
from .page_figures import Fact, figure_rows, headline, scoring_facts
from .page_samples import mark_sample
from .results import RESULTS, read_json, read_results, task_of
from .tables import core_sizes, number, parts_of, settings

_TEMPLATES = Path(__file__).parent
_MARKERS = ("circle", "square", "triangle", "diamond", "wedge", "cross")


def write_report_page(run_directory: str | os.PathLike) -> Path:
    """Write `report.html` of a run from `results.json`, and from the log in `trainer_state.json` if that is there.

    Exports in the formats of runtimes that lie in the run's directory are shown as their `export.json` has it.

    The page needs no network, no script and no other file. The same files give the same page, byte for byte; it is
    written wholly or not at all.

    Args:
        run_directory: the output directory of a training script.

    Returns:
        `Path`: of the page, `RUN_DIRECTORY/report.html`.

    Raises:
        FileNotFoundError: the directory holds no `results.json`.
        ValueError: one of the files does not hold what it should; the message names it.

    Example:
    ```python
    >>> write_report_page("runs/demo")
    PosixPath('runs/demo/report.html')
    ```
    """
    directory = Path(run_directory)
    if not (directory / RESULTS).is_file():
        raise FileNotFoundError(
            f"{directory} holds no {RESULTS}; give the output directory of a training script that ran to its end."
        )
    page = directory / "report.html"
    write_file(page, report_page(directory, read_results(directory / RESULTS, task=None)))
    return page


def report_page(run_directory: str | os.PathLike, results: dict) -> str:
    """Render the page of a run as text, with its log and its name, and with the results that are given.

    Args:
        run_directory: as in `write_report_page`.
        results: those of the run, or only what other people may see of them.
    """
    directory = Path(run_directory)
    return render_report_page(
        results, _read_log(directory), title=directory.resolve().name, deployed=_read_deployed(directory)
    )


def render_report_page(
    results: dict, log_history: list[dict], title: str, deployed: Sequence[ExportReport] = ()
) -> str:
    """Render the page as text.

    Args:
        results: what `build_results` or `read_results` returned, of either task.
        log_history: `trainer.state.log_history`; empty for a page without curves.
        title: of the page, such as the name of the run.
        deployed: of its exports in the formats of runtimes.
    """
    panels = [*training_panels(log_history, task_of(results)), *criteria_panels(log_history)]
    last_step = max((step for panel in panels for points in panel.series.values() for step, _ in points), default=0)
    samples = [(sample, mark_sample(sample)) for sample in results.get("samples") or []]
    names = sort_levels(
        [
            *results["levels"],
            *(level for panel in panels for level in panel.series),
            *(translation.level for _, translations in samples for translation in translations),
        ]
    )
    looks = {
        name: {"number": index, "light": color, "dark": _lighter(color), "marker": _MARKERS[index % len(_MARKERS)]}
        for index, (name, color) in enumerate(level_colors(names).items())
    }
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    data = results["data"]
    return environment.get_template("page.html").render(
        title=title,
        subtitle=_subtitle(results),
        headline=headline(results),
        looks=looks,
        levels=list(results["levels"]),
        rows=figure_rows(results),
        deployed_header=deployed_header(deployed),
        deployed_rows=deployed_rows(deployed),
        deployed_note=deployed_note(deployed),
        charts=[lay_out(panel, last_step) for panel in panels],
        width=WIDTH,
        height=HEIGHT,
        samples=samples,
        source_lang=_language_tag(data.get("source_lang")),
        target_lang=_language_tag(data.get("target_lang")),
        is_translation=task_of(results) == "translation",
        command=wrap_command(results["command"]),
        facts=_facts(results),
        scoring=scoring_facts(results),
        arguments=[(name, _text(value)) for name, value in results["training"].get("arguments", {}).items()],
        versions=[(name, version or "not installed as a package") for name, version in results["versions"].items()],
        created=results["created"],
    )


def wrap_command(command: str) -> str:
    """Return a command line with a line for each of its flags, which a shell reads as the same words."""
    try:
        words = shlex.split(command)
    except ValueError:  # not written for a shell
        return command
    lines: list[list[str]] = [[]]
    for word in words:
        if word.startswith("--") and len(word) > 2 and lines[-1]:
            lines.append([])
        lines[-1].append(word)
    return " \\\n    ".join(shlex.join(line) for line in lines)


def _read_log(directory: Path) -> list[dict]:
    state_file = directory / "trainer_state.json"
    if not state_file.is_file():
        return []
    state = read_json(state_file, "remove it, and the page has no curves, or put back what the trainer wrote.")
    log = state.get("log_history") if isinstance(state, dict) else None
    if not isinstance(log, list) or not all(map(_is_entry, log)):
        raise ValueError(
            f"{state_file} holds no log_history of steps and numbers; remove it, and the page has no curves, or put "
            "back what the trainer wrote."
        )
    return log


def _read_deployed(directory: Path) -> list[ExportReport]:
    reports = [ExportReport.read(path.parent) for path in sorted(directory.glob("*/export.json"))]
    return [report for report in reports if report.runtime is not None]


def _is_entry(entry) -> bool:
    """Return whether it is what a trainer logs at a step; what no curve shows may be anything."""
    if not isinstance(entry, dict) or type(entry.get("step")) is not int:
        return False
    shown = [entry["step"], *(value for name, value in entry.items() if is_shown(name))]
    return all(value is None or type(value) is float or (type(value) is int and abs(value) < 2**63) for value in shown)


def _subtitle(results: dict) -> str:
    data, partition = results["data"], results["partition"]
    if task_of(results) == "translation":
        what = f"Translation {data['source_lang']} → {data['target_lang']}"
    else:
        what = "Image classification"
    how = f"{results['training']['schedule']} schedule"
    return " · ".join([what, how, _core_sizes(partition) if partition else "no partition"])


def _core_sizes(partition: dict) -> str:
    def told(part: dict) -> str:
        sizes = list(core_sizes(part).values())
        of = f"{part['method']} ratio{'s' if len(sizes) > 1 else ''} " if part.get("ratios") else ""
        return of + ", ".join(sizes)

    return "; ".join(map(told, parts_of(partition)))


def _partition(partition: dict | None) -> str:
    def told(part: dict) -> str:
        given = {name: value for name, value in part.items() if value is not None and value != []}
        if "ranks" in given:  # one for each module, which are many
            given["ranks"] = f"{_core_sizes(part).split(maxsplit=1)[1]} in {len(given['ranks'])} modules"
        return settings(given)

    return "; ".join(map(told, parts_of(partition))) or "none"


def _facts(results: dict) -> list[Fact]:
    model, data, training = results["model"], results["data"], results["training"]
    card = results.get("card") or {}
    facts = [
        ("Model", f"{model['name']} ({model['class']})" if "class" in model else str(model["name"])),
        ("Model settings", settings({name: value for name, value in model.items() if name not in ("name", "class")})),
        ("Base model", card.get("base_model")),
        ("Partition", _partition(results["partition"])),
        ("Training data", data.get("name")),
        ("Data sets", ", ".join(card.get("datasets") or [])),
        ("Sizes", "; ".join(f"{part} {data[part]:,}" for part in ("train", "validation", "test") if part in data)),
        ("Scored on", data.get("test_part")),
        ("Fingerprint of what was scored", data.get("test_fingerprint")),
        ("Schedule", training["schedule"]),
        ("Length", _length(training)),
        ("Cost", f"{training['flops']:.3g} FLOPs, forward and backward" if training["flops"] is not None else None),
        ("Went on from", training.get("resumed_from")),
        ("Recipe", _recipe(training.get("recipe"))),
        ("Seed", str(results["seed"])),
        ("License", card.get("license_name") or card.get("license")),
    ]
    named = {"source_lang", "target_lang", "name", "test_part", "test_fingerprint", "train", "validation", "test"}
    others = {name: value for name, value in data.items() if name not in named}
    facts.append(("Data settings", settings(others)))
    return [(name, str(value)) for name, value in facts if value]


def _length(training: dict) -> str:
    parts = [f"{training['steps']:,} steps", f"{number(training['epochs'], 1, 2)} epochs"]
    if training["seconds"] is not None:
        minutes, seconds = divmod(round(training["seconds"]), 60)
        hours, minutes = divmod(minutes, 60)
        parts.append(
            f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
        )
    if training.get("processes", 1) > 1:
        parts.append(f"{training['processes']} processes")
    return ", ".join(parts)


def _recipe(recipe: dict | None) -> str | None:
    if not recipe:
        return None
    overridden = ", ".join(recipe.get("overridden") or [])
    return f"{recipe.get('name')}{f', but for {overridden}' if overridden else ''}"


def _text(value) -> str:
    return value if isinstance(value, str) else settings({"": value})[1:]


def _language_tag(code: str | None) -> str | None:
    """Return `de_DE` and `deu_Latn` as a browser reads them; None for what is not a language code."""
    parts = (code or "").replace("_", "-").split("-")
    if not all(part.isascii() and part.isalnum() and len(part) <= 8 for part in parts):
        return None
    return "-".join(parts) if 2 <= len(parts[0]) <= 3 and parts[0].isalpha() else None


def _lighter(color: str) -> str:
    """Return a colour a third of the way to white, for a dark ground."""
    channels = (int(color[start : start + 2], 16) for start in (1, 3, 5))
    return "#" + "".join(f"{round(channel + (255 - channel) * 0.35):02X}" for channel in channels)
