"""The versions that results were found with, and the command."""

import importlib.metadata
import platform
import re
import shlex

_PACKAGES = ("hf_ats", "torch", "transformers", "accelerate", "datasets", "evaluate", "sacrebleu", "sentencepiece")
# `--hub_token`, `--push_to_hub_token`, and what argparse takes for one of them; those of a script of one's own; and
# what looks like a token anywhere.
_SECRET_FLAG = re.compile(
    r"--(hub[-_]t|push[-_]to[-_]hub[-_]t|([\w-]*[-_])?(token|api[-_]?key|secret|password)$)[\w-]*"
)
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{16,}")


def installed_versions() -> dict[str, str | None]:
    """Return the versions of Python and of the packages that matter for the results; None if one is not installed."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def without_secrets(command: str) -> str:
    """Return the command with `***` instead of tokens: results are shown and published."""
    try:
        words = shlex.split(command)
    except ValueError:  # a command that somebody wrote by hand
        return _TOKEN.sub("***", command)
    hidden = list(words)
    for place, word in enumerate(words):
        flag, given, _ = word.partition("=")
        if not _SECRET_FLAG.fullmatch(flag):
            continue
        if given:
            hidden[place] = f"{flag}=***"
        elif place + 1 < len(words):
            hidden[place + 1] = "***"
    return command if hidden == words and not _TOKEN.search(command) else _TOKEN.sub("***", shlex.join(hidden))
