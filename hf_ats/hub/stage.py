"""What a push would make, as folders."""

import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

from ..checkpoint import ExportReport, move_into_place
from .account import full_name, repository_names
from .contents import CARD, PAGE, PLOT, RESULTS, Contents, gather, given, with_card


def stage_run(
    run_directory: str | os.PathLike,
    name: str,
    directory: str | os.PathLike,
    *,
    organization: str | None = None,
    levels: Sequence[str] | None = None,
    **facts,
) -> dict[str, Path]:
    """Writes the repositories that `push_run` would make as folders, to look at, without the Hub.

    Args:
        run_directory: as for `push_run`.
        name: as for `push_run`; without a namespace the cards have `YOU` in its place.
        directory: where the folders `NAME-core`, `NAME-full`, ... go; earlier ones of the same kind are replaced.
        organization: as for `push_run`.
        levels: as for `push_run`.
        facts: as for `push_run`: `license`, `license_name`, `license_link`, `datasets`, `base_model`,
            `languages`.

    Returns:
        By level, the folder.

    Raises:
        ValueError: as for `push_run`.
        FileExistsError: a folder holds something else.
    """
    name = full_name(name, organization)
    name = name if "/" in name else f"YOU/{name}"  # whose token it is, only the Hub knows
    _, parts = gather(run_directory, name, levels, given(**facts))
    names = repository_names(name, parts)
    parts = {level: with_card(part, run_directory, names) for level, part in parts.items()}
    folders = {level: Path(directory) / names[level].split("/")[-1] for level in parts}
    for level, folder in folders.items():
        _check_staged(folder, parts[level])
    for level, folder in folders.items():
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = folder.parent / f".{folder.name}-{uuid.uuid4().hex[:8]}"
        try:
            _write(parts[level], draft)
            move_into_place(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return folders


def _check_staged(folder: Path, part: Contents) -> None:
    if not folder.exists():
        return
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    try:
        ours = {*ExportReport.read(folder).files, CARD, RESULTS, PLOT, PAGE}
    except (OSError, ValueError, TypeError):
        ours = set()
    if not folder.is_dir() or present - ours:
        raise FileExistsError(
            f"{folder} holds something else than an earlier {part.level} repository; move it away, or choose another "
            "directory."
        )


def _write(part: Contents, draft: Path) -> None:
    for name, file in part.files.items():
        path = draft / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(file, bytes):
            path.write_bytes(file)
        else:
            shutil.copyfile(file, path)
