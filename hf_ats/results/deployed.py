"""The figures of exports in the formats of runtimes: a table of several, and the card of one."""

from collections.abc import Sequence

from huggingface_hub import ModelCard, ModelCardData

from ..checkpoint import ExportReport
from .cards import templates
from .markdown import Markdown
from .tables import align, number

_LIBRARIES = {"onnx": "transformers.js", "ctranslate2": "ctranslate2"}
_TITLES = {"onnx": "ONNX Runtime", "ctranslate2": "CTranslate2"}


def deployed_header(reports: Sequence[ExportReport]) -> list[str]:
    """Return the headings of `deployed_rows`, with BLEU where a report has it, and each search and batch it timed."""
    searches, batches = _measured(reports)
    header = ["network", "runtime", "size (MB)"]
    header += [f"same as PyTorch, {search}" for search in searches]
    header += [f"BLEU, {search}" for search in searches if _scored(reports)]
    return header + [f"ms a sentence, {batch}, {search}" for batch in batches for search in searches]


def deployed_rows(reports: Sequence[ExportReport]) -> list[list[str]]:
    """Return a row for each export, and before those of a network and a runtime one of PyTorch beside the first."""
    searches, batches = _measured(reports)
    rows, seen = [], set()
    for report in reports:
        found = report.runtime["searches"]
        for where in ("pytorch", "runtime"):
            title = _TITLES[report.runtime["format"]]
            if where == "pytorch" and (name_of_network(report), title) in seen:
                continue
            seen.add((name_of_network(report), title))
            ours = where == "runtime"
            field = "bleu" if ours else "bleu_pytorch"
            row = [
                name_of_network(report),
                f"{title}, {report.runtime['quantization']}" if ours else f"PyTorch, beside {title}",
                number(report.size_bytes if ours else report.runtime["pytorch_bytes"], 1e-6, 1),
            ]
            row += [f"{found[search]['equal']:.1%}" if ours else "-" for search in searches]
            row += [number(found[search].get(field), 1, 2) for search in searches if _scored(reports)]
            row += [
                number(found[search]["seconds_per_sentence"].get(batch, {}).get(where), 1e3, 1)
                for batch in batches
                for search in searches
            ]
            rows.append(row)
    return rows


def name_of_network(report: ExportReport) -> str:
    """Return the name of the network that an export is of, such as `core` or `core-dense`."""
    return f"{report.level}-dense" if report.kind == "core-dense" else report.level


def deployed_note(reports: Sequence[ExportReport]) -> str:
    """Say how the figures were found."""
    ways = []
    for report in reports:
        runtime = report.runtime
        what = "sentences made up from the vocabulary" if runtime["made_up"] else "sentences"
        threads = f"{runtime['threads']} thread{'s' if runtime['threads'] > 1 else ''}"
        ways.append(f"{runtime['version']}: {runtime['sentences']:,} {what}, {threads}")
    return "; ".join(dict.fromkeys(ways)) + ". Times are medians, both in turns; sizes those of what is loaded."


def render_deployed(reports: Sequence[ExportReport], markup: str = "text") -> str:
    """Render the table of exports in the formats of runtimes."""
    return align(deployed_header(reports), deployed_rows(reports), markup, left=2)


def render_deployed_card(report: ExportReport) -> str:
    """Render the `README.md` of an export in the format of a runtime, from its report alone.

    Args:
        report: with a `runtime`.
    """
    format = report.runtime["format"]
    metadata = ModelCardData(
        library_name=_LIBRARIES[format], pipeline_tag="translation", tags=["translation", "hf_ats", format]
    )
    text = (
        templates()
        .get_template("deployed.md")
        .render(
            metadata=Markdown(metadata.to_yaml()),
            network=name_of_network(report),
            format=format,
            title=_TITLES[format],
            version=report.runtime["version"],
            quantization=report.runtime["quantization"],
            dtype={"float32": "fp32", "int8": "q8"}[report.runtime["quantization"]],
            parameters=f"{report.parameters:,}",
            table=Markdown(render_deployed([report], "markdown")),
            note=deployed_note([report]),
            signature=next(iter(report.runtime["searches"].values())).get("bleu_signature"),
            gaps={search: f"{found['largest_gap']:.1e}" for search, found in report.runtime["searches"].items()},
        )
    )
    ModelCard(text)
    return text


def _measured(reports: Sequence[ExportReport]) -> tuple[list[str], list[str]]:
    found = [search for report in reports for search in report.runtime["searches"].items()]
    searches = dict.fromkeys(name for name, _ in found)
    return list(searches), list(dict.fromkeys(batch for _, each in found for batch in each["seconds_per_sentence"]))


def _scored(reports: Sequence[ExportReport]) -> bool:
    return any("bleu" in found for report in reports for found in report.runtime["searches"].values())
