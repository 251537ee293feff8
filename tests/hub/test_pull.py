"""Models that were pushed are loaded by their Hub id: at a revision, with and without this package, and offline.

The real client against a server on loopback. The second revision, `next`, holds the networks of another run.
"""

import json
import shutil
import sys

import huggingface_hub
import pytest
import torch
import transformers
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, pipeline

from hf_ats.checkpoint import export_adapter, load_network, load_processor, load_tokenizer, stored_levels
from hf_ats.hub import push_run
from hf_ats.remote_code.modeling_ats import FILES
from tests.support import scripts
from tests.support.checkpoints import GERMAN, TRANSFORMERS_4, logits, run_elsewhere
from tests.support.hub import connected_hub
from tests.support.models import partitioned, probe_batch
from tests.support.pushes import files_of, make_run

INTERPRETERS = {"4": TRANSFORMERS_4} | {transformers.__version__[0]: sys.executable}
LEVELS = ("core", "full")
SHORT = {"num_beams": 2, "max_length": 10}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """By revision, the directory of a run."""
    folder = tmp_path_factory.mktemp("runs")
    return {revision: make_run(folder / revision, seed=seed) for seed, revision in ((1, "main"), (2, "next"))}


@pytest.fixture
def hub(monkeypatch, tmp_path, runs):
    """With two revisions of a private pair."""
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None, raising=False)  # which keeps the first endpoint
    with connected_hub(monkeypatch, tmp_path / "home") as hub:
        for revision, run in runs.items():
            push_run(run, "lab/pair", revision=revision, overwrite=True, private=True)
        yield hub


@pytest.fixture(scope="module")
def expected(runs):
    """By level and revision, what the exports translate where they were made."""
    found = {}
    for revision, run in runs.items():
        for level in LEVELS:
            model, tokenizer = (of.from_pretrained(run / level) for of in (AutoModelForSeq2SeqLM, AutoTokenizer))
            ids = [model.generate(**tokenizer(text, return_tensors="pt"), **SHORT)[0] for text in GERMAN]
            found[f"{level} {revision}"] = [tokenizer.decode(one, skip_special_tokens=True) for one in ids]
    assert all(found[f"{level} main"] != found[f"{level} next"] for level in LEVELS), "a revision shows"
    return found


def go_offline(monkeypatch, hub) -> None:
    """The Hub is out of reach, and the client knows."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(transformers.utils.hub, "_is_offline_mode", True, raising=False)
    for method in ("GET", "HEAD"):
        hub.fail(method, "", 500, times=1000)


def test_pairs_are_pulled_by_their_ids_at_a_revision_and_from_the_cache(hub, expected, monkeypatch):
    def pulled() -> dict[str, list[str]]:
        found = {}
        for key in expected:
            level, revision = key.split()
            translate = pipeline("translation", model=f"lab/pair-{level}", revision=revision, **SHORT)
            found[key] = [record["translation_text"] for record in translate(GERMAN)]
        return found

    assert pulled() == expected
    go_offline(monkeypatch, hub)
    asked = len(hub.requests)
    assert pulled() == expected
    assert len(hub.requests) == asked


def test_networks_their_levels_and_what_goes_with_them_are_found_on_the_hub(hub, runs, monkeypatch):
    def check():
        for revision, run in runs.items():
            for level in LEVELS:
                place = dict(revision=revision, token="writer")
                assert stored_levels(f"lab/pair-{level}", **place) == [level]
                network = load_network(f"lab/pair-{level}", level, **place)
                here = load_network(run / level)
                assert type(network) is type(here)
                batch = probe_batch(here)
                assert torch.equal(logits(network, batch), logits(here, batch))
                vocabulary = load_tokenizer(run / level).get_vocab()
                assert load_tokenizer(f"lab/pair-{level}", **place).get_vocab() == vocabulary
                assert load_processor(f"lab/pair-{level}", network, **place).get_vocab() == vocabulary
        with pytest.raises(ValueError, match=r"level='full', but lab/pair-core is one network, 'core'"):
            load_network("lab/pair-core", "full", token="writer")

    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(OSError, match="lab/pair-core"):
        load_network("lab/pair-core")
    check()
    go_offline(monkeypatch, hub)
    check()


def test_an_adapter_on_the_hub_is_its_full_network(hub, tmp_path, monkeypatch):
    model = partitioned("marian")
    tokenizer = load_tokenizer("lab/pair-core")
    export_adapter(model, tmp_path / "adapter", tokenizer=tokenizer)
    hub.create("lab/adapter", files_of(tmp_path / "adapter"), private=True)
    shutil.rmtree(tmp_path / "adapter")
    monkeypatch.delenv("HF_TOKEN")
    network = load_network("lab/adapter", "full", token="writer").eval()
    torch.testing.assert_close(logits(network, probe_batch(model)), logits(model, probe_batch(model)))
    assert load_tokenizer("lab/adapter", token="writer").get_vocab() == tokenizer.get_vocab()


def test_the_scripts_take_ids_and_revisions(hub, expected, tmp_path, monkeypatch, capsys):
    (tmp_path / "text.de").write_text("\n".join(GERMAN) + "\n", encoding="utf-8")
    (tmp_path / "text.en").write_text("\n".join(expected["core next"]) + "\n", encoding="utf-8")
    of = ["--model", "lab/pair-core", "--revision", "next", "--num_beams", 2, "--max_length", 10]
    output = tmp_path / "out.txt"
    scripts.run_here("translate.py", *of, "--input", tmp_path / "text.de", "--output", output, monkeypatch=monkeypatch)
    assert output.read_text(encoding="utf-8").splitlines() == [text.strip() for text in expected["core next"]]
    scripts.run_here("evaluate_translation.py", *of, "--test_prefix", tmp_path / "text", monkeypatch=monkeypatch)
    shown = capsys.readouterr().out
    assert '"core": {' in shown and '"chrf": 100.0' in shown
    with pytest.raises(SystemExit, match=r"translate.py: .*nowhere"):
        scripts.run_here(
            "translate.py", "--model", "lab/nowhere", "--input", tmp_path / "text.de", monkeypatch=monkeypatch
        )


ELSEWHERE = """
    import json, sys
    import transformers
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, pipeline

    folder = sys.argv[1]
    texts, short = json.load(open(f"{folder}/texts.json")), json.load(open(f"{folder}/short.json"))
    version = transformers.__version__
    found = {"version": version, "translated": {}}
    # a core is complete as soon as it was loaded, and no pipeline was made
    model = AutoModelForSeq2SeqLM.from_pretrained("lab/pair-core", trust_remote_code=True)
    model.save_pretrained(f"{folder}/saved-{version}")
    for key in ("core main", "core next", "full next"):
        level, revision = key.split()
        of = {"model": f"lab/pair-{level}", "revision": revision}
        if level == "core" or version.startswith("4."):
            translate = pipeline("translation", **of, trust_remote_code=level == "core", device="cpu", **short)
            found["translated"][key] = [record["translation_text"] for record in translate(texts)]
        else:  # version 5 has no pipeline of its own
            model = AutoModelForSeq2SeqLM.from_pretrained("lab/pair-full", revision=revision)
            tokenizer = AutoTokenizer.from_pretrained("lab/pair-full", revision=revision)
            ids = [model.generate(**tokenizer(text, return_tensors="pt"), **short)[0] for text in texts]
            found["translated"][key] = [tokenizer.decode(one, skip_special_tokens=True) for one in ids]
    print(json.dumps(found))
"""


@pytest.mark.law(number=6)
@pytest.mark.parametrize("version", INTERPRETERS)
def test_pairs_are_pulled_where_the_package_is_not_installed_and_once_pulled_without_a_network(
    version, hub, runs, expected, tmp_path
):
    for name, value in (("texts", GERMAN), ("short", SHORT)):
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    environment = hub.environment(tmp_path / "elsewhere")
    for network in ("0", "1"):
        variables = environment | {"HF_HUB_OFFLINE": network}
        found = run_elsewhere(
            INTERPRETERS[version], ELSEWHERE, tmp_path, tmp_path, with_package=False, variables=variables
        )
        assert found["version"].split(".")[0] == version
        assert found["translated"] == {key: expected[key] for key in ("core main", "core next", "full next")}
    saved = files_of(tmp_path / f"saved-{found['version']}")
    assert {name: saved[name] for name in FILES} == {
        name: (runs["main"] / "core" / name).read_bytes() for name in FILES
    }
