"""The model card of one network of a run, rendered from `results.json` and `export.json` and from nothing else."""

import functools
import json
import math
import os
from pathlib import Path

import jinja2
import yaml
from huggingface_hub import ModelCard

from .. import model_cards
from ..checkpoint import ExportReport
from ..partition import ADAPTER, names_of_levels
from .facts import check_facts, hub_languages
from .metadata import card_data
from .portable import portable, portable_command
from .results import read_results
from .tables import align, number, settings, unique

_KINDS = ("core", "full")
_SAMPLES = 8
# What says where a run was, not how it was trained.
_UNTOLD_ARGUMENTS = ("hub_", "push_to_hub", "logging_dir", "run_name", "report_to", "disable_tqdm", "debug")


def render_card(run_directory: str | os.PathLike, level: str, repositories: dict[str, str]) -> str:
    """The whole `README.md` of a repository: metadata that the Hub reads, and the text below it.

    Args:
        run_directory: of the run; read are its `results.json` and `<level>/export.json`.
        level: which network of the run.
        repositories: the ids of the repositories that are pushed together, by level, this one's included; the others
            are linked.

    Raises:
        ValueError: a fact that a card needs is missing or not what the Hub takes, or the files do not belong together;
            the message names the fact, the file and the remedy.

    Example:

    ```python
    >>> print(render_card("runs/demo", "core", {"core": "ann/demo-core", "full": "ann/demo-full"}))
    ```
    """
    run = Path(run_directory)
    results = _read(run / "results.json", level)
    try:
        export = ExportReport.read(run / level)
    except FileNotFoundError:
        raise ValueError(
            f"{run / level} holds no export, whose export.json a card is rendered from; write it by export_core or "
            "export_full."
        ) from None
    if export.level != level or export.kind not in _KINDS:
        raise ValueError(
            f"{run / level / 'export.json'} is of kind {export.kind!r} at level {export.level!r}, and the card is for "
            f"level {level!r}; export that level there, by export_core or export_full."
        )
    if level not in repositories:
        raise ValueError(f"repositories={repositories} names no repository for level {level!r}; give it an id.")
    template = _templates().get_template("full.md" if level == "full" else "core.md")
    try:
        text = template.render(**_context(results, export, repositories))
    except jinja2.UndefinedError as error:
        raise ValueError(
            f"{run / 'results.json'} lacks something that a card tells ({error}); report again by "
            "hf_ats.run.report_trained."
        ) from error
    ModelCard(text)  # reads the metadata back, and refuses what is no card
    return text


def _read(path: Path, level: str) -> dict:
    if not path.is_file():
        raise ValueError(
            f"{path} is not there, which a card is rendered from; give the --output_dir of a finished training run."
        )
    results = read_results(path, task=None)
    if results.get("task", "translation") != "translation":
        raise ValueError(f"{path} holds the results of {results['task']}, and there are cards for translation alone.")
    if level not in results["levels"]:
        raise ValueError(f"{path} has no level {level!r}; it has {', '.join(results['levels'])}.")
    if not results.get("samples"):
        raise ValueError(
            f"{path} has no samples, the translations that a card shows; write it again, by the command of the run "
            "with --resume_from_checkpoint True, or by hf_ats.run.report_trained."
        )
    if not results["data"].get("name"):
        raise ValueError(
            f"{path} does not name the data of the training; report again with "
            "report_trained(..., data_facts={'name': 'what it was'})."
        )
    for score in ("bleu", "chrf"):
        if results["levels"][level][score] is None:
            raise ValueError(f"{path}: level {level!r} has no {score}; score the run again, or leave that level out.")
    facts = check_facts(results.get("card") or {}, f"section 'card' of {path}")
    if "languages" not in facts:
        data = results["data"]
        codes = (data.get("tokenizer_source_lang"), data.get("tokenizer_target_lang"))
        try:
            facts["languages"] = hub_languages(data["source_lang"], data["target_lang"], codes)
        except ValueError as error:
            raise ValueError(f"section 'data' of {path}: {error}") from None
    return results | {"card": facts}


@functools.cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(model_cards.__file__).parent),
        undefined=jinja2.StrictUndefined,  # a fact that is not there must not become an empty place
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _context(results: dict, export: ExportReport, repositories: dict[str, str]) -> dict:
    """What the templates ask for: text, or figures as text."""
    level, data, training = export.level, results["data"], results["training"]
    own = results["levels"][level]
    return {
        "metadata": card_data(results, level, repositories[level]).to_yaml(),
        "repository": repositories[level],
        "name": repositories[level].split("/")[-1],
        "level": level,
        "levels": _listed(list(results["levels"])),
        "trained": len(results["levels"]),
        "has_full": "full" in results["levels"],
        "sisters": {name: repository for name, repository in repositories.items() if name != level},
        "source": results["card"]["languages"][0],
        "target": results["card"]["languages"][1],
        "model_class": results["model"]["class"],
        "code_files": [file for file in export.files if file.endswith(".py")],
        "partition": results["partition"] and _partition(results["partition"], level),
        "base_model": results["card"].get("base_model"),
        "adapter": portable(results["model"].get("adapter_name_or_path") or "one"),
        "datasets": results["card"].get("datasets", []),
        "parity": "0" if export.parity == 0 else f"{export.parity:.1e}",
        "parameters": f"{own['parameters']:,}",
        "table": _table(results, level, repositories),
        "bleu_signature": own["bleu_signature"],
        "chrf_signature": own["chrf_signature"],
        "decoding": settings(results["generation"]),
        "speeds": _speed_notes(results["levels"]),
        "samples": _samples(results, level),
        "example": _example(results),
        "data": {
            "name": portable(data["name"]),
            "test_name": data.get("test_name"),
            "test_part": data["test_part"],
            "sizes": {part: f"{data[part]:,}" for part in ("train", "validation", "test") if part in data},
            "scored": f"{data[data['test_part']]:,}",
        },
        "training": {
            "schedule": training["schedule"],
            "epochs": "an unknown number of" if training["epochs"] is None else f"{training['epochs']:.4g}",
            "steps": f"{training['steps']:,}",
            "teraflops": number(training["flops"], 1e-12, 1),
            "time": _duration(training["seconds"]),
            "resumed": "resumed_from" in training,
            "processes": training.get("processes", 1),
            "arguments": _arguments(training.get("arguments", {})),
        },
        "seed": results["seed"],
        "command": portable_command(results["command"]),
        "versions": {name: version for name, version in results["versions"].items() if version},
        "created": results["created"],
        "run_id": results.get("run_id"),
    }


def _partition(partition: dict, level: str) -> dict:
    """What is told of the partition, and of this level of it."""
    targets, ranks = partition.get("target_modules"), sorted((partition.get("ranks") or {}).values())
    if ranks:
        together = f"rank {ranks[0]}" if ranks[0] == ranks[-1] else f"ranks {ranks[0]} to {ranks[-1]}"
        sizes = [together]
    else:
        of = f"of the full {partition['method']}"
        sizes = [f"{ratio:g} {of}" for ratio in partition["ratios"]]
        together = f"{_listed([f'{ratio:g}' for ratio in partition['ratios']])} {of}"
    sizes = dict(zip(names_of_levels(len(sizes)), sizes, strict=False))
    return {
        "method": partition["method"],
        "sizes": sizes,
        "size": sizes.get(level),
        "sizes_together": together,
        "targets": [targets] if isinstance(targets, str) else list(targets or ()),
        "from_adapter": partition.get("init") == ADAPTER,
    }


def _table(results: dict, level: str, repositories: dict[str, str]) -> str:
    """A row for each network of the run."""
    speeds = any(figures["decoding_speed"] for figures in results["levels"].values())
    header = ["network", "parameters", "size (MB)", "FLOPs per token (M)", "BLEU", "chrF"]
    rows = []
    for name, figures in results["levels"].items():
        label = f"**{name}** (this one)" if name == level else name
        if name in repositories and name != level:
            label = f"[{name}](https://huggingface.co/{repositories[name]})"
        row = [
            label,
            f"{figures['parameters']:,}",
            number(figures["size_bytes"], 1e-6, 1),
            number(figures["flops_per_token"], 1e-6, 2),
            number(figures["bleu"], 1, 2),
            number(figures["chrf"], 1, 2),
        ]
        rows.append(row + [_speed(figures["decoding_speed"])] * speeds)
    return align(header + ["tokens per second"] * speeds, rows, "markdown")


def _speed(speed: dict | None) -> str:
    if not speed:
        return "not measured"
    return " ".join(
        [number(speed["tokens_per_second"], 1, 0), f"({speed['slowest']:,.0f} to {speed['fastest']:,.0f})"]
    )


def _speed_notes(levels: dict) -> list[str]:
    measured = [figures["decoding_speed"] for figures in levels.values() if figures["decoding_speed"]]
    return unique(_way_of_measuring(speed) for speed in measured)


def _way_of_measuring(speed: dict) -> str:
    threads = f" with {_counted(speed['threads'], 'thread')}" if speed["device"] == "cpu" else ""
    return (
        f"{_counted(speed['sentences'], 'sentence')} in batches of {speed['batch_size']}, "
        f"{_counted(speed['num_beams'], 'beam')}, {speed['dtype']}, {speed['device']}{threads}, "
        f"{_counted(speed['repeats'], 'repeat')}"
    )


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def _duration(seconds: float | None) -> str:
    if seconds is None or seconds < 120:
        return f"{number(seconds, 1, 0)} seconds"
    return f"{seconds / 60:,.0f} minutes" if seconds < 7200 else f"{seconds / 3600:,.1f} hours"


def _samples(results: dict, level: str) -> str:
    """A table of translations by this network and by the other end of the run."""
    samples = results["samples"]
    step = math.ceil(len(samples) / _SAMPLES)
    ends = ("core", "full") if level in ("core", "full") else (level, "full")
    shown = [name for name in ends if name in results["levels"]]
    rows = [
        [_cell(text) for text in (sample["source"], sample["reference"], *(sample["translations"][n] for n in shown))]
        for sample in samples[::step]
    ]
    return align(["source", "reference", *shown], rows, "markdown", left=2 + len(shown))


def _cell(text: str) -> str:
    """Text that stays what it is in a cell of a Markdown table."""
    text = " ".join(text.split())
    for character in "\\`*_[]|":
        text = text.replace(character, f"\\{character}")
    return text.replace("<", "&lt;")


def _example(results: dict) -> dict:
    """What the lines of code on a card translate, and with which arguments: those of the scores."""
    data, sample = results["data"], results["samples"][0]
    codes = {"src_lang": data.get("tokenizer_source_lang"), "tgt_lang": data.get("tokenizer_target_lang")}
    codes = {name: code for name, code in codes.items() if code}
    return {
        "text": json.dumps(sample["source"], ensure_ascii=False),
        "input": json.dumps(data.get("source_prefix", "") + sample["source"], ensure_ascii=False),
        "prefix": data.get("source_prefix"),
        "codes": "".join(f", {name}={json.dumps(code)}" for name, code in codes.items()),
        "options": "".join(f", {name}={value!r}" for name, value in results["generation"].items()),
    }


def _arguments(arguments: dict) -> str:
    told = {
        name: portable(value) if isinstance(value, str) else value
        for name, value in arguments.items()
        if value is not None and not name.startswith(_UNTOLD_ARGUMENTS)
    }
    return yaml.safe_dump(told, sort_keys=False, allow_unicode=True, width=1000).strip() if told else ""
