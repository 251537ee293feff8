"""From the start of a process to the first finished training step, stage by stage.

Run by its path, this file is that process; it then imports nothing but the standard library before its clock ticks.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

TRAINERS = ("stock", "ats")
_PACKAGES = Path(__file__).resolve().parents[2]


def measure_first_step(settings, text, directory: Path) -> tuple[dict[str, dict], dict[str, dict]]:
    """Starts processes in turns, with the stock trainer and with ours, and reads their clocks.

    Args:
        settings: `epoch_setup.EpochBenchmark`.
        text: `epoch_setup.Text`, whose tokenizer the processes load; each tokenizes the text anew.
        directory: takes what they write.

    Returns:
        `(measurements, ratios)` for `build_record`: seconds of each stage and of the whole.

    Raises:
        RuntimeError: a process failed; the message ends with what it said.
    """
    import torch

    from hf_ats.evaluation import ratio, spread

    from .epoch_setup import draw_pairs

    tokenizer, pairs = Path(directory) / "tokenizer", Path(directory) / "pairs"
    text.tokenizer.save_pretrained(tokenizer)
    draw_pairs(settings).save_to_disk(pairs)
    stages: dict[str, list[dict]] = {name: [] for name in TRAINERS}
    for _ in range(settings.start_rounds):
        for name in TRAINERS:
            job = dict(
                trainer=name,
                settings=vars(settings),
                tokenizer=str(tokenizer),
                pairs=str(pairs),
                directory=str(directory),
                threads=torch.get_num_threads(),
            )
            stages[name].append(_start(job))
    # Ours has one stage more, the partition.
    measurements = {
        f"start, {stage}": {
            f"{name}_seconds": spread([one[stage] for one in rounds])
            for name, rounds in stages.items()
            if stage in rounds[0]
        }
        for stage in stages["ats"][0]
    }
    totals = {name: [one["whole"] for one in rounds] for name, rounds in stages.items()}
    ratios = {"time to the first step, ours / stock": ratio(totals["ats"], totals["stock"])}
    return measurements, ratios


def _start(job: dict) -> dict[str, float]:
    path = os.pathsep.join(filter(None, [str(_PACKAGES), os.environ.get("PYTHONPATH")]))
    # -P: the folder of this file is no place to import from.
    command = [sys.executable, "-P", __file__, json.dumps(job | {"started": time.time()})]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(
            f"the process of {job['trainer']} ended with status {done.returncode}:\n{done.stderr[-2000:]}"
        )
    return json.loads(done.stdout.splitlines()[-1])


class _Clock:
    """Seconds since the last stage ended, by the name of the stage."""

    def __init__(self, started: float):
        self._last = started
        self.stages: dict[str, float] = {}

    def end(self, stage: str) -> None:
        now = time.time()
        self.stages[stage] = now - self._last
        self._last = now

    def leave_out(self) -> None:
        self._last = time.time()


def main(job: dict) -> None:
    """The process: goes through the stages and prints their seconds."""
    clock = _Clock(job["started"])
    clock.end("interpreter")
    ours = job["trainer"] == "ats"
    if ours:
        import hf_ats.data  # noqa: F401
    else:
        import datasets  # noqa: F401
        from transformers import DataCollatorForSeq2Seq, MarianMTModel, Seq2SeqTrainer  # noqa: F401
    clock.end("imports")

    # The benchmark's own, which no user waits for.
    import torch
    import transformers
    from datasets import disable_caching, load_from_disk
    from transformers import AutoTokenizer, TrainerCallback

    from hf_ats.data import tokenize_corpus
    from hf_ats.partition import PartitionConfig, partition_

    from . import epoch_setup

    disable_caching()  # an earlier process tokenized the same text
    torch.set_num_threads(job["threads"])
    transformers.utils.logging.set_verbosity_error()
    settings = epoch_setup.EpochBenchmark(**job["settings"])
    way = epoch_setup.Way("alternating", "budget") if ours else epoch_setup.Way(None, "random")
    pairs = load_from_disk(job["pairs"])
    tokenizer = AutoTokenizer.from_pretrained(job["tokenizer"])
    clock.leave_out()
    dataset = tokenize_corpus(pairs, tokenizer, settings.source_lang, settings.target_lang)
    clock.end("tokenization")
    model = epoch_setup.build(settings, tokenizer, partitioned=False)
    clock.end("building")
    if ours:
        partition_(model, PartitionConfig(ratios=settings.ratios))
        clock.end("partition")
    text = epoch_setup.Text(tokenizer, dataset)
    trainer = epoch_setup.build_trainer(way, settings, text, Path(job["directory"]), epochs=1, model=model)
    clock.end("trainer")

    class StopsAtTwo(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            clock.end("first_step" if state.global_step == 1 else "second_step")
            control.should_training_stop = state.global_step == 2

    trainer.add_callback(StopsAtTwo())
    trainer.train()
    second = clock.stages.pop("second_step")
    clock.stages["whole"] = sum(clock.stages.values())
    clock.stages["second_step"] = second
    print(json.dumps(clock.stages))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
