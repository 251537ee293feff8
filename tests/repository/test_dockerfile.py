"""The Dockerfile without a Docker engine: its steps, run in their order in a fresh environment, and what they install.

Its linter runs with `make lint`. What changes the system that it runs on, a user and folders at the root, happens in a
folder of the test instead; the base image is the interpreter of the tests.
"""

import fnmatch
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from dockerfile_parse import DockerfileParser

REPOSITORY = Path(__file__).parents[2]
SYSTEM = ("/opt/hf_ats", "/runs")
RUN_AS_ROOT = re.compile(r"^(useradd|install) ")


def instructions() -> list[tuple[str, str]]:
    """The instructions after the base image, with every `ARG` at its default."""
    parser = DockerfileParser(fileobj=(REPOSITORY / "Dockerfile").open("rb"))
    return [(step["instruction"], step["value"]) for step in parser.structure if step["instruction"] != "COMMENT"]


def test_everything_that_is_copied_exists_and_reaches_the_build():
    ignored = [
        line for line in (REPOSITORY / ".dockerignore").read_text().split("\n") if line and not line.startswith("#")
    ]
    copied = [path for name, value in instructions() if name == "COPY" for path in value.split()[:-1]]
    assert copied
    for path in copied:
        assert (REPOSITORY / path).exists(), path
        # the last pattern that matches decides, and one with an exclamation mark lets a path through
        deciding = [line for line in ignored if fnmatch.fnmatch(path, line.removeprefix("!"))][-1]
        assert deciding.startswith("!"), path


def test_training_is_what_a_container_runs_and_not_as_root():
    steps = dict(instructions())
    assert steps["ENTRYPOINT"] == '["hf-ats", "train"]'
    assert steps["USER"] == "1000"
    names = [name for name, _ in instructions()]
    assert names.index("USER") < names.index("ENTRYPOINT")


@pytest.mark.install
def test_the_steps_make_an_environment_that_trains_and_translates(tmp_path):
    root, environment = tmp_path / "root", tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    variables = {
        "PATH": f"{environment}/bin:{os.environ['PATH']}",
        "HOME": os.environ.get("HOME", "/root"),  # pip may have its settings there
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    } | {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    place, entrypoint = root, None

    def at_root(text: str) -> str:
        for path in SYSTEM:
            text = re.sub(rf"(?<![\w./]){path}(?![\w])", f"{root}{path}", text)
        return text

    def run(command: str | list[str], **options) -> subprocess.CompletedProcess:
        finished = subprocess.run(
            command, cwd=place, env=variables, text=True, capture_output=True, timeout=540, **options
        )
        assert finished.returncode == 0, f"{command}\n{finished.stdout[-3000:]}\n{finished.stderr[-3000:]}"
        return finished

    for name, value in instructions():
        if name == "WORKDIR":
            place = Path(at_root(value))
            place.mkdir(parents=True, exist_ok=True)
        elif name == "ARG":
            argument, _, default = value.partition("=")
            variables[argument] = default
        elif name == "ENV":
            variables |= dict(word.split("=", 1) for word in shlex.split(value))
            # Which would take most of the time here.
            variables |= {"PIP_NO_CACHE_DIR": "0", "PIP_NO_COMPILE": "1"}
        elif name == "COPY":
            *sources, target = value.split()
            for source in sources:
                copy(REPOSITORY / source, place / target, many=len(sources) > 1 or target.endswith("/"))
        elif name == "RUN":
            parts = [part.strip() for part in value.split("&&")]
            run(at_root(" && ".join(part for part in parts if not RUN_AS_ROOT.match(part)) or "true"), shell=True)
        elif name == "ENTRYPOINT":
            entrypoint = [at_root(word) for word in re.findall(r'"(.*?)"', value)]
    # The checkout is gone: whatever runs from here on is of the installed package.
    shutil.rmtree(f"{root}/opt")
    place = root / "runs"
    place.mkdir(exist_ok=True)
    del variables["PYTHONDONTWRITEBYTECODE"]  # which keeps an image small, and would compile everything anew each time
    files = run(["python", "-c", "from importlib.metadata import files; print(*files('hf_ats'), sep='\\n')"]).stdout
    assert_is_what_a_user_runs(files.split())

    assert "\n  train " in run(["hf-ats", "--help"]).stdout
    assert "--recipe NAME" in run(["hf-ats", "train", "--recipe", "multi30k-small", "--help"]).stdout
    modules = [f"hf_ats.scripts.{path.stem}" for path in (REPOSITORY / "scripts").glob("[!_]*.py")]
    run(["python", "-c", f"import {', '.join(modules)}"])  # no command needs what is not installed
    output_dir = f"{root}/runs/tiny"
    short = "--recipe multi30k-small --eval_strategy no --save_strategy no --max_steps 4 --speed_sentences 0".split()
    run([*entrypoint, *short, "--output_dir", output_dir, "--license", "mit"])
    assert (Path(output_dir) / "full/model.safetensors").is_file()
    translated = run(["hf-ats", "translate", "--model", f"{output_dir}/core"], input="Guten Tag.\n").stdout
    assert translated.count("\n") == 1
    run(["hf-ats", "push", output_dir, "--name", "ann/tiny", "--dry_run", f"{root}/runs/cards"])


def assert_is_what_a_user_runs(files: list[str]) -> None:
    """The installed files are library, commands, recipes and templates, and nothing of the laboratory."""
    paths = [Path(file) for file in files]
    tops = {path.parts[0] for path in paths if ".." not in path.parts}
    assert tops - {"hf_ats", "hf_ats_command"} == {next(top for top in tops if top.endswith(".dist-info"))}
    rooms = {path.parts[1] for path in paths if path.parts[0] == "hf_ats" and len(path.parts) > 2}
    here = {path.name for path in (REPOSITORY / "hf_ats").iterdir() if (path / "__init__.py").is_file()}
    assert rooms - {"__pycache__"} == here | {"model_cards", "recipes", "scripts"}
    names = {"/".join(path.parts[1:]) for path in paths}
    for folder, pattern in (("model_cards", "*.md"), ("recipes", "*.yaml"), ("scripts", "*.py")):
        assert names >= {f"{folder}/{path.name}" for path in (REPOSITORY / folder).glob(pattern)}, folder
    assert not any(path.name.startswith("test_") for path in paths)


def copy(source: Path, target: Path, many: bool) -> None:
    """As Docker's `COPY`: a folder's contents into the target, a file to it, or into it if there are several."""
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        return
    target = target / source.name if many else target
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(stat.S_IMODE(source.stat().st_mode))
