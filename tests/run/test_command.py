"""How commands end if a user got something wrong, and that a translation is a line."""

import sys

import pytest

from hf_ats.run import one_line, user_errors


@pytest.mark.parametrize(
    "error",
    [
        ValueError("what to write instead"),
        FileNotFoundError(2, "what to write instead"),
        ImportError("what to write instead"),
        RuntimeError("WandbCallback requires wandb to be installed: what to write instead"),
    ],
)
def test_a_mistake_of_the_user_ends_with_a_sentence(error, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/some/where/command"])
    with pytest.raises(SystemExit, match=r"^command: .*what to write instead$"), user_errors():
        raise error


def test_a_bug_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="shapes"), user_errors():
        raise RuntimeError("shapes of 2 and 3 do not fit")


def test_a_translation_is_one_line_for_every_reader():
    text = "one\ntwo\r\nthree\rfour\n\nfive"
    assert one_line(text) == "one two three four five"
    assert one_line("a\u2028b\x85c\x0bd") == "a\u2028b\x85c\x0bd", "text of which no reader of lines makes two"
