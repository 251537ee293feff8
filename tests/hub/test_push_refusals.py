"""What `push_run` refuses: each by a sentence with its remedy, before anything is written, here or on the Hub."""

import json
import shutil

import pytest

from hf_ats.checkpoint import weights_sha256
from hf_ats.hub import PushError, push_run, stage_run
from hf_ats.results import build_results, read_results, with_facts, write_results
from tests.support.hub import Identity, connected_hub
from tests.support.pushes import files_of, make_run, published_results

WRITES = ("POST", "PUT", "DELETE")


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("pair") / "run")


@pytest.fixture
def run(template, tmp_path):
    return shutil.copytree(template, tmp_path / "run")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with connected_hub(monkeypatch, tmp_path / "home") as hub:
        monkeypatch.setattr("hf_ats.hub.errors._sleep", hub.naps.append)
        yield hub


def refuse(hub, run, match, error=PushError, name="pair", **push):
    """The push is refused with these words, and nothing is any different."""
    here = files_of(run) if run.is_dir() else None
    there = {repo_id: dict(repository.refs) for repo_id, repository in hub.repositories.items()}
    with pytest.raises(error, match=match):
        push_run(run, name, **push)
    assert (files_of(run) if run.is_dir() else None) == here
    assert {repo_id: dict(repository.refs) for repo_id, repository in hub.repositories.items()} == there
    written = [path for method, path in hub.requests if method in WRITES and path != "/api/validate-yaml"]
    assert written == []


# ---- Who pushes ----


def test_no_token(run, hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    refuse(hub, run, r"There is no token.*role 'write'.*token=\.\.\., set HF_TOKEN, or log in by `hf auth login`")
    assert hub.requests == []


def test_a_token_that_the_hub_does_not_know(run, hub):
    refuse(hub, run, r"status 401.*The token is not valid \(any more\): make one", token="nobody")


def test_a_token_for_reading(run, hub):
    refuse(hub, run, "The token 'a token' of ann is for reading only; make one with the role 'write'", token="reader")


@pytest.mark.parametrize(
    ("permissions", "refused"), [(["repo.content.read"], True), (["repo.content.read", "repo.write"], False)]
)
def test_a_fine_grained_token(run, hub, permissions, refused):
    scopes = {"global": [], "scoped": [{"entity": {"type": "user", "name": "ann"}, "permissions": permissions}]}
    hub.tokens["fine"] = Identity("ann", role="fineGrained", fine_grained=scopes)
    if refused:
        refuse(hub, run, "is for reading only", token="fine")
    else:
        push_run(run, "pair", token="fine")


@pytest.mark.parametrize("repository_exists", [False, True])
def test_a_namespace_that_is_somebody_elses(run, hub, repository_exists):
    if repository_exists:
        hub.create("bob/pair-core")
    refuse(hub, run, "The token is of ann, who has no part in 'bob'; push to one of ann, lab, or", name="bob/pair")


def test_an_organization_where_the_user_may_read(run, hub):
    refuse(hub, run, "ann may only read in 'closed'; ask its administrators", name="closed/pair")


def test_a_process_that_is_offline(run, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refuse(hub, run, "HF_HUB_OFFLINE=1 keeps this process from the Hub; unset it")


def test_a_hub_that_cannot_be_reached(run, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    refuse(hub, run, "asking whose token this is failed: .*The Hub could not be reached")
    assert hub.naps == [1, 2, 4, 8]


# ---- Under which name ----


@pytest.mark.parametrize("name", ["a b", "pair/", "/pair", "a/b/c", "-pair", "pair..x", "ä"])
def test_a_name_that_the_hub_does_not_take(run, hub, name):
    refuse(hub, run, r"makes the repository .*-core', which the Hub does not take.*Choose a name", ValueError, name)
    assert hub.requests == []


def test_a_name_that_is_too_long_with_its_level(run, hub):
    refuse(hub, run, "of at most 91 characters", ValueError, "p" * 92)
    push_run(run, "p" * 91)


@pytest.mark.parametrize("name", ["", None, 3])
def test_no_name(run, hub, name):
    refuse(hub, run, "must be text; write 'NAME', or 'ORGANIZATION/NAME'", ValueError, name)


def test_two_namespaces(run, hub):
    refuse(hub, run, "has a namespace already, and organization='lab'", ValueError, "ann/pair", organization="lab")


# ---- What is there already ----


@pytest.mark.parametrize(
    "files",
    [{"config.json": b"{}"}, {"README.md": b"# mine"}, {"results.json": b"{"}, {"results.json": b'{"accuracy": 1}'}],
)
def test_a_repository_that_holds_another_model(run, hub, files):
    hub.create("ann/pair-full", files)
    refuse(hub, run, "ann/pair-full holds something else than this run .*choose another name, .*--overwrite")


def test_a_repository_that_holds_another_run_is_replaced_when_asked(run, hub, tmp_path):
    push_run(make_run(tmp_path / "other", seed=1), "pair")
    hub.repositories["ann/pair-core"].files()["extra.bin"] = b"theirs"
    hub.requests.clear()
    refuse(hub, run, "ann/pair-core holds something else than this run")
    push_run(run, "pair", overwrite=True)
    files = hub.repositories["ann/pair-core"].files()
    assert files["results.json"] == published_results(run)
    assert files["model.safetensors"] == (run / "core/model.safetensors").read_bytes()
    assert "extra.bin" not in files
    assert len(hub.repositories["ann/pair-core"].log()) == 3  # what was there can be had back


def test_the_same_run_trained_again_is_another(run, hub):
    push_run(run, "pair")
    hub.requests.clear()
    results = read_results(run / "results.json")
    write_results(run / "results.json", results | {"run_id": "0" * 32})
    refuse(hub, run, "holds something else than this run")


def test_a_run_from_before_runs_had_ids(run, hub):
    results = read_results(run / "results.json")
    del results["run_id"]
    write_results(run / "results.json", results)
    push_run(run, "pair")
    results = read_results(run / "results.json")
    write_results(run / "results.json", with_facts(results, {"license": "apache-2.0"}))
    assert push_run(run, "pair")["core"].changed
    hub.requests.clear()
    write_results(run / "results.json", read_results(run / "results.json") | {"seed": 5})
    refuse(hub, run, "holds something else than this run")


def test_a_repository_that_has_moved(run, hub):
    hub.create("lab/pair-core")
    hub.moved["ann/pair-core"] = "lab/pair-core"
    refuse(hub, run, "ann/pair-core has moved to lab/pair-core on the Hub; push under that name")


@pytest.mark.parametrize(("is_private", "asked"), [(True, False), (False, True)])
def test_a_repository_that_others_see_otherwise_than_asked(run, hub, is_private, asked):
    hub.create("ann/pair-core", private=is_private)
    are = "private" if is_private else "public"
    refuse(hub, run, f"ann/pair-core is there and {are}, and private={asked} .*settings", private=asked)


def test_a_pull_request_to_nothing(run, hub):
    hub.create("ann/pair-core")
    refuse(hub, run, "create_pr=True asks to change ann/pair-full, and there is no such repository", create_pr=True)


@pytest.mark.parametrize("revision", ["refs/pr/7", "0" * 40])
def test_a_revision_that_takes_no_commit(run, hub, revision):
    hub.create("ann/pair-core")
    refuse(hub, run, "has no pull request 'refs/pr/7'|is a tag or a commit", revision=revision)


def test_a_card_that_the_hub_does_not_take(run, hub):
    hub.bad_metadata = "license is not one"
    refuse(hub, run, "The Hub does not take the metadata of the card: license is not one. Correct the run's facts")
    hub.bad_metadata = None
    hub.fail("POST", "validate-yaml", 400)
    refuse(hub, run, "asking the Hub about the model card failed: status 400")


# ---- What is to be pushed ----


def test_no_directory(hub, tmp_path):
    refuse(hub, tmp_path / "nothing", "is no directory; give the --output_dir", ValueError)


def test_no_results(run, hub):
    (run / "results.json").unlink()
    refuse(hub, run, "holds no results.json, which the model card is rendered from; give", ValueError)


def test_results_that_are_cut_off(run, hub):
    (run / "results.json").write_text('{"format": 1,', encoding="utf-8")
    refuse(hub, run, "is not JSON", ValueError)


def test_a_run_of_images(run, hub):
    level = {"parameters": 1, "size_bytes": 4, "flops_per_image": 1, "accuracy": 50.0}
    training = dict.fromkeys(("schedule", "epochs", "steps", "flops", "seconds", "epoch_forward_flops"), 1)
    none = dict(model={}, partition=None, data={})
    results = build_results(levels={"full": level}, seed=0, training=training, task="image-classification", **none)
    write_results(run / "results.json", results)
    refuse(hub, run, "image-classification, and cards are for translation; export .*upload_folder", ValueError)


def test_a_missing_fact(run, hub):
    write_results(run / "results.json", read_results(run / "results.json") | {"card": {}})
    refuse(hub, run, "license is missing.*--license", ValueError)


def test_a_wrong_fact_is_not_written_down(run, hub):
    refuse(hub, run, "license='Apache 2' .*apache-2.0", ValueError, license="Apache 2")


@pytest.mark.parametrize("levels", [["level1"], ["core", "dense"], "core", []])
def test_a_level_that_the_run_has_not(run, hub, levels):
    refuse(hub, run, r"has no .*it has \['core', 'full'\]|must be a list of names", ValueError, levels=levels)


def test_no_export(run, hub):
    shutil.rmtree(run / "core")
    refuse(hub, run, "run/core holds no export; train to the end, or write it by scripts/export.py", ValueError)


@pytest.mark.parametrize("cut", [1, 5_000, 100_000])
def test_weights_that_are_cut_off(run, hub, cut):
    weights = run / "full/model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: max(0, len(content) - cut)])
    refuse(hub, run, r"model.safetensors is cut off or damaged: it has .* bytes, and .* by its header", ValueError)


@pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0nothing!", b"\xff" * 64])
def test_weights_without_a_header(run, hub, content):
    (run / "full/model.safetensors").write_bytes(content)
    refuse(hub, run, "no header that can be read|is cut off or damaged", ValueError)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "vocab.json"])
def test_a_file_of_json_that_is_cut_off(run, hub, name):
    path = run / "core" / name
    path.write_bytes(path.read_bytes()[:-10])
    refuse(hub, run, f"core/{name} is cut off or damaged .*write it again by scripts/export.py", ValueError)


def test_a_report_that_is_cut_off(run, hub):
    (run / "core/export.json").write_text('{"kind": "core"}', encoding="utf-8")
    refuse(hub, run, "core/export.json is not the report of an export", ValueError)


def test_an_empty_file(run, hub):
    (run / "full/source.spm").write_bytes(b"")
    refuse(hub, run, "source.spm is empty", ValueError)


def test_a_missing_file(run, hub):
    (run / "core/modeling_ats.py").unlink()
    refuse(hub, run, "core lacks modeling_ats.py, which its export wrote", ValueError)


def test_a_foreign_file(run, hub):
    (run / "full/notes.txt").write_text("mine", encoding="utf-8")
    refuse(hub, run, "holds notes.txt, which its export did not write.*move it away", ValueError)


def test_an_export_of_another_level(run, hub):
    shutil.rmtree(run / "core")
    shutil.copytree(run / "full", run / "core")
    refuse(hub, run, "core holds an export of kind 'full' at level 'full'", ValueError)


def test_results_of_another_export(run, hub):
    results = read_results(run / "results.json")
    results["levels"]["core"]["size_bytes"] += 1
    write_results(run / "results.json", results)
    refuse(hub, run, "they are of different runs", ValueError)


def test_weights_of_another_training_of_the_same_size(run, hub):
    results = read_results(run / "results.json")
    results["levels"]["core"]["weights_sha256"] = {"model.safetensors": "0" * 64}
    write_results(run / "results.json", results)
    refuse(hub, run, "holds other weights than those whose scores are in", ValueError)
    results["levels"]["core"]["weights_sha256"] = weights_sha256(run / "core")
    write_results(run / "results.json", results)
    assert push_run(run, "pair")["core"].changed


def test_staging_refuses_the_same(run, tmp_path):
    (run / "full/notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match="its export did not write"):
        stage_run(run, "pair", tmp_path / "look")
    assert not (tmp_path / "look").exists()
    assert json.loads((run / "results.json").read_text(encoding="utf-8"))["card"] == {"license": "mit"}
