"""Exports in other environments: without this package, and with the last transformers that had a translation pipeline.

Each check starts its interpreter once, for all families together. Those of images are in test_images_modeling.py.
"""

import json
import sys

import pytest
import torch
import transformers
from transformers import AutoTokenizer

from hf_ats.checkpoint import export_adapter, export_core, export_full, load_network
from hf_ats.checkpoint.files import save_tokenizer
from hf_ats.partition import at_level
from hf_ats.run import set_languages_
from tests.support.checkpoints import GERMAN, TRANSFORMERS_4, logits, run_elsewhere
from tests.support.models import ALL_FAMILIES, partitioned, probe_batch
from tests.support.tokenizers import KINDS, tiny_tokenizer

INTERPRETERS = {"4": TRANSFORMERS_4} | {transformers.__version__[0]: sys.executable}
"""The major version of transformers to an interpreter that has it."""

TEXTS = GERMAN[:2]

TOKENIZERS = {family: family for family in ALL_FAMILIES} | {"mbart": "mbart-50", "m2m_100": "nllb"}
"""By family, the kind of tokenizer that its exports come with here."""

FAMILIES_OF_EVERY_EXPORT = ("marian", "t5")
"""Those with every kind of export. The others have those that a class of ours is in, and full."""

WITHOUT_PACKAGE = """
    import json, sys, warnings
    from pathlib import Path
    import torch, transformers
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, pipeline

    folder = Path(sys.argv[1])
    try:
        import hf_ats
        sys.exit("hf_ats can be imported, so nothing is tested")
    except ImportError:
        pass
    # peft asks the model for an attribute that transformers 5 has renamed
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
    texts = json.loads((folder / "texts.json").read_text())
    version = transformers.__version__
    found = {"version": version, "classes": {}, "differences": {}, "generated": {}, "translated": {}, "tokens": {}}

    def load(directory):
        if (directory / "adapter_config.json").exists():
            from peft import PeftModel
            base = AutoModelForSeq2SeqLM.from_pretrained(directory / "base")
            return PeftModel.from_pretrained(base, directory).merge_and_unload()
        trust = (directory / "modeling_ats.py").exists()
        return AutoModelForSeq2SeqLM.from_pretrained(directory, trust_remote_code=trust)

    for expected in sorted(folder.glob("*/*.pt")):
        family, export = expected.parent.name, expected.stem
        model = load(expected.with_suffix(""))
        expected = torch.load(expected)
        with torch.no_grad():
            difference = model(**expected["batch"]).logits - expected["logits"]
        found["classes"][f"{family} {export}"] = type(model).__name__
        found["differences"][f"{family} {export}"] = difference.abs().max().item()
        inputs = {name: expected["batch"][name] for name in ("input_ids", "attention_mask")}
        ids = model.generate(**inputs, num_beams=3, max_length=11, min_length=11)
        found["generated"][f"{family} {export}"] = ids.tolist()

    for directory in sorted((folder / "tokenizers").iterdir()):
        tokenizer = AutoTokenizer.from_pretrained(directory)
        ids = tokenizer(texts, text_target=texts)
        found["tokens"][directory.name] = [ids["input_ids"], ids["labels"]]

    for path in sorted(folder.glob("*/languages.json")):
        family, languages = path.parent.name, json.loads(path.read_text())
        for export in ("core", "full"):
            if export == "full" and version.startswith("5."):
                continue  # which has no pipeline of its own
            directory = str(path.parent / export)
            translate = pipeline("translation", model=directory, trust_remote_code=export == "core", device="cpu")
            found["translated"][f"{family} {export}"] = translate(texts, batch_size=2, **languages)
            if export == "core" and languages:
                assert translate(texts) == found["translated"][f"{family} core"], "the languages are its own"
    marian = pipeline("translation", model=f"{folder}/marian/core", trust_remote_code=True, device="cpu")
    marian.save_pretrained(f"{folder}/saved-{version}")
    again = pipeline("translation", model=f"{folder}/saved-{version}", trust_remote_code=True, device="cpu")
    found["translated"]["marian core, saved again"] = again(texts)
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
        several = pipeline("translation", model=f"{folder}/m2m_100/{export}", device="cpu")
        found[f"several {export}"] = several(texts)
    print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """By family its exports, and beside each the batch, logits and words of the model that it was made from; texts."""
    folder = tmp_path_factory.mktemp("environments")
    (folder / "texts.json").write_text(json.dumps(TEXTS))
    for kind, described in KINDS.items():
        tokenizer = tiny_tokenizer(kind, folder / "made" / kind)
        if described.codes:
            tokenizer.src_lang, tokenizer.tgt_lang = described.codes
        save_tokenizer(tokenizer, folder / "tokenizers" / kind)
    for family in ALL_FAMILIES:
        make_exports(family, folder / family)
    return folder


def make_exports(family: str, folder) -> None:
    kind = TOKENIZERS[family]
    tokenizer = AutoTokenizer.from_pretrained(folder.parent / "made" / kind)
    ladder = partitioned(family, "rank ladder", vocab_size=len(tokenizer))
    width = partitioned(family, "width", vocab_size=len(tokenizer))
    # the pipeline of transformers 4 would put 4 in the place of another number of beams, and 256 of a length of 20
    ladder.generation_config.update(max_length=22, num_beams=4)
    set_languages_(ladder, tokenizer, *(KINDS[kind].codes or (None, None)))
    named = dict(zip(("src_lang", "tgt_lang"), KINDS[kind].codes or (), strict=False))
    folder.mkdir()
    (folder / "languages.json").write_text(json.dumps(named))
    exports = {
        "full": (ladder, "full", export_full),
        "core": (ladder, "core", export_core),
        "width": (width, "core", export_core),
    }
    if family in FAMILIES_OF_EVERY_EXPORT:
        narrow = partitioned(family, "feed-forward width", vocab_size=len(tokenizer))
        exports |= {
            "level1": (ladder, "level1", lambda *args, **kwargs: export_core(*args, level="level1", **kwargs)),
            "dense": (ladder, "core", lambda *args, **kwargs: export_core(*args, dense=True, **kwargs)),
            "narrow": (narrow, "core", export_core),
            "adapter": (ladder, "full", export_adapter),
        }
    for name, (model, level, export) in exports.items():
        export(model, folder / name, tokenizer=tokenizer)
        batch = probe_batch(model)
        with at_level(model, level):
            expected = {"batch": batch, "logits": logits(model, batch)}
            inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
            ids = model.generate(**inputs, num_beams=3, max_length=11, min_length=11)
        torch.save(expected, folder / f"{name}.pt")
        (folder / f"{name}.json").write_text(json.dumps(ids.tolist()))


def translations(folder, family: str, export: str) -> list[dict]:
    """What `generate` makes of the texts, in this interpreter and without any pipeline."""
    tokenizer = AutoTokenizer.from_pretrained(folder / family / export)
    model = load_network(folder / family / export)
    ids = [model.generate(**tokenizer(text, return_tensors="pt"))[0] for text in TEXTS]
    return [{"translation_text": tokenizer.decode(sentence, skip_special_tokens=True)} for sentence in ids]


def assert_nothing_alarming(stderr: str) -> None:
    """The libraries say nothing but their progress and the device."""
    lines = [line.split("\r")[-1] for line in stderr.splitlines()]
    expected = ("Loading weights", "Writing model shards", "Device set to use")
    assert [line for line in lines if line.strip() and not line.startswith(expected)] == []


@pytest.mark.parametrize("version", INTERPRETERS)
def test_every_export_computes_and_translates_where_the_package_is_not_installed(version, folder):
    found = run_elsewhere(INTERPRETERS[version], WITHOUT_PACKAGE, folder, folder, with_package=False)
    assert found["version"].split(".")[0] == version
    exports = {f"{path.parent.name} {path.stem}" for path in folder.glob("*/*.pt")}
    assert len(exports) == 3 * 7 + 4 * 2
    assert found["differences"].keys() == exports
    assert {name: difference for name, difference in found["differences"].items() if not difference < 1e-5} == {}
    for name in exports:
        family, export = name.split()
        stock = found["classes"][f"{family} full"]
        assert found["classes"][name] == (f"ATS{stock}" if export in ("core", "level1", "width") else stock)
        assert found["generated"][name] == json.loads((folder / family / f"{export}.json").read_text())
    for kind in KINDS:
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizers" / kind)
        ids = tokenizer(TEXTS, text_target=TEXTS)
        assert found["tokens"][kind] == [ids["input_ids"], ids["labels"]]
    for name, translated in found["translated"].items():
        family, export, *_ = name.replace(",", "").split()
        assert translated == translations(folder, family, export), name
    assert len(found["translated"]) == {"5": 7 + 1, "4": 14 + 1}[version]
    assert_nothing_alarming(found["stderr"])


@pytest.mark.parametrize("version", INTERPRETERS)
def test_full_and_core_translate_through_the_package_whether_or_not_code_is_trusted(version, folder):
    found = run_elsewhere(INTERPRETERS[version], WITH_PACKAGE, folder, folder, with_package=True)
    assert found["version"].split(".")[0] == version
    for export in ("core", "full"):
        assert found["translations"][export] == [translations(folder, "marian", export)] * 4
        assert found[f"several {export}"] == translations(folder, "m2m_100", export)
    assert_nothing_alarming(found["stderr"])
