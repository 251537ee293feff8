"""`push --space`: the page of `hf-ats app` goes to the Hub with the networks, and runs there without the package."""

import ast
import importlib.metadata
import os
import subprocess
import sys

import pytest

from hf_ats.hub import PushError, push_run, stage_run
from hf_ats.remote_code import PAGE_FILES
from tests.support import scripts
from tests.support.browser import browser
from tests.support.hub.contents import front_matter
from tests.support.pushes import files_of, published_results
from tests.support.translation_page import expected, free_port, open_page, translated

SPACE = "spaces/ann/pair-app"
FILES = {"README.md", "app.py", "requirements.txt", "results.json", *(f"ats_page/{name}" for name in PAGE_FILES)}


def settings(files: dict[str, bytes]) -> dict:
    """What app.py sets."""
    tree = ast.parse(files["app.py"])
    constants = [node for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id.isupper()]
    return {node.targets[0].id: ast.literal_eval(node.value) for node in constants}


def test_a_space_is_published_with_the_networks_that_it_loads(run, hub):
    pushed = push_run(run, "pair", space=True, private=True)
    assert {level: one.repo_id for level, one in pushed.items()} == {
        level: f"ann/pair-{level}" for level in ("core", "full", "app")
    }
    assert pushed["app"].url == f"{hub.url}/{SPACE}"
    assert all(repository.private for repository in hub.repositories.values())
    files = hub.repositories[SPACE].files()
    assert files.keys() == {*FILES, ".gitattributes"}
    models = {"core": "ann/pair-core", "full": "ann/pair-full"}
    assert settings(files) == {"MODELS": models, "REVISION": "main"}
    assert files["results.json"] == published_results(run)
    assert {name: files[f"ats_page/{name}"] for name in PAGE_FILES} == {
        name: path.read_bytes() for name, path in PAGE_FILES.items()
    }
    card = front_matter(files["README.md"].decode())
    assert (
        card.items()
        >= {
            "title": "pair",
            "sdk": "gradio",
            "sdk_version": importlib.metadata.version("gradio"),
            "python_version": "{}.{}".format(*sys.version_info),
            "app_file": "app.py",
            "models": list(models.values()),
            "license": "mit",
        }.items()
    )
    torch = importlib.metadata.version("torch").split("+")[0]
    assert files["requirements.txt"].decode().splitlines()[0] == f"torch=={torch}"

    again = push_run(run, "pair", space=True)
    assert not any(one.changed for one in again.values())
    assert again["app"].commit.oid == pushed["app"].commit.oid and again["app"].url == pushed["app"].url
    assert not push_run(run, "pair")["core"].changed
    other = {"license": "other", "license_name": "mine", "license_link": "https://a.example/"}
    assert push_run(run, "pair", space=True, **other)["app"].changed
    assert front_matter(hub.repositories[SPACE].files()["README.md"].decode()).items() >= other.items()


def test_the_networks_of_a_space_are_those_of_its_branch(run, hub):
    push_run(run, "pair", space=True, revision="v2")
    assert settings(hub.repositories[SPACE].files("v2"))["REVISION"] == "v2"
    push_run(run, "pair", space=True)
    (run / "training.png").write_bytes(b"another")
    asked = push_run(run, "pair", space=True, create_pr=True, license="apache-2.0")
    assert asked["app"].url == f"{hub.url}/{SPACE}/discussions/1"
    assert settings(hub.repositories[SPACE].files("refs/pr/1"))["REVISION"] == "main"


def test_a_space_is_complete_or_untouched(run, hub):
    hub.fail("POST", f"models/{SPACE}/commit", 403)
    with pytest.raises(PushError, match=r"Complete on the Hub: ann/pair-core, ann/pair-full\. Not .*: ann/pair-app\."):
        push_run(run, "pair", space=True)
    assert hub.repositories[SPACE].files().keys() == {".gitattributes"}
    hub.fail("POST", f"models/{SPACE}/commit", drop="response")
    pushed = push_run(run, "pair", space=True)
    assert [one.changed for one in pushed.values()] == [False, False, True]
    assert len(hub.repositories[SPACE].log()) == 2


def test_a_dry_run_writes_the_space_too_and_replaces_an_earlier_one_alone(run, hub, tmp_path, monkeypatch, capsys):
    look = tmp_path / "look"
    arguments = (run, "--name", "ann/pair", "--space", "--dry_run", look)
    for _ in range(2):
        scripts.run_here("push_to_hub.py", *arguments, monkeypatch=monkeypatch)
    assert f"\napp: {look / 'pair-app'}\n" in capsys.readouterr().out
    push_run(run, "pair", space=True)
    there = hub.repositories[SPACE].files()
    assert files_of(look / "pair-app") == {name: there[name] for name in FILES}
    (look / "pair-app" / "mine.py").write_text("mine")
    with pytest.raises(FileExistsError, match="pair-app holds something else"):
        stage_run(run, "ann/pair", look, space=True)


def test_what_is_published_runs_where_the_package_is_not(run, hub, tmp_path):
    push_run(run, "pair", space=True, private=True)
    folder = stage_run(run, "ann/pair", tmp_path / "look", space=True)["app"]
    without = "import runpy, sys; sys.modules['hf_ats'] = None; sys.path.insert(0, '.'); runpy.run_path('app.py')"
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= hub.environment(tmp_path / "home") | {"GRADIO_SERVER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    with (
        browser(tmp_path / "profile") as chromium,
        subprocess.Popen([sys.executable, "-c", without], cwd=folder, env=environment, stdout=subprocess.PIPE) as app,
    ):
        try:
            assert app.stdout.readline().startswith(b"The page is at ")
            page = open_page(chromium, port)
            text = "die Katze spielt im Park"
            assert translated(page, text) == expected(run, ("core", "full"), text)
            assert page.evaluate("document.querySelector('h1').innerText") == "pair"
        finally:
            app.kill()
