"""What `push_run` refuses: each by a sentence with its remedy, before anything is written, here or on the Hub."""

import importlib.metadata
import json
import shutil

import pytest

from hf_ats.checkpoint import ExportReport
from hf_ats.hub import PushError, push_run, stage_run
from hf_ats.results import build_results, read_results, with_facts, write_results
from hf_ats.storage import sealed, sha256_of
from tests.support.pushes import files_of, published_results

WRITES = ("POST", "PUT", "DELETE")


def refuse(hub, run, match, error=PushError, name="pair", **push):
    """The push is refused with these words, and nothing is any different."""
    here = files_of(run)
    there = {repo_id: dict(repository.refs) for repo_id, repository in hub.repositories.items()}
    before = len(hub.requests)
    with pytest.raises(error, match=match):
        push_run(run, name, **push)
    assert files_of(run) == here
    assert {repo_id: dict(repository.refs) for repo_id, repository in hub.repositories.items()} == there
    asked = hub.requests[before:]
    assert [path for method, path in asked if method in WRITES and path != "/api/validate-yaml"] == []


def change_results(run, **changes):
    write_results(run / "results.json", read_results(run / "results.json") | changes)


# ---- Who pushes, and under which name ----


def test_tokens_that_may_not_write(run, hub, monkeypatch):
    refuse(hub, run, r"status 401.*The token is not valid \(any more\): make one", token="nobody")
    refuse(hub, run, "The token of ann is for reading only; make one with the role 'write'", token="reader")
    asked = len(hub.requests)
    monkeypatch.delenv("HF_TOKEN")
    refuse(hub, run, r"There is no token.*role 'write'.*token=\.\.\., set HF_TOKEN, or log in by `hf auth login`")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refuse(hub, run, "HF_HUB_OFFLINE=1 keeps this process from the Hub; unset it")
    assert len(hub.requests) == asked


@pytest.mark.parametrize("repository_exists", [False, True])
def test_namespaces_that_the_user_may_not_write_to(run, hub, repository_exists):
    if repository_exists:
        hub.create("bob/pair-core")
    for namespace in ("bob", "closed"):
        name = f"{namespace}/pair"
        refuse(hub, run, f"of ann, who may not write to '{namespace}'; push to one of ann, lab, or", name=name)


def test_a_hub_that_cannot_be_reached(run, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    refuse(hub, run, "asking whose token this is failed: .*The Hub could not be reached")
    assert hub.naps == [1, 2, 4, 8]


def test_names_that_the_hub_does_not_take(run, hub):
    for name in ("a b", "pair/", "/pair", "a/b/c", "-pair", "pair..x"):
        refuse(
            hub, run, r"makes the repository .*-core', which the Hub does not take.*Choose a name", ValueError, name
        )
    refuse(hub, run, "of at most 91 characters", ValueError, "p" * 92)
    refuse(hub, run, "has a namespace already; leave organization='lab' out", ValueError, "a/b", organization="lab")
    assert hub.requests == []
    push_run(run, "p" * 91)


# ---- What is there already ----


@pytest.mark.parametrize("files", [{"config.json": b"{}"}, {"results.json": b"{"}, {"results.json": b'{"bleu": 1}'}])
def test_a_repository_that_holds_another_model(run, hub, files):
    hub.create("ann/pair-full", files)
    refuse(hub, run, "ann/pair-full holds something else than this run .*choose another name, .*--overwrite")


def test_a_repository_that_holds_another_run_is_replaced_when_asked(run, other, hub):
    push_run(other, "pair")
    hub.repositories["ann/pair-core"].files()["extra.bin"] = b"theirs"
    refuse(hub, run, "ann/pair-core holds something else than this run")
    push_run(run, "pair", overwrite=True)
    files = hub.repositories["ann/pair-core"].files()
    assert files["results.json"] == published_results(run)
    assert files["model.safetensors"] == (run / "core/model.safetensors").read_bytes()
    assert "extra.bin" not in files
    assert len(hub.repositories["ann/pair-core"].log()) == 3  # what was there can be had back
    change_results(run, run_id="0" * 32)  # the same run, trained again
    refuse(hub, run, "holds something else than this run")


def test_a_run_from_before_runs_had_ids(run, hub):
    results = read_results(run / "results.json")
    del results["run_id"]
    write_results(run / "results.json", results)
    push_run(run, "pair")
    results = read_results(run / "results.json")
    write_results(run / "results.json", with_facts(results, {"license": "apache-2.0"}))
    assert push_run(run, "pair")["core"].changed
    change_results(run, seed=5)
    refuse(hub, run, "holds something else than this run")


def test_a_repository_that_has_moved(run, hub):
    hub.create("lab/pair-core")
    hub.moved["ann/pair-core"] = "lab/pair-core"
    refuse(hub, run, "ann/pair-core has moved to lab/pair-core on the Hub; push under that name")


def test_a_repository_that_others_see_otherwise_than_asked(run, hub):
    hub.create("ann/pair-core", private=True)
    refuse(hub, run, "ann/pair-core is there and private, and private=False .*settings", private=False)
    hub.create("ann/pair-core")
    refuse(hub, run, "ann/pair-core is there and public, and private=True .*settings", private=True)


def test_revisions_that_take_no_commit(run, hub):
    hub.create("ann/pair-core")
    refuse(hub, run, "create_pr=True asks to change ann/pair-full, and there is no such repository", create_pr=True)
    for revision in ("refs/pr/7", "0" * 40):
        refuse(hub, run, f"'{revision}' of ann/pair-core is not a branch and not a pull request", revision=revision)


def test_a_card_that_the_hub_does_not_take(run, hub):
    hub.bad_metadata = "license is not one"
    refuse(hub, run, "The Hub does not take the metadata of the card: license is not one. Correct the run's facts")
    hub.bad_metadata = None
    hub.fail("POST", "validate-yaml", 400)
    refuse(hub, run, "asking the Hub about the model card failed: status 400")


# ---- What is to be pushed ----


def test_a_directory_that_is_not_a_finished_run(run, hub):
    level = {"parameters": 1, "size_bytes": 4, "flops_per_image": 1, "accuracy": 50.0}
    training = dict.fromkeys(("epochs", "steps", "flops", "seconds", "epoch_forward_flops"), 1) | {"schedule": "full"}
    none = dict(model={"name": "resnet"}, partition=None, data={})
    images = build_results(levels={"full": level}, seed=0, training=training, task="image-classification", **none)
    write_results(run / "results.json", images)
    refuse(hub, run, "holds the results of image-classification", ValueError)
    (run / "results.json").unlink()
    refuse(hub, run, "holds no results.json, which says what the run found; give", ValueError)


def test_facts_that_are_missing_or_wrong(run, hub):
    refuse(hub, run, "license='Apache 2' .*apache-2.0", ValueError, license="Apache 2")
    change_results(run, card={})
    refuse(hub, run, "license is missing.*--license", ValueError)


def test_a_level_that_the_run_has_not(run, hub):
    refuse(
        hub,
        run,
        r"levels=\['core', 'dense'\]: the run in .* has \['core', 'full'\]",
        ValueError,
        levels=["core", "dense"],
    )


@pytest.mark.law(number=9)
@pytest.mark.parametrize("gone", ["core", "core/export.json"])
def test_an_export_that_is_not_complete(run, hub, gone):
    path = run / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    refuse(hub, run, "run/core holds no complete export .*hf-ats export, or train to the end", ValueError)


@pytest.mark.law(number=9)
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "source.spm", "vocab.json", "modeling_ats.py"])
def test_a_file_of_an_export_that_is_missing_cut_off_or_another(name, run, hub):
    path = run / "core" / name
    written = path.read_bytes()
    for damaged, fault in ((written[:-1], "cut off"), (written + b" ", "altered"), (b"", "is empty")):
        path.write_bytes(damaged)
        refuse(hub, run, f"export .*run/core is not whole: {name} .*{fault}.* Export again", ValueError)
    path.unlink()
    refuse(hub, run, f"export .*run/core is not whole: {name} is missing.* Export again", ValueError)


def test_how_an_export_decodes_is_what_was_scored(run, hub):
    path = run / "core/generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_beams": 7}))
    refuse(hub, run, "run/core is not whole: generation_config.json", ValueError)


# ---- What a folder that nobody vouches for says ----


def test_names_that_leave_the_run_are_never_sent(run, hub, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    sha256 = sha256_of(tmp_path, ["secret.txt"])["secret.txt"]
    (run / "core/link").symlink_to(secret)
    (run / "core/.env").write_text("secret")
    report = json.loads((run / "core/export.json").read_text())
    for name, words in (
        ("../../secret.txt", "is not a path inside it"),
        (str(secret), "is not a path inside it"),
        ("..\\..\\secret.txt", "is not a path inside it"),
        ("link", "is a link that leads out of it"),
        (".env", "which no export writes"),
    ):
        files = report["files"] | {name: sha256}
        (run / "core/export.json").write_text(json.dumps(sealed(report | {"files": files})))
        refuse(hub, run, words, ValueError)
        with pytest.raises(ValueError, match=words):
            stage_run(run, "pair", tmp_path / "look")
    assert not (tmp_path / "look").exists()
    (run / "core/export.json").write_text(json.dumps(report))
    (run / "training.png").unlink()
    (run / "training.png").symlink_to(secret)
    refuse(hub, run, "'training.png', which is a link that leads out of it", ValueError)


def test_a_level_is_a_folder_of_the_run(run, hub, tmp_path):
    shutil.copytree(run / "core", tmp_path / "elsewhere")
    levels = read_results(run / "results.json")["levels"]
    for name in ("../elsewhere", "core/../core", str(tmp_path / "elsewhere")):
        change_results(run, levels={name: levels["core"]}, samples=[])
        refuse(hub, run, "the Hub does not take|not a path inside it", ValueError, levels=[name])


def test_only_what_an_export_wrote_is_staged(run, tmp_path):
    (run / "core/.git").mkdir()
    (run / "core/.git/config").write_text("secret")
    (run / "core/notes.txt").write_text("secret")
    folders = stage_run(run, "pair", tmp_path / "look")
    staged = files_of(folders["core"])
    names = {*ExportReport.read(run / "core").files, "export.json"}
    assert set(staged) == names | {"README.md", "results.json", "training.png", "report.html"}
    (folders["core"] / "mine").symlink_to(tmp_path)
    with pytest.raises(FileExistsError, match="holds something else than an earlier dry run"):
        stage_run(run, "pair", tmp_path / "look")


def test_an_export_that_is_not_that_of_the_results(run, other, hub):
    shutil.rmtree(run / "core")
    shutil.copytree(run / "full", run / "core")
    refuse(hub, run, "holds other weights than those whose scores are in .*results.json", ValueError)
    shutil.rmtree(run / "core")
    shutil.copytree(other / "core", run / "core")  # of the same size
    refuse(hub, run, "holds other weights than those whose scores are in .*results.json", ValueError)
    with pytest.raises(ValueError, match="holds other weights than those whose scores"):
        stage_run(run, "pair", run.parent / "look")
    assert not (run.parent / "look").exists()
    assert json.loads((run / "results.json").read_text(encoding="utf-8"))["card"] == {"license": "mit"}


# ---- A Space ----


def test_a_space_without_networks_to_put_side_by_side(run, hub):
    refuse(
        hub,
        run,
        r"levels=\['core'\]: the page puts networks beside each other",
        ValueError,
        levels=["core"],
        space=True,
    )


def test_a_space_without_gradio(run, hub, monkeypatch):
    installed = importlib.metadata.version

    def version(package):
        if package == "gradio":
            raise importlib.metadata.PackageNotFoundError(package)
        return installed(package)

    monkeypatch.setattr(importlib.metadata, "version", version)
    refuse(hub, run, r'run pip install "hf_ats\[app\]"', ImportError, license="apache-2.0", space=True)


def test_a_space_that_is_somebody_elses(run, hub):
    hub.create("spaces/ann/pair-app", {"README.md": b"mine", "app.py": b"mine"})
    refuse(hub, run, r"ann/pair-app holds something else than this run .*README.md, app.py.*--overwrite", space=True)
    push_run(run, "pair")  # which leaves it alone
    refuse(hub, run, "ann/pair-app holds something else than this run", space=True)
    push_run(run, "pair", space=True, overwrite=True)
    assert b"MODELS" in hub.repositories["spaces/ann/pair-app"].files()["app.py"]


def test_a_model_of_the_name_of_a_space_is_another_repository(run, hub):
    hub.create("ann/pair-app", {"config.json": b"{}"})
    push_run(run, "pair", space=True)
    assert hub.repositories["ann/pair-app"].files()["config.json"] == b"{}"


def test_a_space_whose_card_the_hub_does_not_take(run, hub):
    hub.fail("POST", "validate-yaml", 400, skip=2)
    refuse(hub, run, "asking the Hub about the model card failed: status 400", space=True)
