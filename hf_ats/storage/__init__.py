"""What belongs here keeps directories and files on disk whole: drafts, digests, checkpoints, names of files."""

from .checkpoints import (
    CHECKPOINT,
    RUN,
    check_checkpoint,
    checkpoints_in,
    last_checkpoint,
    read_checkpoint,
    read_run,
    seal_checkpoint,
    step_of,
    write_run,
)
from .digests import check_files, inside, is_sealed, sealed, sha256_of
from .drafts import draft, draft_of, remove_drafts, remove_whole, write_file

__all__ = [
    "CHECKPOINT",
    "RUN",
    "check_checkpoint",
    "check_files",
    "checkpoints_in",
    "draft",
    "draft_of",
    "inside",
    "is_sealed",
    "last_checkpoint",
    "read_checkpoint",
    "read_run",
    "remove_drafts",
    "remove_whole",
    "seal_checkpoint",
    "sealed",
    "sha256_of",
    "step_of",
    "write_file",
    "write_run",
]
