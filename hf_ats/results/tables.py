"""The tables that people read, rendered from results: plain text for the screen, Markdown for cards and READMEs."""

import math
import statistics
from collections.abc import Callable, Sequence

from ..partition import names_of_levels


def align(header: Sequence[str], rows: Sequence[Sequence[str]], markup: str = "text", left: int = 1) -> str:
    """Lay out a table: the first `left` columns flush left, the others, which hold numbers, flush right.

    Args:
        header: the heading of each column, with its unit.
        rows: the cells, as many in each row as in the header.
        markup: `"text"` for the screen or `"markdown"`.
        left: how many columns are text.
    """
    columns = zip(header, *rows, strict=True)
    widths = [max(3, *(len(cell) for cell in column)) for column in columns]

    def line(cells):
        return [
            cell.ljust(width) if position < left else cell.rjust(width)
            for position, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]

    rule = ["-" * width for width in widths]
    if markup == "text":
        return "\n".join("  ".join(cells).rstrip() for cells in (line(header), rule, *map(line, rows)))
    rule = [dashes if position < left else dashes[:-1] + ":" for position, dashes in enumerate(rule)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (line(header), rule, *map(line, rows)))


def render_table(results: dict, markup: str = "text") -> str:
    """Render the table of one run: a row for each level, and below it how the figures were found.

    Args:
        results: what `build_results` or `read_results` returned.
        markup: `"text"` for the screen or `"markdown"`.

    Example:
    ```python
    >>> print(render_table(read_results("out/results.json")))
    ```
    """
    levels = results["levels"]
    header = ["level", "parameters", "size (MB)", "FLOPs/token (M)", "BLEU", "chrF", "decoding (tokens/s)"]
    rows = [
        [
            name,
            f"{level['parameters']:,}",
            number(level["size_bytes"], 1e-6, 1),
            number(level["flops_per_token"], 1e-6, 2),
            number(level["bleu"], 1, 2),
            number(level["chrf"], 1, 2),
            number((level.get("decoding_speed") or {}).get("tokens_per_second"), 1, 0),
        ]
        for name, level in levels.items()
    ]
    notes = _scoring_notes(results)
    notes += [f"Decoding speed: median of the repeats, {way}" for way in ways_of_measuring(levels)]
    separator = "\n\n" if markup == "markdown" else "\n"
    return align(header, rows, markup) + "\n\n" + separator.join(notes)


def _scoring_notes(results: dict) -> list[str]:
    notes = []
    for score, field in (("BLEU", "bleu_signature"), ("chrF", "chrf_signature")):
        signatures = unique(level[field] for level in results["levels"].values())
        notes.append(f"{score}: sacreBLEU {', '.join(signatures)}")
    if results["generation"]:
        notes.append(f"Decoding of the scored translations: {settings(results['generation'])}")
    notes.append(
        "Parameters, size and FLOPs are those of the exported network; FLOPs per target token, forward, a "
        "multiply-add is 2."
    )
    return notes


def mean_and_deviation(values: Sequence[float | None]) -> str:
    """Return mean (standard deviation of the sample), the paper's form; a dash if a value is missing or no number."""
    if any(value is None or math.isnan(value) for value in values):
        return "-"
    mean = number(statistics.mean(values), 1, 2)
    return mean if len(values) == 1 else f"{mean} ({statistics.stdev(values):.2f})"


def parts_of(partition: dict | None) -> list[dict]:
    """Return the partitions of a composition, a single one as a list, and none of an unpartitioned network."""
    return partition.get("parts", [partition]) if partition else []


def core_sizes(partition: dict | None) -> dict[str, str]:
    """Return the size of each core of one partition by the name of its level.

    It is `0.25` of ratios, `ranks 2 to 8` of ranks of their own, `1 decoder layer` by depth.
    """
    if not partition:
        return {}
    ranks = sorted((partition.get("ranks") or {}).values())
    layers = {half: partition.get(f"{half}_layers") for half in ("encoder", "decoder")}
    layers = {
        half: [one if isinstance(one, int) else len(one) for one in kept] for half, kept in layers.items() if kept
    }
    if ranks:
        sizes = [f"rank {ranks[0]}" if ranks[0] == ranks[-1] else f"ranks {ranks[0]} to {ranks[-1]}"]
    elif layers:
        numbers = zip(*layers.values(), strict=True)
        sizes = [
            " and ".join(f"{number} {half}" for half, number in zip(layers, core, strict=True))
            + f" layer{'' if core[-1] == 1 else 's'}"
            for core in numbers
        ]
    else:
        sizes = [f"{ratio:g}" for ratio in partition["ratios"]]
    return dict(zip(names_of_levels(len(sizes)), sizes, strict=False))


def told_sizes(partition: dict | None, tell: Callable[[str, dict], str]) -> dict[str, str]:
    """Return what is told of each core by the name of its level, of all parts of a composition together.

    Args:
        partition: of the results, or None, which has no cores.
        tell: the text for a size, as `core_sizes` has it, and the partition that it is of.
    """
    by_part = [{name: tell(size, part) for name, size in core_sizes(part).items()} for part in parts_of(partition)]
    return {name: ", ".join(sizes[name] for sizes in by_part) for name in (by_part[0] if by_part else ())}


def ways_of_measuring(levels: dict[str, dict]) -> list[str]:
    """Return how the decoding speeds were measured, each way once."""
    keys = ("device", "threads", "dtype", "batch_size", "num_beams", "sentences", "repeats")
    measured = [level["decoding_speed"] for level in levels.values() if level.get("decoding_speed")]
    return unique(settings({key: speed[key] for key in keys if key in speed}) for speed in measured)


def settings(values: dict) -> str:
    """Return `name=value`, one after another."""
    return ", ".join(f"{name}={value}" for name, value in values.items())


def number(value: float | None, scale: float, digits: int) -> str:
    """Return `value * scale` with `digits` decimals and thousands set off; a dash if there is none."""
    return "-" if value is None or value != value else f"{value * scale:,.{digits}f}"


def unique(values) -> list[str]:
    """Return the different values, in the order in which they came."""
    return list(dict.fromkeys(values))


def sample_translations(
    sources: Sequence[str], references: Sequence[str], translations: dict[str, Sequence[str]], number: int = 5
) -> str:
    """Render a few sentences, evenly spaced, with the reference and each network's translation below one another."""
    names = ["source", "reference", *translations]
    width = max(map(len, names))
    columns = [sources, references, *translations.values()]
    step = max(1, len(sources) // number)
    blocks = (
        "\n".join(f"{name.rjust(width)}: {column[row]}" for name, column in zip(names, columns, strict=True))
        for row in range(0, len(sources), step)
    )
    return "\n\n".join(list(blocks)[:number])
