"""What every benchmark prints, and docs/performance.md shows: the tables of a record, only from the record."""

import shlex
from collections.abc import Callable

from hf_ats.results import align

_SPREAD = {"median", "low", "high"}


def render_record(record: dict, markup: str = "text") -> str:
    """Return all tables of a record: its measurements, its ratios, and the shares of its profiles."""
    return "\n\n".join(
        [*render_measurements(record, markup), render_ratios(record, markup), *render_profiles(record, markup)]
    )


def render_measurements(record: dict, markup: str = "text") -> list[str]:
    """Return a table for measurements of like kind: a row each, a column for each figure, with its unit.

    The unit follows from a figure's name: `seconds`, `flops`, and at its end `bytes` or `share`. A spread shows its
    median and, in brackets, its quartiles.
    """
    tables: list[dict[str, dict]] = []
    for name, figures in record["measurements"].items():
        figures = {key: value for key, value in figures.items() if not isinstance(value, dict) or _is_spread(value)}
        if not figures:
            continue
        alike = [table for table in tables if any(key in other for other in table.values() for key in figures)]
        table = alike[0] if alike else {}
        if not alike:
            tables.append(table)
        table[name] = figures
    return [_render_table(table, markup) for table in tables]


def _render_table(table: dict[str, dict], markup: str) -> str:
    columns = list(dict.fromkeys(key for figures in table.values() for key in figures))
    header, cells = ["measured"], []
    for column in columns:
        unit, render = _unit(column, [figures[column] for figures in table.values() if column in figures])
        words = column.removesuffix("_bytes").removesuffix("_share").replace("_", " ")
        if unit in ("s", "ms"):
            words = words.replace("seconds", "time")
        header.append(f"{words} ({unit})" if unit else words)
        cells.append([_cell(figures.get(column), render) for figures in table.values()])
    return align(header, [[name, *row] for name, row in zip(table, zip(*cells, strict=True), strict=True)], markup)


def _unit(column: str, values: list) -> tuple[str, Callable[[float], str]]:
    """Return the unit that suits the figures of a column, and how to write one of them."""
    smallest = min((_middle(value) for value in values if not isinstance(value, str) and _middle(value)), default=0)
    if column.endswith("bytes"):
        digits = 1 if smallest >= 1e6 else 3
        return "MB", lambda value: f"{value * 1e-6:,.{digits}f}"
    if "flops" in column:
        scale, unit = next(((s, u) for s, u in ((1e-12, "T"), (1e-9, "G")) if smallest * s >= 0.01), (1e-6, "M"))
        return unit, lambda value: f"{value * scale:,.3f}"
    if column.endswith("share"):
        return "%", lambda value: f"{100 * value:.1f}"
    if "seconds" in column and "per_second" not in column:
        if smallest < 0.1:
            return "ms", lambda value: f"{1e3 * value:,.2f}"
        return "s", lambda value: f"{value:,.3f}"
    return "", lambda value: f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _cell(value, render: Callable[[float], str]) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if _is_spread(value):
        return f"{render(value['median'])} ({render(value['low'])} to {render(value['high'])})"
    return render(value)


def _middle(value) -> float:
    return value["median"] if isinstance(value, dict) else value


def _is_spread(value) -> bool:
    return isinstance(value, dict) and set(value) == _SPREAD


def render_ratios(record: dict, markup: str = "text") -> str:
    """Return a table with a row for each ratio: median, quartiles, and what only FLOPs or parameters would allow."""
    rows = []
    for name, ratio in record["ratios"].items():
        measured = "median" in ratio
        rows.append(
            [
                name,
                f"{ratio['median' if measured else 'value']:.3f}",
                f"{ratio['low']:.3f} to {ratio['high']:.3f}" if measured else "counted",
                f"{ratio['limit']:.3f}" if "limit" in ratio else "-",
            ]
        )
    return align(["ratio", "median", "quartiles", "limit"], rows, markup)


def render_profiles(record: dict, markup: str = "text") -> list[str]:
    """Return a table, if anything was profiled: a column for each measurement, a row for each kind of operation."""
    profiles = {name: figures["profile"] for name, figures in record["measurements"].items() if "profile" in figures}
    if not profiles:
        return []
    kinds = list(dict.fromkeys(kind for shares in profiles.values() for kind in shares))
    rows = [[kind, *(f"{100 * shares.get(kind, 0):.0f}%" for shares in profiles.values())] for kind in kinds]
    return [align(["share of the time in operations", *profiles], rows, markup)]


def render_circumstances(record: dict) -> str:
    """Say in Markdown on what and with which command a record was made."""
    machine, versions = record["machine"], record["versions"]
    device = machine["device"] if machine["device"] != "cpu" else f"{machine['threads']} threads"
    allocator = "".join(f", `{name}={value}`" for name, value in machine["allocator"].items())
    assignments = "".join(f"{name}={shlex.quote(value)} " for name, value in machine["allocator"].items())
    return (
        f"{machine['processor']}, {machine['cores']} cores, {device}{allocator}; Python {versions['python']}, torch "
        f"{versions['torch']}, transformers {versions['transformers']}; {record['created'][:10]}.\n\n"
        f"```bash\n{assignments}{record['command']}\n```"
    )
