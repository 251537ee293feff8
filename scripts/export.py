"""Turn a training checkpoint into models for use: the full network, its cores, a LoRA adapter.

    hf-ats export --checkpoint runs/iwslt/checkpoint-20000 --output_dir runs/iwslt/best
    hf-ats export --checkpoint runs/iwslt/checkpoint-20000 --output_dir out --kinds core core-dense adapter
    hf-ats export --checkpoint runs/ladder/checkpoint-500 --output_dir out --kinds core --level 0 1 2

Kinds, each in a directory of its name under OUTPUT_DIR:

    full        the architecture as it was, with W + V U merged, or all widths joined; needs no partitioned layers
    core        only the factors V and U, or the narrower layers; loads with hf_ats, or with trust_remote_code=True;
                if it has fewer layers, narrower feed-forward layers or channels, it is of that architecture too
    core-dense  the same network with V U multiplied out, or zeros filled in; stock architecture, layers as in full
    adapter     the split by rank as a PEFT LoRA adapter, and the base W that it belongs to

Every export is loaded back and its logits are compared with the checkpoint's before it is reported.
"""

from pathlib import Path

from hf_ats import export_adapter, export_core, export_full, load_partitioned
from hf_ats.checkpoint import load_processor
from hf_ats.partition import level_names, resolve_level
from hf_ats.run import manual_parser, user_errors


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
    arguments = parser.parse_args()

    model = load_partitioned(arguments.checkpoint)
    processor = load_processor(arguments.checkpoint, model)
    # The smallest core has the plain name; a larger one of a ladder goes by its own, such as level1.
    levels = [resolve_level(model, level) for level in arguments.level]
    cores = {level_names(model)[level]: level for level in levels}
    out = arguments.output_dir
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
        for report in writers[kind]():
            print(
                f"{report.path}: {report.parameters:,} parameters, {report.size_bytes / 1e6:.1f} MB, logits within "
                f"{report.parity:.1e} of the checkpoint's"
            )


if __name__ == "__main__":
    main()
