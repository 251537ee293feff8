"""The Hub's bad days: what is there after each, that the same push completes it, and what the user is told."""

import pytest

from hf_ats.hub import PushError, push_run
from hf_ats.hub.repository import Repository
from tests.support.pushes import published_results

ALWAYS = 10_000
CORE, FULL = "ann/pair-core", "ann/pair-full"


def assert_complete(hub, run, repo_id, commits=1):
    """The whole level is there, by that many commits beside the first."""
    repository = hub.repositories[repo_id]
    level = run / repo_id.rsplit("-", 1)[1]
    assert repository.files()["model.safetensors"] == (level / "model.safetensors").read_bytes()
    assert set(repository.files()) == {
        *(path.name for path in level.iterdir()),
        *("README.md", "results.json", "training.png", "report.html", ".gitattributes"),
    }
    assert len(repository.log()) == 1 + commits


def assert_untouched(hub, repo_id):
    """Nobody put anything there, if it was created at all."""
    assert repo_id not in hub.repositories or set(hub.repositories[repo_id].files()) == {".gitattributes"}


def interrupt(hub, run, match, **push):
    with pytest.raises(PushError, match=match) as caught:
        push_run(run, "pair", **push)
    hub.heal()
    hub.naps.clear()
    return caught.value


# ---- Interrupted at each stage, and repeated ----

STAGES = {
    "before anything": ("GET", "whoami"),
    "looking": ("GET", "models/ann/pair-full"),
    "the card": ("POST", "validate-yaml"),
    "creating the first": ("POST", "repos/create"),
    "preparing the upload": ("POST", "pair-core/preupload"),
    "asking where to upload": ("POST", "lfs/objects/batch"),
    "uploading the first": ("PUT", "/lfs/ann/pair-core"),
    "verifying an upload": ("POST", "lfs/verify"),
    "uploading the second": ("PUT", "/lfs/ann/pair-full"),
    "committing the first": ("POST", "pair-core/commit"),
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("how", [dict(status=500), dict(status=403), dict(drop="request")], ids=str)
def test_before_the_first_commit_nothing_shows_and_the_same_push_completes(stage, how, run, hub):
    hub.fail(*STAGES[stage], times=ALWAYS, **how)
    error = interrupt(hub, run, "failed: ")
    assert error.complete == {}
    assert_untouched(hub, CORE)
    assert_untouched(hub, FULL)
    pushed = push_run(run, "pair")
    assert all(one.changed for one in pushed.values())
    assert_complete(hub, run, CORE)
    assert_complete(hub, run, FULL)


@pytest.mark.parametrize("how", [dict(status=500), dict(status=403), dict(drop="request")], ids=str)
def test_between_the_commits_the_error_tells_which_is_there(how, run, hub):
    hub.fail("POST", "pair-full/commit", times=ALWAYS, **how)
    error = interrupt(
        hub, run, f"Complete on the Hub: {CORE}. Not changed, .*: {FULL}. After that the same push completes"
    )
    assert list(error.complete) == ["core"]
    assert_complete(hub, run, CORE)
    assert_untouched(hub, FULL)
    pushed = push_run(run, "pair")
    assert {level: one.changed for level, one in pushed.items()} == {"core": False, "full": True}
    assert_complete(hub, run, CORE)
    assert_complete(hub, run, FULL)


def test_all_is_uploaded_before_the_first_commit(run, hub):
    push_run(run, "pair")
    commits = [i for i, (_, path) in enumerate(hub.requests) if "/commit/" in path]
    uploads = [i for i, (method, _) in enumerate(hub.requests) if method == "PUT"]
    assert max(uploads) < min(commits)


def test_what_was_uploaded_is_not_sent_again(run, hub):
    hub.fail("POST", "pair-core/commit", 403)
    interrupt(hub, run, "status 403")
    before = len(hub.requests)
    push_run(run, "pair")
    assert not [path for method, path in hub.requests[before:] if method == "PUT"]


def test_a_new_branch_goes_again_if_nothing_comes_of_it_and_the_same_push_completes(run, other, hub):
    push_run(other, "pair")
    hub.fail("POST", "pair-core/commit", 403)
    interrupt(hub, run, "status 403", revision="v2")
    assert ("POST", "/api/models/ann/pair-core/branch/v2") in [request[:2] for request in hub.requests]
    assert "v2" not in hub.repositories[CORE].refs
    push_run(run, "pair", revision="v2")
    assert hub.repositories[CORE].files("v2")["results.json"] == published_results(run)


# ---- A commit whose answer is lost ----


def test_a_commit_that_landed_unheard_is_found_and_not_made_twice(run, hub):
    hub.fail("POST", "pair-core/commit", drop="response")
    pushed = push_run(run, "pair")
    assert_complete(hub, run, CORE)
    assert pushed["core"].commit.oid == hub.repositories[CORE].refs["main"]


def test_after_all_answers_were_lost_the_same_push_sees_that_it_is_complete(run, hub):
    hub.fail("POST", "pair-core/commit", drop="response")
    hub.fail("GET", "models/ann/pair-core/refs", 500, times=ALWAYS, skip=1)
    interrupt(hub, run, "status 500")
    assert_complete(hub, run, CORE)
    pushed = push_run(run, "pair")
    assert {level: one.changed for level, one in pushed.items()} == {"core": False, "full": True}
    assert_complete(hub, run, CORE)


def test_a_pull_request_whose_answer_is_lost_is_not_opened_twice(run, hub):
    push_run(run, "pair")
    (run / "training.png").write_bytes(b"another")
    hub.fail("POST", "pair-core/commit", drop="response")
    pushed = push_run(run, "pair", create_pr=True)
    assert pushed["core"].commit.pr_revision == "refs/pr/1"
    assert sorted(hub.repositories[CORE].refs) == ["main", "refs/pr/1"]


def test_a_repository_whose_creation_was_not_heard_of_is_used(run, hub):
    hub.fail("POST", "repos/create", drop="response", times=2)
    push_run(run, "pair")
    assert_complete(hub, run, CORE)
    assert_complete(hub, run, FULL)


# ---- Waiting and trying again ----


@pytest.mark.parametrize("how", [dict(status=429), dict(status=503), dict(status=409), dict(drop="request")], ids=str)
@pytest.mark.parametrize("where", ["repos/create", "pair-full/preupload", "pair-core/commit"])
def test_a_short_trouble_is_waited_out(where, how, run, hub):
    hub.fail("POST", where, times=2, **how)
    push_run(run, "pair")
    assert_complete(hub, run, CORE)
    assert_complete(hub, run, FULL)
    assert hub.naps == [1, 2]


def test_an_upload_that_breaks_off_in_the_middle_is_sent_again(run, hub):
    hub.fail("PUT", "/lfs/ann/pair-core", drop="request", times=2)
    push_run(run, "pair")
    assert hub.naps
    assert_complete(hub, run, CORE)


def test_it_waits_as_long_as_the_hub_asks_for(run, hub):
    hub.fail("POST", "pair-core/commit", 429, retry_after=17)
    push_run(run, "pair")
    assert hub.naps == [17]


def test_it_does_not_wait_for_hours(run, hub):
    hub.fail("POST", "pair-core/commit", 429, retry_after=7200)
    with pytest.raises(PushError, match=r"status 429.*wait 7200 s.*The Hub asks for fewer requests: wait"):
        push_run(run, "pair")
    assert hub.naps == []


def test_it_gives_up_after_some_tries(run, hub):
    hub.fail("POST", "pair-core/commit", 500, times=ALWAYS)
    with pytest.raises(PushError, match=r"committing to ann/pair-core failed: status 500.*trouble of its own"):
        push_run(run, "pair")
    assert hub.naps == [1, 2, 4, 8]


@pytest.mark.parametrize("what", [("POST", "pair-core/commit"), ("PUT", "/lfs/ann/pair-core")], ids=str)
def test_what_is_refused_is_not_tried_again(what, run, hub):
    hub.fail(*what, 403)
    with pytest.raises(PushError, match=r"status 403.*has no right to do this") as caught:
        push_run(run, "pair")
    assert caught.value.status == 403
    assert hub.naps == []


# ---- Somebody else pushes at the same time ----


def meanwhile(hub, monkeypatch, repo_id, files):
    """Lets somebody push between the look at a repository and the commit to it."""
    upload = Repository.upload

    def and_somebody_else(one):
        upload(one)
        monkeypatch.setattr(Repository, "upload", upload)  # once
        repository = hub.repositories[repo_id]
        commit = type(repository.log()[0])(repository.refs["main"], "meanwhile", "", repository.files() | files)
        repository.add("main", commit)

    monkeypatch.setattr(Repository, "upload", and_somebody_else)


def test_what_somebody_else_put_there_meanwhile_is_not_overwritten(run, hub, monkeypatch):
    meanwhile(hub, monkeypatch, CORE, {"config.json": b"theirs"})
    with pytest.raises(PushError, match="pair-core holds something else than this run"):
        push_run(run, "pair")
    assert hub.repositories[CORE].files()["config.json"] == b"theirs"
    assert_untouched(hub, FULL)


def test_a_repository_that_somebody_else_makes_meanwhile_is_not_overwritten(run, hub, monkeypatch):
    make = Repository.make

    def after_somebody_else(repository, private):
        hub.create(repository.repo_id, {"config.json": b"theirs"})
        make(repository, private)

    monkeypatch.setattr(Repository, "make", after_somebody_else)
    with pytest.raises(PushError, match="pair-core holds something else than this run"):
        push_run(run, "pair")
    assert hub.repositories[CORE].files()["config.json"] == b"theirs"


def test_a_harmless_change_meanwhile_is_built_on(run, hub, monkeypatch):
    meanwhile(hub, monkeypatch, CORE, {".gitattributes": b"theirs"})
    push_run(run, "pair")
    assert_complete(hub, run, CORE, commits=2)
    assert hub.repositories[CORE].files()[".gitattributes"] == b"theirs"


def test_a_repository_that_changes_all_the_time_is_left_alone(run, hub):
    hub.fail("POST", "pair-core/commit", 412, times=ALWAYS)
    with pytest.raises(PushError, match=r"status 412.*Somebody else has pushed there at the same time"):
        push_run(run, "pair")
    assert_untouched(hub, CORE)
