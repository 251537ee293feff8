"""A run of training as it lies on disk, made from tiny models, to be pushed."""

import shutil
from pathlib import Path

import torch

from hf_ats.checkpoint import export_level
from hf_ats.data import TranslationCollator
from hf_ats.partition import PartitionConfig, level_names
from hf_ats.results import build_results, json_text, read_results, write_results
from hf_ats.results.portable import portable_results
from hf_ats.run import report_trained
from hf_ats.trainers import ATSSeq2SeqTrainer
from tests.support.checkpoints import ENGLISH, GERMAN, trained_tokenizer
from tests.support.models import partitioned
from tests.support.training import arguments


def make_run(directory: Path, ratios=(0.25,), seed: int = 0) -> Path:
    """`core/`, `full/` (of a ladder every level), `results.json`, `training.png`, `report.html`."""
    config = PartitionConfig(ratios=list(ratios))
    model = partitioned(partition=config, seed=seed)
    tokenizer = trained_tokenizer(directory / "tokenizer")
    # Ids that the tiny vocabulary reserves for its end and padding.
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    levels = {}
    for name in level_names(model):
        report = export_level(model, directory / name, level=name, tokenizer=tokenizer)
        levels[name] = {
            **report.facts(),
            "flops_per_token": 2.0 * report.parameters,
            "bleu": 30.0,
            "chrf": 55.0,
            "bleu_signature": "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.5.1",
            "chrf_signature": "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.5.1",
            "decoding_speed": None,
        }
    shutil.rmtree(directory / "tokenizer")
    results = build_results(
        levels=levels,
        seed=seed,
        model={"name": "tiny", "class": "MarianMTModel"},
        partition=config.to_dict(),
        data={
            "source_lang": "de",
            "target_lang": "en",
            "name": "embedded default corpus",
            "test_part": "test",
            "test_fingerprint": "0123456789abcdef",
            "train": 8,
            "validation": 2,
            "test": 2,
        },
        training={
            "schedule": "alternating",
            "processes": 1,
            "epochs": 1.0,
            "steps": 6,
            "flops": 1e9,
            "seconds": 1.0,
            "arguments": {"learning_rate": 0.01},
        },
        generation={"num_beams": 1, "max_length": 64},
        samples=[
            {"source": german, "reference": english, "translations": dict.fromkeys(levels, english)}
            for german, english in zip(GERMAN, ENGLISH, strict=True)
        ],
        card={"license": "mit"},
    )
    write_results(directory / "results.json", results)
    (directory / "training.png").write_bytes(b"\x89PNG\0 a picture")
    (directory / "report.html").write_text("<!doctype html>", encoding="utf-8")
    return directory


def _rows(tokenizer, german, english) -> list[dict]:
    columns = tokenizer(german, text_target=english)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def trainer_of(tokenizer, directory, model=None, **fields):
    """A trainer that could publish itself; two steps, one of each network."""
    model = partitioned() if model is None else model
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    data = {"train_dataset": _rows(tokenizer, GERMAN, ENGLISH), "eval_dataset": _rows(tokenizer, GERMAN, ENGLISH)}
    data |= {name: fields.pop(name) for name in ("eval_dataset", "processing_class") if name in fields}
    data.setdefault("processing_class", tokenizer)
    args = arguments(directory, **({"max_steps": 2, "generation_max_length": 12} | fields))
    return ATSSeq2SeqTrainer(model, args, data_collator=TranslationCollator(tokenizer), **data)


def report(trainer, **fields) -> dict:
    """What the training script leaves, made by hand."""
    given = dict(sources=GERMAN, references=ENGLISH, source_lang="de", target_lang="en", speed_sentences=0)
    given |= dict(data_facts={"name": "words", "train": 4}, card={"license": "mit"})
    return report_trained(trainer, **(given | fields))


def files_of(folder: str | Path) -> dict[str, bytes]:
    """Every file below a folder."""
    found = (path for path in Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


@torch.no_grad()
def translate(model, tokenizer, sentences: list[str]) -> list[list[int]]:
    """What a model writes, as ids, greedily."""
    batch = tokenizer(sentences, return_tensors="pt", padding=True)
    return model.generate(**batch, num_beams=1, max_new_tokens=12).tolist()


def published_results(run: Path) -> bytes:
    """The `results.json` of a repository of the run."""
    return json_text(portable_results(read_results(run / "results.json"))).encode()
