"""Exports in other environments: without this package, and with the last transformers that had a translation pipeline.

Each interpreter is started once for each module, for all families together.
"""

import sys

import pytest
import torch

from hf_ats.checkpoint import export_core, export_full
from tests.checkpoints import GERMAN, TRANSFORMERS_4, logits, partitioned, run_elsewhere, trained_tokenizer
from tests.models import FAMILIES, probe_batch

INTERPRETERS = {"newest": sys.executable, "transformers-4": TRANSFORMERS_4}

# Loads each export and compares its logits with those that the test wrote; then translates with the Marian exports.
WITHOUT_PACKAGE = """
    import importlib, json, os, sys
    import torch, transformers
    from transformers import AutoModelForSeq2SeqLM, pipeline

    folder, *families = sys.argv[1:]
    try:
        importlib.import_module("hf_ats")
        sys.exit("hf_ats can be imported here")
    except ImportError:
        pass
    differences, classes, translations = {}, {}, {}
    for family in families:
        batch = torch.load(f"{folder}/{family}/batch.pt")
        for which in ("full", "core"):
            directory = f"{folder}/{family}/{which}"
            model = AutoModelForSeq2SeqLM.from_pretrained(directory, trust_remote_code=which == "core")
            classes[f"{family}/{which}"] = type(model).__name__
            with torch.no_grad():
                found = model(**batch).logits
            expected = torch.load(f"{folder}/{family}/{which}.pt")
            differences[f"{family}/{which}"] = (found - expected).abs().max().item()
    texts = json.loads(os.environ.get("TEXTS", "null")) or json.load(open(f"{folder}/texts.json"))
    translate = pipeline("translation", model=f"{folder}/marian/core", trust_remote_code=True, device="cpu")
    translations["core"] = translate(texts, batch_size=2)
    translate.save_pretrained(f"{folder}/saved-{transformers.__version__}")
    again = pipeline(
        "translation", model=f"{folder}/saved-{transformers.__version__}", trust_remote_code=True, device="cpu"
    )
    translations["core, saved again"] = again(texts, batch_size=2)
    if transformers.__version__.startswith("4."):  # with its own pipeline, as anybody would use a stock model
        translations["full"] = pipeline("translation", model=f"{folder}/marian/full", device="cpu")(texts)
    print(json.dumps(dict(
        version=transformers.__version__, differences=differences, classes=classes, translations=translations
    )))
"""

# The same through the package, without and with trust in remote code.
WITH_PACKAGE = """
    import json, sys
    import hf_ats.checkpoint
    import transformers
    from transformers import pipeline

    folder = sys.argv[1]
    texts = json.load(open(f"{folder}/texts.json"))
    translations = {}
    for which in ("core", "full"):
        for options in ({}, {"trust_remote_code": True}):
            for task in ("translation", "translation_de_to_en"):
                translate = pipeline(task, model=f"{folder}/marian/{which}", device="cpu", **options)
                translations[f"{which} {task} {options}"] = translate(texts, batch_size=2)
    print(json.dumps(dict(version=transformers.__version__, translations=translations)))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """For each family the exports `full` and `core`, a batch, and the logits of both; texts for Marian."""
    import json

    folder = tmp_path_factory.mktemp("environments")
    tokenizer = trained_tokenizer(folder / "tokenizer")
    (folder / "texts.json").write_text(json.dumps(GERMAN))
    for family in FAMILIES:
        model = partitioned(family, seed=2)
        model.generation_config.update(max_new_tokens=8, num_beams=2)
        batch = probe_batch(model)
        for which, export in (("full", export_full), ("core", export_core)):
            export(model, folder / family / which, tokenizer=tokenizer)
            model_level = "full" if which == "full" else "core"
            from hf_ats.partition import at_level

            with at_level(model, model_level):
                torch.save(logits(model, batch), folder / family / f"{which}.pt")
        torch.save(batch, folder / family / "batch.pt")
    return folder
