"""Turn a training checkpoint into models for use: the full network, its cores, a LoRA adapter.

    hf-ats export --checkpoint runs/iwslt/checkpoint-20000 --output_dir runs/iwslt/best
    hf-ats export --checkpoint runs/iwslt/checkpoint-20000 --output_dir out --kinds core core-dense adapter
    hf-ats export --checkpoint runs/ladder/checkpoint-500 --output_dir out --kinds core --level 0 1 2
    hf-ats export --checkpoint runs/iwslt/core --output_dir out --format onnx --quantization int8

Kinds, each in a directory of its name under OUTPUT_DIR:

    full        the architecture as it was, with W + V U merged, or all widths joined; needs no partitioned layers
    core        only the factors V and U, or the narrower layers; loads with hf_ats, or with trust_remote_code=True;
                if it has fewer layers, narrower feed-forward layers or channels, it is of that architecture too
    core-dense  the same network with V U multiplied out, or zeros filled in; stock architecture, layers as in full
    adapter     the split by rank as a PEFT LoRA adapter, and the base W that it belongs to

Every export is loaded back and its logits are compared with the checkpoint's before it is reported.

With --format it is written for a runtime instead, to OUTPUT_DIR/KIND-FORMAT or, in 8 bits, KIND-FORMAT-int8; then
CHECKPOINT may also be one export, or another translation model on disk:

    onnx         graphs as transformers.js and ONNX Runtime read them: every kind
    ctranslate2  of stock architectures, so not of a core that only hf_ats knows

It appears when the runtime was seen to translate as PyTorch does, greedily and with 4 beams: the sentences that are
given, or some made up from the vocabulary. How many are the same, BLEU, megabytes and times are in its export.json.
"""

import tempfile
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from hf_ats import export_adapter, export_core, export_full, load_partitioned
from hf_ats.checkpoint import REPORT_NAME, ExportReport, is_partitioned_checkpoint, load_processor
from hf_ats.data import read_lines
from hf_ats.deployment import FORMATS, QUANTIZATIONS, check_format, deploy, require_runtime
from hf_ats.partition import level_names, resolve_level
from hf_ats.results import name_of_network, render_deployed
from hf_ats.run import count, manual_parser, user_errors

_OF_FORMATS = ("quantization", "sentences", "references", "rounds", "threads")


@user_errors()
def main() -> None:
    """Load the checkpoint once, and write what was asked for."""
    parser = manual_parser(__doc__)
    parser.add_argument("--checkpoint", required=True, type=Path, help="a checkpoint-N directory of a training run")
    parser.add_argument("--output_dir", required=True, type=Path, help="where the exports go")
    parser.add_argument(
        "--kinds",
        nargs="+",
        default=["full", "core"],
        choices=["full", "core", "core-dense", "adapter"],
        help="what to export (default: full core)",
    )
    parser.add_argument(
        "--level", nargs="+", default=["core"], help="which cores of a ladder, by name or number (default: core)"
    )
    parser.add_argument("--format", choices=FORMATS, help="of a runtime (default: PyTorch's, for transformers)")
    parser.add_argument("--quantization", choices=QUANTIZATIONS, help="of the runtime's weights (default: float32)")
    parser.add_argument("--sentences", type=Path, help="source text to compare, one a line (default: made up)")
    parser.add_argument("--references", type=Path, help="its translations, one a line, to score by BLEU")
    parser.add_argument("--rounds", type=int, help="how often both are timed; 0 is not at all (default: 3)")
    parser.add_argument("--threads", type=count, help="of both (default: PyTorch's own choice)")
    arguments = parser.parse_args()
    if arguments.format is None:
        if given := [name for name in _OF_FORMATS if getattr(arguments, name) is not None]:
            parser.error(f"--{given[0]} is of an export for a runtime; give --format {' or '.join(FORMATS)} with it")
        for report in _exports(arguments, arguments.output_dir):
            print(
                f"{report.path}: {report.parameters:,} parameters, {report.size_bytes / 1e6:.1f} MB, logits within "
                f"{report.parity:.1e} of the checkpoint's"
            )
        return
    if arguments.references is not None and arguments.sentences is None:
        parser.error("--references are of sentences; give --sentences too")
    require_runtime(FORMATS[arguments.format])
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    disable_progress_bar()
    sentences, references = (file and read_lines(file) for file in (arguments.sentences, arguments.references))
    ending = "-int8" if arguments.quantization == "int8" else ""
    reports = []
    with tempfile.TemporaryDirectory() as folder:
        if is_partitioned_checkpoint(arguments.checkpoint):
            directories = {report.path.name: report.path for report in _exports(arguments, Path(folder))}
        else:
            directories = {_name(arguments.checkpoint): arguments.checkpoint}
        for directory in directories.values():  # before any is written
            check_format(directory, arguments.format)
        for name, directory in directories.items():
            report = deploy(
                directory,
                arguments.output_dir / f"{name}-{arguments.format}{ending}",
                format=arguments.format,
                quantization=arguments.quantization or "float32",
                sources=sentences,
                references=references,
                rounds=3 if arguments.rounds is None else arguments.rounds,
            )
            reports.append(report)
            print(report.path)
    print(f"\n{render_deployed(reports)}")


def _name(directory: Path) -> str:
    """Return the name of a network that is an export already, or a model of its own."""
    if (directory / REPORT_NAME).exists():
        return name_of_network(ExportReport.read(directory))
    return "full"


def _exports(arguments, out: Path):
    """Write the kinds for PyTorch, and yield their reports."""
    model = load_partitioned(arguments.checkpoint)
    processor = load_processor(arguments.checkpoint, model)
    # The smallest core has the plain name; a larger one of a ladder goes by its own, such as level1.
    levels = [resolve_level(model, level) for level in arguments.level]
    cores = {level_names(model)[level]: level for level in levels}
    writers = {
        "full": lambda: [export_full(model, out / "full", tokenizer=processor)],
        "core": lambda: [export_core(model, out / name, tokenizer=processor, level=cores[name]) for name in cores],
        "core-dense": lambda: [
            export_core(model, out / f"{name}-dense", tokenizer=processor, level=cores[name], dense=True)
            for name in cores
        ],
        "adapter": lambda: [export_adapter(model, out / "adapter", tokenizer=processor)],
    }
    for kind in arguments.kinds:
        yield from writers[kind]()


if __name__ == "__main__":
    main()
