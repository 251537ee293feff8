"""Plan the core of a model for a budget: its layers, ranks and widths, and a recipe that trains it.

    hf-ats plan Helsinki-NLP/opus-mt-de-en --max_megabytes 100
    hf-ats plan runs/standard/full --max_parameters 2M --decoder_layers 1 --output small.yaml
    hf-ats plan runs/standard/full --max_latency_ms 80 --threads 1 --sentences text.de --output fast.yaml
    hf-ats train --recipe fast.yaml --output_dir runs/fast --dataset_name wmt17 --dataset_config_name de-en

MODEL is a directory or an id of the Hub: a stock model of the seven families, such as the full/ export of a run. For
every number of encoder and decoder layers, evenly spaced, the budget is spent layer by layer, on the rank of each
module of the preset (queries, keys, feed-forward), the width of each feed-forward block, and the rank of the
vocabulary tables, so that the core keeps as much of the weights' energy as it can: the share of each weight's squared
norm, in the mean by size; of a layer that is dropped, nothing. That says little of how well the core will translate,
and least of all about depth: what a whole layer is worth shows in training. So the table has the best plan of each
depth, and --encoder_layers and --decoder_layers take another row of it. With --calibration_sentences, a hundred or so
like those to be translated, energy is that of the layers' outputs on them, and on the model's own translations, and
the recipe names them, so that training begins with the core of the plan.

Parameters and megabytes (10^6 bytes) are those of the core's export in float32, to the last byte. Milliseconds are
measured here, on the CPU, in the RUNTIME and with its QUANTIZATION: those of the translation of the sentence of median
length, BATCH_SIZE times, into as many tokens as it has. The plan's own time is measured in the end, beside its
prediction. Of all cores CTranslate2 runs those of a stock class only: with --runtime ctranslate2, for any budget, all
feed-forward blocks of the encoder are equally wide, those of the decoder likewise, and no rank is low. ONNX Runtime
runs all, and takes a while to convert each of some ten networks.

The recipe goes to OUTPUT, and a picture of the spectra beside it, with .png in place of .yaml.
"""

import shlex
import sys
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from hf_ats.checkpoint import load_network, load_tokenizer
from hf_ats.data import read_lines
from hf_ats.deployment import (
    BUDGETS,
    QUANTIZATIONS,
    RUNTIMES,
    Stopwatch,
    generated_sentences,
    make_plan,
    parse_limit,
    plot_spectra,
    read_layers,
    render_depths,
    render_plan,
    render_recipe,
    require_runtime,
)
from hf_ats.evaluation import input_moments
from hf_ats.run import check_output, count, manual_parser, read_calibration, source_prefix, user_errors
from hf_ats.storage import write_file


@user_errors()
def main() -> None:
    """Read the spectra, measure if time is the limit, plan, show, write."""
    parser = manual_parser(__doc__)
    parser.add_argument("model", metavar="MODEL", help="directory or Hub id of the model to train")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--max_megabytes", type=float, help="of the core's weight file in float32, such as 30")
    budget.add_argument("--max_parameters", help="of the core, such as 5e6 or 5M")
    budget.add_argument("--max_latency_ms", type=float, help="of the core, for one batch")
    parser.add_argument("--encoder_layers", type=count, help="of the core (default: as many as keep the most)")
    parser.add_argument("--decoder_layers", type=count, help="likewise")
    parser.add_argument("--output", type=Path, default=Path("plan.yaml"), help="the recipe (default: plan.yaml)")
    parser.add_argument(
        "--calibration_sentences", help="source text that weights the energies, one a line (default: none)"
    )
    parser.add_argument(
        "--sentences", type=Path, help="source text to time, one a line (default: generated German dates and prices)"
    )
    parser.add_argument("--batch_size", type=count, default=1, help="sentences translated at once (default: 1)")
    parser.add_argument("--num_beams", type=count, default=1, help="beams to time (default: 1)")
    parser.add_argument("--rounds", type=count, default=10, help="how often each network is timed (default: 10)")
    parser.add_argument("--threads", type=count, help="of the runtime (default: PyTorch's own choice)")
    parser.add_argument(
        "--runtime",
        choices=["pytorch", *RUNTIMES],
        default="pytorch",
        help="what the core will run in (default: pytorch)",
    )
    parser.add_argument(
        "--quantization", choices=QUANTIZATIONS, default="float32", help="in another runtime (default: float32)"
    )
    arguments = parser.parse_args()
    disable_progress_bar()
    kind = next(name for name in BUDGETS if getattr(arguments, name) is not None)
    limit = getattr(arguments, kind)
    if kind == "max_parameters":
        limit = parse_limit(kind, limit)
    elif not 0 < limit < float("inf"):
        parser.error(f"--{kind} {limit:g} is not a budget; write {BUDGETS[kind]} above 0.")
    if arguments.runtime != "pytorch":
        require_runtime(arguments.runtime)
    elif arguments.quantization != "float32":
        parser.error(
            f"--quantization {arguments.quantization} is one of another --runtime; name that, or leave it out."
        )
    picture = arguments.output.with_suffix(".png")
    if picture == arguments.output:
        parser.error(f"--output {arguments.output} is the name of the picture; write one such as plan.yaml.")
    for output in (arguments.output, picture):
        check_output("--output", output)
    calibration = read_calibration(arguments.calibration_sentences)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)

    model = load_network(arguments.model, dtype=torch.float32)
    tokenizer = load_tokenizer(arguments.model) if calibration or kind == "max_latency_ms" else None

    def sources(lines: list[str]) -> list[str]:
        return [source_prefix(model) + line for line in lines if line.strip()]

    moments = None
    if calibration:
        moments = input_moments(model, tokenizer, sources(calibration))
    layers = read_layers(model, moments)
    stopwatch = None
    if kind == "max_latency_ms":
        stopwatch = Stopwatch(
            model,
            tokenizer,
            sources(read_lines(arguments.sentences) if arguments.sentences else generated_sentences()),
            batch_size=arguments.batch_size,
            num_beams=arguments.num_beams,
            rounds=arguments.rounds,
            runtime=arguments.runtime,
            quantization=arguments.quantization,
        )
    given = {half: getattr(arguments, f"{half}_layers") for half in ("encoder", "decoder")}
    depth = {half: number for half, number in given.items() if number is not None}
    planned = make_plan(
        model, layers, kind, limit, depth=depth, stopwatch=stopwatch, stock=arguments.runtime == "ctranslate2"
    )
    plan = planned.plans[0]

    print(f"{render_depths(planned)}\n\n{render_plan(layers, plan)}\n")
    if stopwatch is not None:
        print(
            f"In {arguments.runtime}, {arguments.quantization}, threads: {torch.get_num_threads()}, tokens: "
            f"{stopwatch.tokens}: "
            f"{planned.measured_ms:.1f} ms measured, {planned.predicted_ms:.1f} predicted; "
            f"the full network {planned.full_ms:.1f}."
        )
    command = f"hf-ats plan {shlex.join(sys.argv[1:])}"
    ranks = {module: rank for choice in plan.choices for module, rank in choice.ranks.items()}
    plot_spectra(layers, ranks, picture, f"{arguments.model}: what each rank keeps")
    write_file(arguments.output, render_recipe(planned, arguments.model, command, arguments.calibration_sentences))
    print(f"A core of {plan.parameters:,} parameters, {planned.size_bytes:,} bytes: {arguments.output}, {picture}")


if __name__ == "__main__":
    main()
