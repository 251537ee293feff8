"""What every benchmark prints: its ratios, and the shares of its profiles."""

from ..evaluation.tables import align


def render_ratios(record: dict, markup: str = "text") -> str:
    """A row for each ratio: median and quartiles, and what FLOPs or numbers of parameters alone would allow."""
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
    """One table: a column for each measurement that was profiled, a row for each kind of operation; or nothing."""
    profiles = {name: figures["profile"] for name, figures in record["measurements"].items() if "profile" in figures}
    if not profiles:
        return []
    kinds = list(dict.fromkeys(kind for shares in profiles.values() for kind in shares))
    rows = [[kind, *(f"{100 * shares.get(kind, 0):.0f}%" for shares in profiles.values())] for kind in kinds]
    return [align(["share of the time in operations", *profiles], rows, markup)]
