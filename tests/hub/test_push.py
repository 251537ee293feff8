"""A run goes to the Hub and comes back: the real client against a server on loopback."""

import json

import pytest
from huggingface_hub import HfApi, snapshot_download
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

import hf_ats  # noqa: F401  (makes cores known to the Auto classes)
from hf_ats.checkpoint import ExportReport
from hf_ats.hub import PushError, push_run, stage_run
from hf_ats.results import read_results, write_results
from tests.support import scripts
from tests.support.checkpoints import GERMAN
from tests.support.pushes import files_of, make_run, published_results, translate

OF_RUN = {"README.md", "results.json", "training.png", "report.html"}


@pytest.fixture(scope="module")
def ladder(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("ladder") / "run", ratios=(0.1, 0.25))


def test_what_comes_back_is_what_went_and_translates_alike(run, hub):
    pushed = push_run(run, "pair")
    assert {level: one.repo_id for level, one in pushed.items()} == {"core": "ann/pair-core", "full": "ann/pair-full"}
    for level, one in pushed.items():
        assert one.changed
        back = files_of(snapshot_download(one.repo_id))
        names = [*ExportReport.read(run / level).files, "export.json"]
        export = {name: (run / level / name).read_bytes() for name in names}
        assert set(back) == {*export, *OF_RUN, ".gitattributes"}
        assert {name: back[name] for name in export} == export
        assert back["training.png"] == (run / "training.png").read_bytes()
        assert back["results.json"] == published_results(run)
        here, there = (
            translate(AutoModelForSeq2SeqLM.from_pretrained(place), AutoTokenizer.from_pretrained(place), GERMAN)
            for place in (run / level, one.repo_id)
        )
        assert here == there
    assert pushed["core"].url == f"{hub.url}/ann/pair-core"


def test_a_page_is_rendered_anew_whatever_is_in_its_place(run, hub):
    page = push_run(run, "pair") and hub.repositories["ann/pair-core"].files()["report.html"]
    (run / "report.html").unlink()
    (run / "report.html").mkdir()
    push_run(run, "pair")
    assert hub.repositories["ann/pair-core"].files()["report.html"] == page


def test_a_later_push_of_the_run_replaces_and_removes(run, hub):
    push_run(run, "pair")
    assert b"ann/pair-full" in hub.repositories["ann/pair-core"].files()["README.md"]
    (run / "report.html").unlink()
    (run / "training.png").write_bytes(b"another\0 picture")
    assert push_run(run, "pair", license="apache-2.0", base_model="org/base")["core"].changed
    card = {"license": "apache-2.0", "base_model": "org/base"}
    assert read_results(run / "results.json")["card"] == card
    files = hub.repositories["ann/pair-core"].files()
    assert "report.html" not in files
    assert files["training.png"] == b"another\0 picture"
    assert b"org/base" in files["README.md"]
    assert json.loads(files["results.json"])["card"] == card
    assert HfApi().model_info("ann/pair-core").card_data["license"] == "apache-2.0"
    assert len(hub.repositories["ann/pair-core"].log()) == 3
    (run / "training.png").write_bytes(b"another\0 picturE")  # of the same size
    assert push_run(run, "pair")["core"].changed


def test_each_repository_has_one_commit_and_is_made_once(run, hub):
    first = push_run(run, "pair", commit_message="First", commit_description="More")
    again = push_run(run, "pair")
    for level, one in first.items():
        assert [commit.title for commit in hub.repositories[one.repo_id].log()] == ["First", "initial commit"]
        assert hub.repositories[one.repo_id].log()[0].description == "More"
        assert not again[level].changed
        assert again[level].commit.oid == one.commit.oid


def test_a_ladder_makes_a_repository_of_each_level_asked_for(ladder, hub):
    assert list(push_run(ladder, "ladder")) == ["core", "full"]
    assert list(push_run(ladder, "ladder", levels=["level1", "core"])) == ["level1", "core"]
    assert set(hub.repositories) == {"ann/ladder-core", "ann/ladder-full", "ann/ladder-level1"}


def test_a_level_that_was_pushed_before_is_linked(ladder, hub):
    push_run(ladder, "ladder", levels=["full"])
    push_run(ladder, "ladder", levels=["core"])
    card = hub.repositories["ann/ladder-core"].files()["README.md"].decode()
    assert "ann/ladder-full" in card
    assert "ann/ladder-level1" not in card


def test_organization_and_visibility(run, hub):
    pushed = push_run(run, "pair", organization="lab", private=True)
    assert pushed["full"].repo_id == "lab/pair-full"
    assert all(repository.private for repository in hub.repositories.values())
    assert not push_run(run, "open", private=False)["core"].repo_id.startswith("lab")
    assert not hub.repositories["ann/open-core"].private


def test_a_branch_is_made_and_main_left_alone(run, hub):
    pushed = push_run(run, "pair", revision="v2", levels=["core"])
    repository = hub.repositories["ann/pair-core"]
    assert set(repository.files()) == {".gitattributes"}
    assert set(files_of(snapshot_download("ann/pair-core", revision="v2"))) > OF_RUN
    assert repository.refs["v2"] == pushed["core"].commit.oid
    assert not push_run(run, "pair", revision="v2", levels=["core"])["core"].changed


def test_branches_that_are_there_are_judged_by_what_they_hold(run, other, hub):
    push_run(run, "pair", levels=["full"])
    push_run(other, "pair", levels=["full"], revision="other")
    repository = hub.repositories["ann/pair-full"]
    weights = {branch: repository.files(branch)["model.safetensors"] for branch in ("main", "other")}
    assert weights["main"] == (run / "full/model.safetensors").read_bytes()
    assert weights["other"] == (other / "full/model.safetensors").read_bytes()
    before = repository.refs["other"]
    with pytest.raises(PushError, match="pair-full holds something else than this run"):
        push_run(run, "pair", levels=["full"], revision="other")
    assert repository.refs["other"] == before
    # What is the same on main already is not on this branch.
    push_run(run, "pair", levels=["full"], revision="other", overwrite=True)
    assert repository.files("other")["model.safetensors"] == weights["main"]


def test_the_folders_of_the_machine_are_not_published(run, hub):
    results = read_results(run / "results.json")
    folder = "/home/ann/secret/folder/data/train"
    results["data"]["name"] = results["training"]["resumed_from"] = folder
    results["command"] = f"python {folder}/train_translation.py --train_prefix={folder} --validation_prefix {folder}"
    write_results(run / "results.json", results)
    push_run(run, "pair", levels=["full"])
    files = hub.repositories["ann/pair-full"].files()
    for name in OF_RUN - {"training.png"}:
        assert b"secret" not in files[name]
    published = json.loads(files["results.json"])
    assert published["data"]["name"] == published["training"]["resumed_from"] == "data/train"
    assert published["command"].endswith("--train_prefix=data/train --validation_prefix data/train")
    assert b"data/train" in files["report.html"]
    assert folder in (run / "results.json").read_text(encoding="utf-8")
    assert not push_run(run, "pair", levels=["full"])["full"].changed


def test_a_new_branch_is_made_also_where_main_holds_the_run_already(run, hub):
    push_run(run, "pair", levels=["core"])
    assert not push_run(run, "pair", levels=["core"], revision="dev")["core"].changed
    refs = hub.repositories["ann/pair-core"].refs
    assert refs["dev"] == refs["main"]


def test_a_pull_request_of_one_repository_needs_none_of_the_other(run, hub):
    push_run(run, "pair")
    (run / "training.png").write_bytes(b"second")
    push_run(run, "pair", levels=["core"], create_pr=True)
    (run / "training.png").write_bytes(b"third")
    push_run(run, "pair", levels=["core"], revision="refs/pr/1")
    files = hub.repositories["ann/pair-core"].files("refs/pr/1")
    assert files["training.png"] == b"third" and b"ann/pair-full" in files["README.md"]


def test_a_pull_request_proposes_and_is_not_made_twice(run, hub):
    push_run(run, "pair")
    before = dict(hub.repositories["ann/pair-core"].files())
    (run / "training.png").write_bytes(b"another report")
    asked = push_run(run, "pair", create_pr=True)
    again = push_run(run, "pair", create_pr=True)
    assert asked["core"].url == f"{hub.url}/ann/pair-core/discussions/1"
    assert asked["core"].commit.pr_revision == again["core"].commit.pr_revision == "refs/pr/1"
    repository = hub.repositories["ann/pair-core"]
    assert repository.files() == before
    assert repository.files("refs/pr/1")["training.png"] == b"another report"
    assert sorted(repository.refs) == ["main", "refs/pr/1"]


def test_who_may_not_write_can_ask_by_a_pull_request(run, hub):
    push_run(run, "lab/pair")
    (run / "training.png").write_bytes(b"a stranger's report")
    asked = push_run(run, "lab/pair", token="stranger", create_pr=True)
    assert asked["full"].commit.pr_num == 1


def test_a_dry_run_writes_what_a_push_would_send(run, hub, tmp_path):
    folders = stage_run(run, "ann/pair", tmp_path / "look", license="apache-2.0")
    assert hub.requests == []
    push_run(run, "pair")
    for level, folder in folders.items():
        there = hub.repositories[f"ann/pair-{level}"].files()
        assert files_of(folder) == {name: there[name] for name in there if name != ".gitattributes"}


def test_a_dry_run_replaces_an_earlier_one_and_nothing_else(run, tmp_path):
    stage_run(run, "ann/pair", tmp_path / "look")
    stage_run(run, "ann/pair", tmp_path / "look", license="apache-2.0")
    assert "apache-2.0" in (tmp_path / "look/pair-core/README.md").read_text(encoding="utf-8")
    (tmp_path / "look/pair-full/notes.txt").write_text("mine", encoding="utf-8")
    before = files_of(tmp_path / "look")
    with pytest.raises(FileExistsError, match="pair-full holds something else"):
        stage_run(run, "ann/pair", tmp_path / "look", license="mit")
    assert files_of(tmp_path / "look") == before


def test_the_script_ends_with_a_sentence(run, hub, monkeypatch):
    with pytest.raises(SystemExit, match=r"push_to_hub.py: name='a b' makes the repository 'a b-core'"):
        scripts.run_here("push_to_hub.py", run, "--name", "a b", monkeypatch=monkeypatch)


def test_the_script_pushes_and_says_where(run, hub, monkeypatch, capsys, caplog):
    options = ("--name", "pair", "--private", "--license", "mit", "--levels", "full", "--token", "stranger")
    scripts.run_here("push_to_hub.py", run, *options, monkeypatch=monkeypatch)  # a token given comes before HF_TOKEN
    assert capsys.readouterr().out == f"full: {hub.url}/bob/pair-full\n"
    assert "bob/pair-full: sending" in caplog.text
    assert hub.repositories["bob/pair-full"].private


def test_the_script_stages_without_the_hub(run, tmp_path, monkeypatch, capsys):
    look = tmp_path / "look"
    arguments = ("--run_dir", run, "--name", "pair", "--organization", "lab", "--dry_run", look, "--create_pr")
    scripts.run_here("push_to_hub.py", *arguments, monkeypatch=monkeypatch)
    assert capsys.readouterr().out == f"core: {look / 'pair-core'}\nfull: {look / 'pair-full'}\n"
    assert "lab/pair-full" in (look / "pair-core/README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("directories", [(), ("one", "--run_dir", "other")])
def test_the_script_takes_one_run(directories, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        scripts.run_here("push_to_hub.py", *directories, "--name", "pair", monkeypatch=monkeypatch)
    assert "give one run directory" in capsys.readouterr().err
