"""Exports in other environments: without this package, and with the last transformers that had a translation pipeline.

Each check starts its interpreter once, for all families together.
"""

import json
import sys

import pytest
import torch

from hf_ats.checkpoint import export_core, export_full
from hf_ats.partition import at_level
from tests.checkpoints import GERMAN, TRANSFORMERS_4, logits, run_elsewhere, trained_tokenizer
from tests.models import FAMILIES, partitioned, probe_batch

INTERPRETERS = {"5": sys.executable, "4": TRANSFORMERS_4}
"""The major version of transformers to an interpreter that has it."""

WITHOUT_PACKAGE = """
    import json, sys
    import torch, transformers
    from transformers import AutoModelForSeq2SeqLM, pipeline

    folder, *families = sys.argv[1:]
    try:
        import hf_ats
        sys.exit("hf_ats can be imported, so nothing is tested")
    except ImportError:
        pass
    found = {"version": transformers.__version__, "classes": {}, "differences": {}, "generated": {}}
    for family in families:
        batch = torch.load(f"{folder}/{family}/batch.pt")
        for export, trust in (("full", False), ("core", True), ("width", True), ("narrow", False)):
            model = AutoModelForSeq2SeqLM.from_pretrained(f"{folder}/{family}/{export}", trust_remote_code=trust)
            with torch.no_grad():
                difference = model(**batch).logits - torch.load(f"{folder}/{family}/{export}.pt")
            found["classes"][f"{family} {export}"] = type(model).__name__
            found["differences"][f"{family} {export}"] = difference.abs().max().item()
            inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
            ids = model.generate(**inputs, num_beams=3, max_length=11, min_length=11)
            found["generated"][f"{family} {export}"] = ids.tolist()
    texts = json.load(open(f"{folder}/texts.json"))
    translate = pipeline("translation", model=f"{folder}/marian/core", trust_remote_code=True, device="cpu")
    found["core"] = translate(texts, batch_size=2)
    saved = f"{folder}/saved-{transformers.__version__}"
    translate.save_pretrained(saved)
    found["core, saved again"] = pipeline("translation", model=saved, trust_remote_code=True, device="cpu")(texts)
    if transformers.__version__.startswith("4."):
        found["full"] = pipeline("translation", model=f"{folder}/marian/full", device="cpu")(texts)
    print(json.dumps(found))
"""

WITH_PACKAGE = """
    import json, sys
    import hf_ats
    import transformers
    from transformers import pipeline

    folder = sys.argv[1]
    texts = json.load(open(f"{folder}/texts.json"))
    found = {"version": transformers.__version__, "translations": {"core": [], "full": []}}
    for export, translations in found["translations"].items():
        for trust in ({}, {"trust_remote_code": True}):
            for task in ("translation", "translation_de_to_en"):
                translate = pipeline(task, model=f"{folder}/marian/{export}", device="cpu", **trust)
                translations.append(translate(texts, batch_size=2))
    print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """For each family four exports, a batch, and the logits and words of the models that they were made from; texts.

    `full` and `core` are by rank, `width` a core of narrower attention too, and `narrow` one of a stock class.
    """
    folder = tmp_path_factory.mktemp("environments")
    tokenizer = trained_tokenizer(folder / "tokenizer")
    (folder / "texts.json").write_text(json.dumps(GERMAN))
    for family in FAMILIES:
        model = partitioned(family)
        # the pipeline of transformers 4 would put 4 in the place of another number of beams
        model.generation_config.update(max_length=24, num_beams=4)
        export_full(model, folder / family / "full", tokenizer=tokenizer)
        export_core(model, folder / family / "core", tokenizer=tokenizer)
        torch.save(probe_batch(model), folder / family / "batch.pt")
        width, narrow = partitioned(family, "width"), partitioned(family, "feed-forward width")
        export_core(width, folder / family / "width")
        export_core(narrow, folder / family / "narrow")
        networks = {"full": (model, "full"), "core": (model, "core"), "width": (width, 0), "narrow": (narrow, 0)}
        for name, (network, level) in networks.items():
            batch = probe_batch(network)
            with at_level(network, level):
                torch.save(logits(network, batch), folder / family / f"{name}.pt")
                del batch["decoder_input_ids"]
                ids = network.generate(**batch, num_beams=3, max_length=11, min_length=11)
            (folder / family / f"{name}.json").write_text(json.dumps(ids.tolist()))
    return folder


def translations(folder, export: str) -> list[dict]:
    """What `generate` makes of the texts, in this interpreter and without any pipeline."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    directory = folder / "marian" / export
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForSeq2SeqLM.from_pretrained(directory)
    ids = [model.generate(**tokenizer(text, return_tensors="pt"))[0] for text in GERMAN]
    return [{"translation_text": tokenizer.decode(sentence, skip_special_tokens=True)} for sentence in ids]


def assert_nothing_alarming(stderr: str) -> None:
    """The libraries say nothing but their progress and the device."""
    lines = [line.split("\r")[-1] for line in stderr.splitlines()]
    expected = ("Loading weights", "Writing model shards", "Device set to use")
    assert [line for line in lines if line.strip() and not line.startswith(expected)] == []


@pytest.mark.parametrize("version", INTERPRETERS)
def test_full_and_core_compute_and_translate_where_the_package_is_not_installed(version, folder):
    found = run_elsewhere(INTERPRETERS[version], WITHOUT_PACKAGE, folder, folder, *FAMILIES, with_package=False)
    assert found["version"].split(".")[0] == version
    assert len(found["differences"]) == 16
    assert {name: difference for name, difference in found["differences"].items() if not difference < 1e-5} == {}
    for family in FAMILIES:
        stock = found["classes"][f"{family} full"]
        assert found["classes"][f"{family} core"] == found["classes"][f"{family} width"] == f"ATS{stock}"
        assert found["classes"][f"{family} narrow"] == stock
        for export in ("full", "core", "width", "narrow"):
            expected = json.loads((folder / family / f"{export}.json").read_text())
            assert found["generated"][f"{family} {export}"] == expected
    assert found["core"] == found["core, saved again"] == translations(folder, "core")
    if version == "4":
        assert found["full"] == translations(folder, "full")
    assert_nothing_alarming(found["stderr"])


@pytest.mark.parametrize("version", INTERPRETERS)
def test_full_and_core_translate_through_the_package_whether_or_not_code_is_trusted(version, folder):
    found = run_elsewhere(INTERPRETERS[version], WITH_PACKAGE, folder, folder, with_package=True)
    assert found["version"].split(".")[0] == version
    for export in ("core", "full"):
        assert found["translations"][export] == [translations(folder, export)] * 4
    assert_nothing_alarming(found["stderr"])
