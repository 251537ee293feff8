"""Exports in other environments: without this package, and with the last transformers that had a translation pipeline.

Each interpreter is started once, for all checks and families together. Those of images are in test_images_modeling.py.
"""

import json
import shutil
import sys

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from hf_ats.checkpoint import export_adapter, export_core, export_full, load_network
from hf_ats.checkpoint.files import save_tokenizer
from hf_ats.partition import at_level
from hf_ats.run import set_languages_
from tests.support.checkpoints import GERMAN, TRANSFORMERS_4, logits, run_elsewhere
from tests.support.decodings import assert_greedy, beam_scores
from tests.support.models import ALL_FAMILIES, partitioned, probe_batch
from tests.support.tokenizers import KINDS, tiny_tokenizer

INTERPRETERS = {"4": TRANSFORMERS_4} | {transformers.__version__[0]: sys.executable}
"""The major version of transformers to an interpreter that has it."""

pytestmark = pytest.mark.law(number=6)

TEXTS = GERMAN[:2]

TOKENIZERS = {family: family for family in ALL_FAMILIES} | {"mbart": "mbart-50", "m2m_100": "nllb"}
"""By family, the kind of tokenizer that its exports come with here."""

FAMILIES_OF_EVERY_EXPORT = ("marian", "t5")
"""Those with every kind of export. The others have those that a class of ours is in, and full."""

CODE = """
    import json, sys, warnings
    from pathlib import Path
    import torch, transformers
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, pipeline

    folder = Path(sys.argv[1])
    sys.modules["hf_ats"] = None
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

    def translations(translate, **languages):
        options = dict(batch_size=2, num_beams=1, **languages)
        ids = [record["translation_token_ids"] for record in translate(texts, return_tensors=True, **options)]
        words = [record["translation_text"] for record in translate(texts, **options)]
        return {"ids": [sentence.tolist() for sentence in ids], "words": words}

    for expected in sorted(folder.glob("*/*.pt")):
        name = f"{expected.parent.name} {expected.stem}"
        model = load(expected.with_suffix(""))
        expected = torch.load(expected)
        with torch.no_grad():
            difference = model(**expected["batch"]).logits - expected["logits"]
        found["classes"][name] = type(model).__name__
        found["differences"][name] = (difference.abs().max() / expected["logits"].abs().max()).item()
        inputs = {name: expected["batch"][name] for name in ("input_ids", "attention_mask")}
        options = dict(num_beams=3, max_length=11, min_length=11, return_dict_in_generate=True, output_scores=True)
        generated = model.generate(**inputs, **options)
        found["generated"][name] = [generated.sequences.tolist(), generated.sequences_scores.tolist()]

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
            translated = found["translated"][f"{family} {export}"] = translations(translate, **languages)
            if export == "core" and languages:
                assert translations(translate) == translated, "the languages are its own"
    marian = pipeline("translation", model=f"{folder}/marian/core", trust_remote_code=True, device="cpu")
    marian.save_pretrained(f"{folder}/saved-{version}")
    found["refused"] = []
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    for damaged in json.loads((folder / "damaged.json").read_text()):
        try:
            AutoModelForSeq2SeqLM.from_pretrained(folder / damaged, trust_remote_code=True)
        except ValueError as error:
            found["refused"].append(str(error))
    transformers.logging.set_verbosity(verbosity)
    again = pipeline("translation", model=f"{folder}/saved-{version}", trust_remote_code=True, device="cpu")
    found["translated"]["marian core, saved again"] = translations(again)

    # From here on with the package, which makes itself known to a transformers that is in use.
    del sys.modules["hf_ats"]
    import hf_ats
    found["with the package"] = {}
    for export in ("core", "full"):
        found["with the package"][f"marian {export}"] = [
            translations(pipeline(task, model=f"{folder}/marian/{export}", device="cpu", **trust))
            for trust in ({}, {"trust_remote_code": True})
            for task in ("translation", "translation_de_to_en")
        ]
        several = pipeline("translation", model=f"{folder}/m2m_100/{export}", device="cpu")
        found["with the package"][f"m2m_100 {export}"] = [translations(several)]
    print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def networks():
    """What each export is of, by family and export: the partitioned model, and the level."""
    return {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, networks):
    """By family its exports, beside each the batch and logits of the model that it was made from; texts."""
    folder = tmp_path_factory.mktemp("environments")
    (folder / "texts.json").write_text(json.dumps(TEXTS))
    for kind, described in KINDS.items():
        tokenizer = tiny_tokenizer(kind, folder / "made" / kind)
        if described.codes:
            tokenizer.src_lang, tokenizer.tgt_lang = described.codes
        save_tokenizer(tokenizer, folder / "tokenizers" / kind)
    for family in ALL_FAMILIES:
        networks |= make_exports(family, folder / family)
    weights = load_file(folder / "marian" / "core" / "model.safetensors")
    factor = next(name for name in weights if name.endswith("fc1.U.weight"))
    renamed = {name.replace("fc1.U", "fc1.A"): tensor for name, tensor in weights.items()}
    nan = weights | {factor: weights[factor] * torch.nan}
    for name, damaged in (("renamed", renamed), ("nan", nan)):
        shutil.copytree(folder / "marian" / "core", folder / "damaged" / name)
        save_file(damaged, folder / "damaged" / name / "model.safetensors", metadata={"format": "pt"})
    (folder / "damaged.json").write_text(json.dumps(["damaged/renamed", "damaged/nan"]))
    return folder


@pytest.fixture(scope="module", params=INTERPRETERS)
def found(request, folder):
    """What one interpreter finds, first without this package and then with it."""
    found = run_elsewhere(INTERPRETERS[request.param], CODE, folder, folder, with_package=True)
    assert found["version"].split(".")[0] == request.param
    return found


def make_exports(family: str, folder) -> dict:
    kind = TOKENIZERS[family]
    tokenizer = AutoTokenizer.from_pretrained(folder.parent / "made" / kind)
    ladder = partitioned(family, "vocabulary ladder", vocab_size=len(tokenizer))
    width = partitioned(family, "width", vocab_size=len(tokenizer))
    ladder.generation_config.update(max_length=22)  # for 20 the pipeline of transformers 4 would put 256
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
            torch.save({"batch": batch, "logits": logits(model, batch)}, folder / f"{name}.pt")
    return {f"{family} {name}": (model, level) for name, (model, level, _) in exports.items()}


def assert_translations(found: dict, directory) -> None:
    """They are those of the greedy search, of the network in this interpreter and without any pipeline."""
    tokenizer, model = AutoTokenizer.from_pretrained(directory), load_network(directory)
    assert found["words"] == [tokenizer.decode(ids, skip_special_tokens=True) for ids in found["ids"]]
    for text, ids in zip(TEXTS, found["ids"], strict=True):
        assert_greedy(model, tokenizer(text, return_tensors="pt"), ids)


def test_every_export_computes_where_the_package_is_not_installed(found, folder, networks):
    exports = {f"{path.parent.name} {path.stem}" for path in folder.glob("*/*.pt")}
    assert len(exports) == 3 * 7 + 4 * 2
    assert found["differences"].keys() == exports == networks.keys()
    assert {name: difference for name, difference in found["differences"].items() if not difference < 1e-4} == {}
    for name, (model, level) in networks.items():
        family, export = name.split()
        stock = found["classes"][f"{family} full"]
        assert found["classes"][name] == (f"ATS{stock}" if export in ("core", "level1", "width") else stock)
        batch = probe_batch(model)
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        ids, scores = map(torch.tensor, found["generated"][name])
        assert ids.shape == (len(batch["input_ids"]), 11)
        with at_level(model, level):
            torch.testing.assert_close(scores, beam_scores(model, inputs, ids), atol=1e-4, rtol=0, msg=name)
    for kind in KINDS:
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizers" / kind)
        ids = tokenizer(TEXTS, text_target=TEXTS)
        assert found["tokens"][kind] == [ids["input_ids"], ids["labels"]]


def test_every_export_translates_where_the_package_is_not_installed(found, folder):
    for name, translated in found["translated"].items():
        family, export, *_ = name.replace(",", "").split()
        assert_translations(translated, folder / family / export)
    assert len(found["translated"]) == {"5": 7 + 1, "4": 14 + 1}[found["version"][0]]


def test_full_and_core_translate_through_the_package_whether_or_not_code_is_trusted(found, folder):
    for name, translated in found["with the package"].items():
        assert all(each == translated[0] for each in translated)
        assert_translations(translated[0], folder.joinpath(*name.split()))
    assert {name: len(translated) for name, translated in found["with the package"].items()} == {
        "marian core": 4,
        "m2m_100 core": 1,
        "marian full": 4,
        "m2m_100 full": 1,
    }


def test_the_libraries_say_nothing_but_their_progress_and_the_device(found):
    lines = [line.split("\r")[-1] for line in found["stderr"].splitlines()]
    expected = ("Loading weights", "Writing model shards", "Device set to use")
    assert [line for line in lines if line.strip() and not line.startswith(expected)] == []


def test_a_core_that_is_not_complete_is_refused_by_its_own_code(found):
    incomplete, nan = found["refused"]
    assert "damaged/renamed is not complete: its weights have no " in incomplete and "fc1.U.weight" in incomplete
    assert "damaged/nan holds NaN in " in nan and "fc1.U.weight" in nan
