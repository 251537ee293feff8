"""The figures of a report page: what each level is worth and costs, beside the full network."""

from collections.abc import Callable
from dataclasses import dataclass

from .results import task_of
from .tables import number, settings, unique, ways_of_measuring

Fact = tuple[str, str]


@dataclass(frozen=True)
class Cell:
    """A figure of one level, its share of the full network's figure, and the length of its bar (0 to 100)."""

    text: str
    share: str | None
    bar: float | None


@dataclass(frozen=True)
class Row:
    """One quantity at every level."""

    name: str
    unit: str
    cells: list[Cell]


def _speed(level: dict) -> float | None:
    return (level.get("decoding_speed") or {}).get("tokens_per_second")


# Name, unit, value of a level, scale, decimals.
_QUANTITIES: dict[str, tuple[tuple[str, str, Callable[[dict], float | None], float, int], ...]] = {
    "translation": (
        ("BLEU", "0 to 100", lambda level: level["bleu"], 1, 2),
        ("chrF", "0 to 100", lambda level: level["chrf"], 1, 2),
        ("Parameters", "", lambda level: level["parameters"], 1, 0),
        ("Weights on disk", "MB", lambda level: level["size_bytes"], 1e-6, 2),
        ("FLOPs per token", "million", lambda level: level["flops_per_token"], 1e-6, 2),
        ("Decoding speed", "tokens/s", _speed, 1, 0),
    ),
    "image-classification": (
        ("Accuracy", "%", lambda level: level["accuracy"], 1, 2),
        ("Parameters", "", lambda level: level["parameters"], 1, 0),
        ("Weights on disk", "MB", lambda level: level["size_bytes"], 1e-6, 2),
        ("FLOPs per image", "million", lambda level: level["flops_per_image"], 1e-6, 2),
    ),
}


def figure_rows(results: dict) -> list[Row]:
    """Return a row for each quantity that was measured at any level, with a cell for each level."""
    levels = results["levels"]
    rows = []
    for name, unit, value_of, scale, digits in _QUANTITIES[task_of(results)]:
        values = {level: value_of(figures) for level, figures in levels.items()}
        known = [value for value in values.values() if value is not None]
        if not known:
            continue
        full, most = values.get("full"), max(known)
        cells = [
            Cell(
                number(value, scale, digits),
                _share(value, full) if level != "full" else None,
                100 * max(0.0, value) / most if value is not None and most > 0 else None,
            )
            for level, value in values.items()
        ]
        rows.append(Row(name, unit, cells))
    return rows


def headline(results: dict) -> str:
    """Say what the run found, in a sentence or two."""
    levels = results["levels"]
    of_images = task_of(results) == "image-classification"
    field, unit, digits = ("accuracy", "% accuracy", 1) if of_images else ("bleu", " BLEU", 1)

    def score(level: dict) -> str:
        value = level[field]
        return "no finite score" if value is None else f"{value:.{digits}f}{unit}"

    if not {"core", "full"} <= levels.keys():
        return " ".join(f"The {name} network scores {score(level)}." for name, level in levels.items())
    core, full = levels["core"], levels["full"]
    cost = "flops_per_image" if of_images else "flops_per_token"
    per = "image" if of_images else "token"
    text = (
        f"The core scores {score(core)} where the full network scores {score(full)}, with "
        f"{_share(core['parameters'], full['parameters'])} of its parameters and "
        f"{_share(core[cost], full[cost])} of its FLOPs per {per}"
    )
    if _speed(core) and _speed(full):
        text += f"; it decodes {_speed(core) / _speed(full):.2f} times as fast"
    between = len(levels) - 2
    return text + (
        "." if not between else f". {between} more {'levels lie' if between > 1 else 'level lies'} between."
    )


def scoring_facts(results: dict) -> list[Fact]:
    """Say how the scored translations were decoded and scored, and how the speed was measured."""
    levels = results["levels"].values()
    facts = []
    for score, field in (("BLEU", "bleu_signature"), ("chrF", "chrf_signature")):
        signatures = unique(level[field] for level in levels if field in level)
        if signatures:
            facts.append((f"{score}, sacreBLEU", "; ".join(signatures)))
    if results.get("generation"):
        facts.append(("Decoding", settings(results["generation"])))
    for way in ways_of_measuring(results["levels"]):
        facts.append(("Decoding speed", f"median of the repeats; {way}"))
    ranges = [
        f"{name} {number(speed['slowest'], 1, 0)} to {number(speed['fastest'], 1, 0)}"
        for name, level in results["levels"].items()
        if (speed := level.get("decoding_speed")) and {"slowest", "fastest"} <= speed.keys()
    ]
    if ranges:
        facts.append(("Slowest to fastest repeat", f"{'; '.join(ranges)} tokens/s"))
    parity = [
        f"{name} {level['parity']:.1e}" for name, level in results["levels"].items() if level.get("parity") is not None
    ]
    if parity:
        facts.append(("Largest difference of an export's outputs from the trained network's", "; ".join(parity)))
    return facts


def _share(value: float | None, full: float | None) -> str | None:
    if value is None or not full:
        return None
    share = 100 * value / full
    return f"{share:.0f}%" if share >= 9.95 else f"{share:.1f}%"
