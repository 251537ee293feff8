"""Pick the network of a run that fits a budget: of parameters, of bytes, of the latency measured on this machine.

    hf-ats choose --run runs/ladder --max_parameters 5e6
    hf-ats choose --run runs/ladder --max_bytes 20MB --output_dir phone
    hf-ats choose --run runs/ladder --max_latency_ms 80 --num_beams 5 --threads 1 --sentences text.de
    hf-ats choose --run runs/ladder/checkpoint-2840 --max_parameters 5M

RUN is a directory with the exports of a training run, core/, level1/, ..., full/, or a training checkpoint, whose
levels are exported first. Every given limit must be kept. Of the levels that fit, the one with the highest score in
RUN/results.json is chosen, and the largest if there are no scores. When none fits, the command ends with an error
that names the smallest need.

Parameters are those of the exported network, bytes those of its weight files. The latency is the median time of
generate for one batch; all networks are measured side by side, in turns after a warm-up, each round on another batch.
It depends on the text, so give sentences like those that the network will meet.
"""

from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from hf_ats.data import read_lines
from hf_ats.deployment import (
    choose_level,
    copy_export,
    exported_levels,
    generated_sentences,
    measure_latency,
    parse_limit,
    render_levels,
)
from hf_ats.run import count, device, manual_parser, user_errors


@user_errors()
def main() -> None:
    """Measure, choose, and copy what was chosen."""
    parser = manual_parser(__doc__)
    parser.add_argument("--run", required=True, type=Path, help="the output of a training run, or a checkpoint-N")
    parser.add_argument("--max_parameters", help="such as 5e6 or 5M")
    parser.add_argument("--max_bytes", help="of the weight files, such as 20MB or 20MiB")
    parser.add_argument("--max_latency_ms", type=float, help="median milliseconds for one batch")
    parser.add_argument(
        "--sentences", type=Path, help="source text, one a line (default: generated German dates, times and prices)"
    )
    parser.add_argument("--batch_size", type=count, default=1, help="sentences translated at once (default: 1)")
    parser.add_argument("--num_beams", type=count, help="default: the network's generation config, or 4")
    parser.add_argument("--max_length", type=count, help="most tokens of a translation, likewise, or 256")
    parser.add_argument("--rounds", type=count, default=20, help="how often each is timed (default: 20)")
    parser.add_argument("--threads", type=count, help="of PyTorch on the CPU (default: its own choice)")
    parser.add_argument("--device", type=device, default="cpu", help="cpu, cuda, mps (default: cpu)")
    parser.add_argument("--output_dir", type=Path, help="copy the chosen export to this directory")
    arguments = parser.parse_args()
    disable_progress_bar()  # of loading and exporting; the latency has its own
    given = {name: getattr(arguments, name) for name in ("max_parameters", "max_bytes")}
    limits = {name: parse_limit(name, text) for name, text in given.items() if text is not None}
    if arguments.max_latency_ms is not None:
        if not arguments.max_latency_ms > 0:
            parser.error(f"--max_latency_ms {arguments.max_latency_ms:g} is not a time; write milliseconds above 0.")
        limits["max_latency_ms"] = arguments.max_latency_ms
    if arguments.threads:
        torch.set_num_threads(arguments.threads)

    with exported_levels(arguments.run) as levels:
        if "max_latency_ms" in limits:
            levels = measure_latency(
                levels,
                read_lines(arguments.sentences) if arguments.sentences else generated_sentences(),
                batch_size=arguments.batch_size,
                rounds=arguments.rounds,
                device=arguments.device,
                num_beams=arguments.num_beams,
                max_length=arguments.max_length,
            )
        try:
            chosen = choose_level(levels, limits)
        except ValueError:
            print(render_levels(levels, limits))
            raise
        print(f"{render_levels(levels, limits, chosen)}\n")
        for level in levels[levels.index(chosen) + 1 :]:
            if not level.exceeded(limits):
                print(f"{level.name} is larger and fits too, but scored {level.score:.2f} and not {chosen.score:.2f}.")
        if arguments.output_dir is not None:
            copy_export(chosen, arguments.output_dir)
    print(f"chosen: {chosen.name}" + (f", copied to {arguments.output_dir}" if arguments.output_dir else ""))


if __name__ == "__main__":
    main()
