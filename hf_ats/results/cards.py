"""The model card of one network of a run, rendered from its results and from nothing else."""

import functools
import json
import math
from pathlib import Path

import jinja2
import yaml
from huggingface_hub import ModelCard, SpaceCardData

from ..partition import ADAPTER
from .facts import check_facts, hub_languages
from .markdown import Markdown, fenced, in_code, inert
from .metadata import card_data
from .portable import portable, portable_command
from .results import RESULTS
from .tables import align, core_sizes, number, parts_of, settings, told_sizes, unique

_PACKAGE = Path(__file__).parents[1]
# In an installed package they lie inside, in a checkout beside it.
_TEMPLATES = next(path for path in (_PACKAGE / "model_cards", _PACKAGE.parent / "model_cards") if path.is_dir())
_SAMPLES = 8
# Arguments that say where a run was, not how it was trained.
_UNTOLD_ARGUMENTS = ("hub_", "push_to_hub", "logging_dir", "run_name", "report_to", "disable_tqdm", "debug")


def render_card(results: dict, level: str, repositories: dict[str, str]) -> str:
    """Render the whole `README.md` of a repository: metadata that the Hub reads, and the text below it.

    Args:
        results: what `report_trained` returned or `read_results` read; the card says nothing else.
        level: which network of the run.
        repositories: the ids of the repositories that are pushed together, by level, this one's included; the others
            are linked.

    Raises:
        ValueError: a fact that a card needs is missing or not what the Hub takes; the message names the fact and the
            remedy.

    Example:

    ```python
    >>> results = read_results("runs/demo/results.json")
    >>> print(render_card(results, "core", {"core": "ann/demo-core", "full": "ann/demo-full"}))
    ```
    """
    results = results | {"card": _facts(results, level)}
    template = templates().get_template("full.md" if level == "full" else "core.md")
    try:
        text = template.render(**_context(results, level, repositories))
    except (jinja2.UndefinedError, KeyError, TypeError) as error:
        raise ValueError(
            f"{RESULTS} lacks something that a card tells ({error}); report again by hf_ats.run.report_trained."
        ) from error
    ModelCard(text)  # reads the metadata back, and refuses what is not a card
    return text


def render_space_card(results: dict, title: str, models: dict[str, str], environment: dict[str, str]) -> str:
    """Render the `README.md` of a Space that translates with networks of a run.

    Args:
        results: of the run.
        title: what its page is called.
        models: by level, the ids of the networks.
        environment: `sdk_version`, of Gradio, and `python_version`, which the Hub installs.

    Raises:
        ValueError: as `render_card`.
    """
    facts = _facts(results, next(iter(models)))
    licenses = {name: facts[name] for name in ("license", "license_name", "license_link") if name in facts}
    metadata = SpaceCardData(
        title=title, sdk="gradio", **environment, app_file="app.py", models=list(models.values()), **licenses
    )
    source, target = facts["languages"]
    return (
        templates()
        .get_template("space.md")
        .render(metadata=Markdown(metadata.to_yaml()), title=title, models=models, source=source, target=target)
    )


def _facts(results: dict, level: str) -> dict:
    """Return the facts that a person knows, languages included; refuse if one that a card needs is missing."""
    if level not in results["levels"]:
        raise ValueError(f"{RESULTS} has no level {level!r}; it has {', '.join(results['levels'])}.")
    if not results.get("samples"):
        raise ValueError(
            f"{RESULTS} has no samples, the translations that a card shows; write it again, by the command of the run "
            "with --resume_from_checkpoint True, or by hf_ats.run.report_trained."
        )
    data, figures = results["data"], results["levels"][level]
    if not data.get("name"):
        raise ValueError(
            f"{RESULTS} does not name the data of the training; report again with "
            "report_trained(..., data_facts={'name': 'what it was'})."
        )
    for score in ("bleu", "chrf"):
        if figures[score] is None:
            raise ValueError(f"level {level!r} has no {score}; score the run again, or leave that level out.")
    facts = check_facts(results.get("card") or {}, f"section 'card' of {RESULTS}")
    codes = (data.get("tokenizer_source_lang"), data.get("tokenizer_target_lang"))
    if "languages" not in facts:
        facts["languages"] = hub_languages(data["source_lang"], data["target_lang"], codes)
    return facts


@functools.cache
def templates() -> jinja2.Environment:
    """Return the templates of all cards."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        undefined=jinja2.StrictUndefined,  # a missing fact must not become an empty place
        autoescape=False,
        finalize=inert,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _context(results: dict, level: str, repositories: dict[str, str]) -> dict:
    """Return what the templates ask for: text, or figures as text."""
    data, training, own = results["data"], results["training"], results["levels"][level]
    return {
        "metadata": Markdown(card_data(results, level, repositories[level]).to_yaml()),
        "repository": repositories[level],
        "name": repositories[level].split("/")[-1],
        "level": level,
        "levels": _listed(list(results["levels"])),
        "trained": len(results["levels"]),
        "has_full": "full" in results["levels"],
        "sisters": {name: repository for name, repository in repositories.items() if name != level},
        "source": results["card"]["languages"][0],
        "target": results["card"]["languages"][1],
        "model_class": in_code(results["model"]["class"]),
        "code_files": [in_code(file) for file in own["files"] if file.endswith(".py")],
        "partition": results["partition"] and _partition(results["partition"], level),
        "base_model": results["card"].get("base_model"),
        "adapter": portable(results["model"].get("adapter_name_or_path") or "one"),
        "calibration": portable(results["model"].get("calibration_sentences") or ""),
        "datasets": results["card"].get("datasets", []),
        "parity": "0" if own["parity"] == 0 else f"{own['parity']:.1e}",
        "parameters": f"{own['parameters']:,}",
        "table": _table(results, level, repositories),
        "bleu_signature": in_code(own["bleu_signature"]),
        "chrf_signature": in_code(own["chrf_signature"]),
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
            "schedule_name": in_code(training["schedule"]),
            "epochs": "an unknown number of" if training["epochs"] is None else f"{training['epochs']:.4g}",
            "steps": f"{training['steps']:,}",
            "teraflops": number(training["flops"], 1e-12, 1),
            "time": _duration(training["seconds"]),
            "resumed": "resumed_from" in training,
            "processes": training.get("processes", 1),
            "arguments": _arguments(training.get("arguments", {})),
        },
        "seed": results["seed"],
        "command": fenced("bash", portable_command(results["command"])),
        "versions": {name: version for name, version in results["versions"].items() if version},
        "created": results["created"],
        "run_id": results.get("run_id"),
    }


def _partition(partition: dict, level: str) -> dict:
    """Return what the card says of the partition, and of this level."""
    parts = parts_of(partition)
    return {
        "parts": [_part(part, level) for part in parts],
        "methods": [part["method"] for part in parts],
        "sizes": told_sizes(partition, lambda size, part: size + _of(part)),
        "from_adapter": any(part.get("init") == ADAPTER for part in parts),
    }


def _of(part: dict) -> str:
    return f" of the full {part['method']}" if part.get("ratios") else ""


def _part(part: dict, level: str) -> dict:
    targets, sizes = part.get("target_modules"), core_sizes(part)
    return {
        "method": part["method"],
        "size": sizes[level] + _of(part) if level in sizes else None,
        "sizes_together": _listed(list(sizes.values())) + _of(part),
        "targets": [in_code(target) for target in ([targets] if isinstance(targets, str) else targets or ())],
    }


def _table(results: dict, level: str, repositories: dict[str, str]) -> str:
    """Return a table with a row for each network of the run."""
    speeds = any(figures["decoding_speed"] for figures in results["levels"].values())
    header = ["network", "parameters", "size (MB)", "FLOPs per token (M)", "BLEU", "chrF"]
    rows = []
    for name, figures in results["levels"].items():
        label = f"**{name}** (this one)" if name == level else inert(name)
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
    return Markdown(align(header + ["tokens per second"] * speeds, rows, "markdown"))


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
    """Return a table of translations by this network and by the other end of the run."""
    samples = results["samples"]
    step = math.ceil(len(samples) / _SAMPLES)
    ends = ("core", "full") if level in ("core", "full") else (level, "full")
    shown = [name for name in ends if name in results["levels"]]
    rows = []
    for sample in samples[::step]:
        texts = [sample["source"], sample["reference"], *(sample["translations"][name] for name in shown)]
        rows.append([inert(text.strip()) for text in texts])
    return Markdown(align(["source", "reference", *shown], rows, "markdown", left=2 + len(shown)))


def _example(results: dict) -> dict:
    """Return what the lines of code on a card translate, and with which arguments: those of the scores."""
    data, sample = results["data"], results["samples"][0]
    codes = {"src_lang": data.get("tokenizer_source_lang"), "tgt_lang": data.get("tokenizer_target_lang")}
    codes = {name: code for name, code in codes.items() if code}
    return {
        "text": Markdown(json.dumps(sample["source"], ensure_ascii=False)),
        "input": Markdown(json.dumps(data.get("source_prefix", "") + sample["source"], ensure_ascii=False)),
        "prefix": data.get("source_prefix") and in_code(data["source_prefix"]),
        "codes": Markdown("".join(f", {name}={json.dumps(code)}" for name, code in codes.items())),
        "options": Markdown("".join(f", {name}={value!r}" for name, value in results["generation"].items())),
    }


def _arguments(arguments: dict) -> str | None:
    shown = {
        name: portable(value) if isinstance(value, str) else value
        for name, value in arguments.items()
        if value is not None and not name.startswith(_UNTOLD_ARGUMENTS)
    }
    return fenced("yaml", yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=1000)) if shown else None
