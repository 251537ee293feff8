"""Text of anybody's in Markdown: shown as it is, whatever it holds, and never read as markup."""

import re

# Within a word an underscore is one; everywhere else it could begin emphasis.
_MARKUP = re.compile(r"[\\`*\[\]|~$]|(?<!\w)_|_(?!\w)")


class Markdown(str):
    """Text that is Markdown already."""

    __slots__ = ()


def inert(value) -> Markdown:
    """Return a value as one line of Markdown that shows it, in a paragraph or in a cell of a table."""
    if isinstance(value, Markdown):
        return value
    text = _MARKUP.sub(r"\\\g<0>", re.sub(r"\s+", " ", str(value)))
    return Markdown(text.replace("&", "&amp;").replace("<", "&lt;"))


def in_code(text: str) -> Markdown:
    """Return text as a span of code."""
    text = re.sub(r"\s", " ", text)
    fence = "`" * (_longest_run(text) + 1)
    space = " " if "`" in text else ""
    return Markdown(f"{fence}{space}{text}{space}{fence}")


def fenced(language: str, text: str | None) -> Markdown | None:
    """Return text as a block of code; None for None."""
    if text is None:
        return None
    fence = "`" * max(3, _longest_run(text) + 1)
    return Markdown(f"{fence}{language}\n{text.strip()}\n{fence}")


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
