r"""Show that exports translate in runtimes for deployment as in PyTorch, and what that costs: docs/deployment.md.

    python -m benchmarks.deployment families --output benchmarks/results/deployment/families.json
    python -m benchmarks.deployment render --update docs/deployment.md --block figures

`families` makes, for every architecture that has a core class, a small network with a tokenizer of its own kind, which
learns for a moment to say made-up sentences backwards, and its cores; exports all of them to ONNX, and those of stock
classes to CTranslate2, in float32; and compares the translations of 200 made-up sentences.

`render` renders the table that --block names: figures, families or transformers-js. Of trained networks it is made
from what hf-ats export wrote: the `export.json` of each, in a folder of its name below benchmarks/results/deployment;
of transformers.js from what benchmarks.transformers_js wrote.
"""

import argparse
import tempfile
from pathlib import Path

import torch

from hf_ats.checkpoint import ExportReport, export_core, export_full
from hf_ats.data import pad_rows
from hf_ats.deployment import deploy, made_up_sentences
from hf_ats.partition import at_level, partition_
from hf_ats.results import (
    align,
    deployed_note,
    installed_versions,
    read_json,
    render_deployed,
    write_json,
)
from hf_ats.scripts.compare_runs import add_update_flags, print_or_update
from tests.support.models import ALL_FAMILIES, partition_of, tiny_model
from tests.support.tokenizers import KINDS, tiny_tokenizer

from .transformers_js import RECORD, render_transformers_js

RECORDS = Path(__file__).parent / "results" / "deployment"
_SENTENCES = 200
_WORDS = 6
_NETWORKS = {"full": "rank", "core by rank": "rank", "core by width": "width"}


def compare_families(families: list[str], networks: list[str], output: Path) -> None:
    """Compare families, and after each add what was found to the record, in place of what it had of them."""
    record = {"sentences": _SENTENCES, "versions": installed_versions(), "compared": []}
    if output.exists():
        known = read_json(output, "remove it.")["compared"]
        record["compared"] = [one for one in known if one["family"] not in families or one["network"] not in networks]
    for family in families:
        kind = next(kind for kind, of in KINDS.items() if of.family == family)
        for network in networks:
            with tempfile.TemporaryDirectory() as folder:
                record["compared"] += _compare(family, kind, network, Path(folder))
            write_json(output, record)
            print(record["compared"][-1], flush=True)


def _compare(family: str, kind: str, network: str, folder: Path) -> list[dict]:
    tokenizer = tiny_tokenizer(kind, folder / "tokenizer")
    own = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    # Words that M2M100 was padded with count too.
    model = tiny_model(family, vocab_size=len(tokenizer) + getattr(tokenizer, "num_madeup_words", 0))
    if family == "marian":
        model.get_decoder().embed_tokens.weight.data[tokenizer.pad_token_id] = 0  # as CTranslate2 wants it
    assert all(getattr(model.config, name) == value for name, value in own.items()), own
    sentences = made_up_sentences(tokenizer, _SENTENCES)
    partition_(model, partition_of(family, _NETWORKS[network]))
    _teach_(model, tokenizer(sentences)["input_ids"])
    (export_full if network == "full" else export_core)(model, folder / "export", tokenizer=tokenizer)
    found = []
    for format in ("onnx", "ctranslate2") if network == "full" else ("onnx",):
        report = deploy(
            folder / "export",
            folder / format,
            format=format,
            sources=sentences,
            rounds=0,
        )
        searches = report.runtime["searches"]
        found.append(
            {"family": family, "network": network, "runtime": report.runtime["version"], "searches": searches}
        )
    return found


def _teach_(model, rows: list[list[int]], steps: int = 120) -> None:
    """Train a partitioned model, at both levels, to say the first words of each sentence backwards."""
    start, end, pad = (getattr(model.config, f"{name}_token_id") for name in ("decoder_start", "eos", "pad"))
    words = [[word for word in row if word not in (start, end, pad)][:_WORDS][::-1] for row in rows]
    batch = {
        "input_ids": torch.from_numpy(pad_rows(rows, pad)),
        "attention_mask": torch.from_numpy(pad_rows([[1] * len(row) for row in rows], 0)),
        "decoder_input_ids": torch.from_numpy(pad_rows([[start, *row] for row in words], pad)),
        "labels": torch.from_numpy(pad_rows([[*row, end] for row in words], -100)),
    }
    frozen = model.get_input_embeddings().weight  # CTranslate2 wants the row of Marian's <pad> to stay zero
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad and p is not frozen], lr=3e-3)
    model.train()
    for step in range(steps):
        part = torch.arange(step % 4, len(rows), 4)
        with at_level(model, step % 2):
            loss = model(**{name: values[part] for name, values in batch.items()}).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()


def render_families(record: dict) -> str:
    """Return a table with a row for each network: how many translations are the same, and how near the others are."""
    searches = list(record["compared"][0]["searches"])
    rows = []
    for one in record["compared"]:
        row = [one["family"], one["network"], one["runtime"]]
        for search in searches:
            row += [f"{one['searches'][search]['equal']:.1%}", f"{one['searches'][search]['largest_gap']:.0e}"]
        rows.append(row)
    header = ["family", "network", "runtime"]
    for search in searches:
        header += [f"same, {search}", f"others apart by (nats), {search}"]
    return align(header, rows, "markdown", left=3)


def render_figures() -> str:
    """Return the table of what was exported from trained networks."""
    reports = [ExportReport.read(path.parent) for path in sorted(RECORDS.glob("*/export.json"))]
    return f"{render_deployed(reports, 'markdown')}\n\n{deployed_note(reports)}"


def main() -> None:
    """Compare, or render."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["families", "render"])
    parser.add_argument("--families", nargs="+", choices=ALL_FAMILIES, default=list(ALL_FAMILIES))
    parser.add_argument("--networks", nargs="+", choices=list(_NETWORKS), default=list(_NETWORKS))
    parser.add_argument("--output", type=Path, default=RECORDS / "families.json")
    add_update_flags(parser)
    arguments = parser.parse_args()
    if arguments.what == "families":
        compare_families(arguments.families, arguments.networks, arguments.output)
        return
    if arguments.block == "figures":
        table = render_figures()
    elif arguments.block == "transformers-js":
        table = render_transformers_js(read_json(RECORD, "compare again."))
    else:
        table = render_families(read_json(RECORDS / "families.json", "measure again."))
    print_or_update(table, arguments)


if __name__ == "__main__":
    main()
