"""The Dockerfile without a Docker engine: its steps, run in their order in a fresh environment.

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


def test_the_training_script_is_what_a_container_runs_and_not_as_root():
    steps = dict(instructions())
    assert steps["ENTRYPOINT"] == '["python", "/opt/hf_ats/scripts/train_translation.py"]'
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
        elif name == "COPY":
            *sources, target = value.split()
            for source in sources:
                copy(REPOSITORY / source, place / target, many=len(sources) > 1 or target.endswith("/"))
        elif name == "RUN":
            parts = [part.strip() for part in value.split("&&")]
            run(at_root(" && ".join(part for part in parts if not RUN_AS_ROOT.match(part)) or "true"), shell=True)
        elif name == "ENTRYPOINT":
            entrypoint = [at_root(word) for word in re.findall(r'"(.*?)"', value)]
    (root / "runs").mkdir(exist_ok=True)
    del variables["PYTHONDONTWRITEBYTECODE"]  # which keeps an image small, and would compile everything anew each time

    output_dir = f"{root}/runs/tiny"
    run([*entrypoint, "--architecture", "tiny", "--output_dir", output_dir, "--max_steps", "4", "--report_to", "none"])
    script = Path(entrypoint[1]).with_name("translate.py")
    assert (Path(output_dir) / "full/model.safetensors").is_file()
    run([entrypoint[0], str(script), "--model", f"{output_dir}/core"], input="Guten Tag.\n")
    # What has no part in training is in the package too: the templates of the cards.
    code = "import os, hf_ats; print(hf_ats.__path__[0], *os.listdir(hf_ats.__path__[0] + '/model_cards'))"
    package, *templates = run(["python", "-c", code]).stdout.split()
    assert Path(package).is_relative_to(environment)
    assert set(templates) >= {"card.md", "core.md", "full.md"}


def copy(source: Path, target: Path, many: bool) -> None:
    """As Docker's `COPY`: a folder's contents into the target, a file to it, or into it if there are several."""
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        return
    target = target / source.name if many else target
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(stat.S_IMODE(source.stat().st_mode))
