"""What belongs here keeps directories and files on disk whole: drafts, digests, and names that stay inside."""

from .digests import check_files, inside, sha256_of
from .drafts import draft, draft_of, remove_drafts, write_file

__all__ = ["check_files", "draft", "draft_of", "inside", "remove_drafts", "sha256_of", "write_file"]
