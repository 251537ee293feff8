"""What a run puts on the Hub: for each level the files of one repository, checked before anything is sent."""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import CommitOperationAdd

from ..checkpoint import REPORT_NAME, ExportReport
from ..results import (
    RESULTS,
    json_text,
    portable_results,
    read_results,
    render_card,
    report_page,
    with_facts,
    write_results,
)
from ..storage import draft, inside
from .account import full_name, repository_names
from .space import CARD, SPACE, Files, check_compared, gradio_version, space_files

_PLOT = "training.png"
_PAGE = "report.html"


def read_run(
    run_directory: str | os.PathLike, levels: Sequence[str] | None = None
) -> tuple[dict, dict[str, ExportReport]]:
    """Return the results of a run, and by level the export, whose files are what it wrote.

    Args:
        run_directory: as for `push_run`.
        levels: as for `push_run`.

    Raises:
        ValueError: the run is not complete, or has no such level.
    """
    run = Path(run_directory)
    if not (run / RESULTS).is_file():
        raise ValueError(
            f"run_directory={str(run)!r} holds no {RESULTS}, which says what the run found; give the "
            "--output_dir of a finished run of hf-ats train, or write it by hf_ats.run.report_trained(trainer, ...)."
        )
    results = read_results(run / RESULTS)
    there = list(results["levels"])
    chosen = list(dict.fromkeys(levels or [level for level in ("core", "full") if level in there]))
    if not chosen or not set(chosen) <= set(there):
        raise ValueError(f"levels={chosen}: the run in {run} has {there}; name some of them.")
    return results, {level: _sound_export(run, results, level) for level in chosen}


def gather(
    run_directory: str | os.PathLike, name: str, levels: Sequence[str] | None, space: bool, facts: dict
) -> tuple[dict, dict[str, Files]]:
    """Return the results, and by level the files of its repository that the run has as they are.

    Facts that are not None are written into the results.

    Raises:
        ValueError: the Hub does not take the name, the run is not complete, or a fact is wrong; nothing was written.
    """
    run = Path(run_directory)
    results, exports = read_run(run, levels)
    if space:
        gradio_version()
        check_compared(run, results, list(exports))
    repository_names(name, [*exports, *[SPACE] * space])
    parts = {level: _files_of_export(run, export) for level, export in exports.items()}
    if any(fact is not None for fact in facts.values()):
        results = with_facts(results, facts)
        write_results(run / RESULTS, results)
    return results, parts


def with_card(
    part: Files, run_directory: str | os.PathLike, results: dict, level: str, names: dict[str, str]
) -> Files:
    """Return the files with the card of that level, which names the repositories of its sisters, and the results.

    The folders of the machine that the run was on are cut from the results and from the page that shows them.

    Raises:
        ValueError: a fact is missing for the card.
    """
    run = Path(run_directory)
    card = render_card(results, level, names)
    results = portable_results(results)
    rendered = {CARD: card, RESULTS: json_text(results)}
    if (run / _PAGE).exists():  # whatever it holds, it is rendered anew
        rendered[_PAGE] = report_page(run, results)
    return part | {name: CommitOperationAdd(name, text.encode()) for name, text in rendered.items()}


def run_id(results: dict) -> str:
    """Return what tells one run from another on the Hub, and stays the same when facts of its card are added."""
    if results.get("run_id"):
        return results["run_id"]
    # Results from before there was such an id: all that they found, as it is published.
    found = {name: value for name, value in portable_results(results).items() if name not in ("card", "samples")}
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:32]


def stage_run(
    run_directory: str | os.PathLike,
    name: str,
    directory: str | os.PathLike,
    *,
    organization: str | None = None,
    levels: Sequence[str] | None = None,
    space: bool = False,
    **facts,
) -> dict[str, Path]:
    """Write the repositories that `push_run` would make as folders, to look at, without the Hub.

    Args:
        run_directory: as for `push_run`.
        name: as for `push_run`; without a namespace the cards have `YOU` in its place.
        directory: where the folders `NAME-core`, `NAME-full`, ... go; earlier ones of the same kind are replaced.
        organization: as for `push_run`.
        levels: as for `push_run`.
        space: as for `push_run`.
        facts: as for `push_run`: `license`, `license_name`, `license_link`, `datasets`, `base_model`,
            `languages`.

    Returns:
        By level, the folder; that of a Space as `"app"`.

    Raises:
        ValueError: as for `push_run`.
        FileExistsError: a folder holds something else.
    """
    name = full_name(name, organization)
    name = name if "/" in name else f"YOU/{name}"  # only the Hub knows whose token it is
    results, parts = gather(run_directory, name, levels, space, facts)
    names = repository_names(name, [*parts, SPACE])
    linked = {level: names[level] for level in parts}
    parts = {level: with_card(part, run_directory, results, level, linked) for level, part in parts.items()}
    if space:
        parts[SPACE] = space_files(results, linked, names[SPACE])
    folders = {level: Path(directory) / names[level].split("/")[-1] for level in parts}
    for level, folder in folders.items():
        _check_staged(folder, set(parts[level]) if level == SPACE else None)
    for level, folder in folders.items():
        with draft(folder) as drafted:
            for path, file in parts[level].items():
                (drafted / path).parent.mkdir(parents=True, exist_ok=True)
                with file.as_file() as source, (drafted / path).open("wb") as target:
                    shutil.copyfileobj(source, target)
    return folders


def _sound_export(run: Path, results: dict, level: str) -> ExportReport:
    directory = inside(run, level)
    try:
        report = ExportReport.read(directory)
        report.check()
    except OSError as error:
        raise ValueError(
            f"{directory} holds no complete export ({error}); export level {level!r} again by hf-ats export, or train "
            "to the end."
        ) from None
    found = results["levels"][level]
    scored = (level, found["size_bytes"], found.get("weights_sha256", report.weights_sha256))
    if scored != (report.level, report.size_bytes, report.weights_sha256):
        raise ValueError(
            f"{directory} holds other weights than those whose scores are in {run / RESULTS}; keep a directory to "
            "each training, and report again."
        )
    return report


def _files_of_export(run: Path, report: ExportReport) -> Files:
    """Return the files that an export wrote, and the run's plot."""
    files = {name: CommitOperationAdd(name, inside(report.path, name)) for name in [*report.files, REPORT_NAME]}
    if (run / _PLOT).is_file():
        files[_PLOT] = CommitOperationAdd(_PLOT, inside(run, _PLOT))
    return files


def _check_staged(folder: Path, ours: set[str] | None) -> None:
    """Raise FileExistsError if a folder holds something else than an earlier repository of its kind.

    Its files are `ours`; None: those that an export there names, and what comes with them.
    """
    if not folder.exists():
        return
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    present = {path.relative_to(folder).as_posix() for path in found}
    if ours is None:
        try:
            ours = {*ExportReport.read(folder).files, REPORT_NAME, CARD, RESULTS, _PLOT, _PAGE}
        except (OSError, ValueError):
            ours = set()
    if not folder.is_dir() or present - ours:
        raise FileExistsError(
            f"{folder} holds something else than an earlier dry run; move it away, or choose another directory."
        )
