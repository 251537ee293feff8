"""Whether what a command left is sound: complete, trained, finite, a line for a line."""

import json
from pathlib import Path

from safetensors.torch import load_file


def unsound(command: str, words: tuple[str, ...], directory: Path, printed: str, steps: int) -> str | None:
    """Return what is wrong with the result of a command that ended with status 0, None if nothing is.

    Args:
        command: its name.
        words: its arguments.
        directory: where it ran.
        printed: its standard output.
        steps: how many optimizer steps it trained.
    """
    if command == "train":
        run = directory / _last(words, "--output_dir", "new")
        return _unsound_run(run, resumed=_last(words, "--resume_from_checkpoint", None) is not None, steps=steps)
    if command == "translate":
        source = directory / _last(words, "--input", "text.de")
        output = _last(words, "--output", "-")
        text = printed if output == "-" else (directory / output).read_text(encoding="utf-8")
        lines = source.read_bytes().count(b"\n")
        return None if text.count("\n") == lines else f"{text.count(chr(10))} lines for {lines}"
    if command == "evaluate":
        scores = json.loads(printed)
        return None if all(0 <= level["bleu"] <= 100 for level in scores.values()) else "no scores"
    return None if printed.strip() else "nothing printed"


def _last(words: tuple[str, ...], flag: str, default):
    value = default
    for word, following in zip(words, (*words[1:], ""), strict=True):
        if word == flag:
            value = following
        elif word.startswith(f"{flag}="):
            value = word.partition("=")[2]
    return value


def _unsound_run(run: Path, resumed: bool, steps: int) -> str | None:
    if not steps and not resumed:
        return "no step was trained"
    if not (run / "results.json").is_file():
        return "no results.json"
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    for name, level in results["levels"].items():
        if not 0 <= level["bleu"] <= 100:
            return f"{name} has no score"
        for file in (run / name).glob("*.safetensors"):
            bad = [key for key, tensor in load_file(file).items() if not tensor.isfinite().all()]
            if bad:
                return f"{name} holds {bad[0]}, which is not finite"
        lines = (run / f"translations.{name}.txt").read_text(encoding="utf-8").count("\n")
        if lines != results["data"][results["data"]["test_part"]]:
            return f"{name} has {lines} translations"
    return None
