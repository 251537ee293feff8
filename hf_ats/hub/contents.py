"""What a run puts on the Hub: for each level the files of one repository, checked before anything is sent."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..checkpoint import ExportReport, weights_sha256
from ..results import (
    json_text,
    portable_results,
    read_results,
    render_card,
    report_page,
    task_of,
    with_facts,
    write_results,
)
from .account import repository_names

RESULTS = "results.json"
CARD = "README.md"
PLOT = "training.png"
PAGE = "report.html"
_REPORT = "export.json"
_KINDS = ("core", "full")


@dataclass(frozen=True)
class Contents:
    """The files of one repository.

    Attributes:
        level: `"core"`, `"full"`, or a ladder's own name of a level.
        files: what lies where: a path on disk, or the bytes themselves, by path in the repository.
    """

    level: str
    files: dict[str, Path | bytes]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.stat().st_size if isinstance(file, Path) else len(file) for file in self.files.values())


def read_run(run_directory: str | os.PathLike) -> dict:
    """The results of a run of translation, without which there is no card.

    Raises:
        ValueError: there is no such directory, it holds no results, or those of another task.
    """
    run = Path(run_directory)
    if not run.is_dir():
        raise ValueError(
            f"run_directory={str(run)!r} is no directory; give the --output_dir of a run of "
            "scripts/train_translation.py."
        )
    path = run / RESULTS
    if not path.is_file():
        raise ValueError(
            f"{run} holds no {RESULTS}, which the model card is rendered from; give the --output_dir of a finished "
            "run of scripts/train_translation.py, or write it by hf_ats.run.report_trained(trainer, ...)."
        )
    results = read_results(path, task=None)
    if task_of(results) != "translation":
        raise ValueError(
            f"{path} holds the results of {results['task']}, and cards are for translation; export the level that you "
            "want, and upload that directory by huggingface_hub's upload_folder."
        )
    return results


def run_id(results: dict) -> str:
    """What tells one run from another on the Hub, and stays the same when facts of its card are added."""
    if results.get("run_id"):
        return results["run_id"]
    # Results from before there was such an id: all that they found, as it is published.
    found = {name: value for name, value in portable_results(results).items() if name not in ("card", "samples")}
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:32]


def choose_levels(run_directory: str | os.PathLike, results: dict, levels: Sequence[str] | None) -> list[str]:
    """Which levels are pushed: those asked for, or core and full as far as the run has them.

    Raises:
        ValueError: the run has no such level, or none at all.
    """
    there = list(results["levels"])
    if levels is None:
        chosen = [level for level in ("core", "full") if level in there]
        if not chosen:
            raise ValueError(
                f"{run_directory} has neither core nor full; say which to push: levels={there} (--levels "
                f"{' '.join(there)})."
            )
        return chosen
    if isinstance(levels, str) or not levels:
        raise ValueError(f"levels={levels!r} must be a list of names; write for example levels={there}.")
    for level in levels:
        if level not in there:
            raise ValueError(f"levels={list(levels)}: the run in {run_directory} has no {level!r}; it has {there}.")
    return list(dict.fromkeys(levels))


def collect(run_directory: str | os.PathLike, results: dict, level: str) -> Contents:
    """The files of a level's repository that the run has as they are: the export, complete and sound, and plots.

    Raises:
        ValueError: there is no export of that level, or not all of it, or more than it, or a file is cut off.
    """
    run = Path(run_directory)
    directory = run / level
    report = _read_report(directory)
    again = (
        f"write it again by scripts/export.py, or load_partitioned and export_{'full' if level == 'full' else 'core'}"
    )
    if report.level != level or report.kind not in _KINDS:
        raise ValueError(
            f"{directory} holds an export of kind {report.kind!r} at level {report.level!r}, and a repository for "
            f"{level!r} is made of that level; {again}."
        )
    for name in report.files:
        if not (directory / name).is_file():
            raise ValueError(f"{directory} lacks {name}, which its export wrote; {again}.")
    foreign = sorted({file.relative_to(directory).as_posix() for file in directory.rglob("*") if file.is_file()})
    foreign = [name for name in foreign if name not in report.files]
    if foreign:
        raise ValueError(
            f"{directory} holds {foreign[0]}, which its export did not write, and so it would not be published; move "
            "it away."
        )
    for name in report.files:
        _check_sound(directory / name, again)
    found = results["levels"][level]["size_bytes"]
    if report.size_bytes != found:
        raise ValueError(
            f"{run / RESULTS} tells of {found:,} bytes of weights at level {level!r}, and {directory} holds "
            f"{report.size_bytes:,}: they are of different runs; keep a directory to each, and report again."
        )
    hashes = results["levels"][level].get("weights_sha256")
    if hashes is not None and hashes != weights_sha256(directory):
        raise ValueError(
            f"{directory} holds other weights than those whose scores are in {run / RESULTS}; keep a directory to "
            "each training, and report again."
        )
    files: dict[str, Path | bytes] = {name: directory / name for name in report.files}
    if (run / PLOT).is_file():
        files[PLOT] = run / PLOT
    return Contents(level, files)


def given(**facts) -> dict:
    """The facts that were given a value."""
    return {name: fact for name, fact in facts.items() if fact is not None}


def gather(
    run_directory: str | os.PathLike, name: str, levels: Sequence[str] | None, facts: dict
) -> tuple[dict, dict[str, Contents]]:
    """The results, and by level the contents but for the card; given facts are written into the results.

    Raises:
        ValueError: the name is none, the run is not complete, or a fact is not one; nothing was written.
    """
    results = read_run(run_directory)
    chosen = choose_levels(run_directory, results, levels)
    repository_names(name, chosen)
    parts = {level: collect(run_directory, results, level) for level in chosen}
    informed = with_facts(results, facts)
    if informed["card"] != results.get("card", {}):
        write_results(Path(run_directory) / RESULTS, informed)
    return informed, parts


def with_card(part: Contents, run_directory: str | os.PathLike, names: dict[str, str]) -> Contents:
    """The contents with the card of that level, which names the repositories of its sisters, and the results.

    The folders of the machine that the run was on are cut from the results and from the page that shows them.

    Raises:
        ValueError: a fact is missing for the card.
    """
    run = Path(run_directory)
    results = read_run(run)
    rendered = {CARD: render_card(results, part.level, names)}
    results = portable_results(results)
    rendered[RESULTS] = json_text(results)
    if (run / PAGE).is_file():
        rendered[PAGE] = report_page(run, results)
    return replace(part, files={**part.files, **{name: text.encode() for name, text in rendered.items()}})


def _read_report(directory: Path) -> ExportReport:
    remedy = "train to the end, or write it by scripts/export.py or export_core and export_full"
    try:
        return ExportReport.read(directory)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{directory} holds no export; {remedy}.") from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{directory / _REPORT} is not the report of an export ({error}); {remedy}.") from None


def _check_sound(path: Path, remedy: str) -> None:
    """Whether a file is whole, as far as its own format tells."""
    size = path.stat().st_size
    if path.suffix == ".safetensors":
        expected = _safetensors_size(path)
        if expected != size:
            says = "no header that can be read" if expected is None else f"{expected:,} bytes by its header"
            raise ValueError(f"{path} is cut off or damaged: it has {size:,} bytes, and {says}; {remedy}.")
    elif path.suffix == ".json":
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is cut off or damaged ({error}); {remedy}.") from None
    elif size == 0:
        raise ValueError(f"{path} is empty; {remedy}.")


def _safetensors_size(path: Path) -> int | None:
    """Bytes that the file has by its own header; None where that cannot be read."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            return None
        try:
            header = json.loads(file.read(length))
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        except (ValueError, TypeError, KeyError, AttributeError):
            return None
    return 8 + length + max(ends, default=0)
