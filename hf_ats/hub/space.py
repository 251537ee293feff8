"""The Space of a run: the page of `hf-ats app`, which loads the networks that are pushed with it by their ids."""

import importlib.metadata
import platform
from pathlib import Path

from huggingface_hub import CommitOperationAdd

from ..remote_code import PAGE_FILES
from ..results import RESULTS, json_text, portable_results, render_space_card

CARD = "README.md"
SPACE = "app"
"""What a Space is called where repositories go by the names of levels."""

# The client's own record of a file, by path in the repository; it holds the file's size and its SHA-256.
Files = dict[str, CommitOperationAdd]

_FOLDER = "ats_page"
_REQUIREMENTS = ("torch", "transformers", "sentencepiece")
_APP = '''"""Opens the page that translates with networks of one run of hf_ats; written by `hf-ats push --space`."""

import json
from pathlib import Path

from {folder}.page_ats import load_published, show_page

MODELS = {models!r}
REVISION = {revision!r}

results = json.loads(Path(__file__).with_name({results!r}).read_text(encoding="utf-8"))
translators = {{level: load_published(model, REVISION) for level, model in MODELS.items()}}
show_page({title!r}, results, translators)
'''


def check_compared(run: Path, results: dict, levels: list[str]) -> None:
    """Raise ValueError for levels that a page cannot put beside each other."""
    if len(levels) < 2:
        raise ValueError(
            f"levels={levels}: the page puts networks beside each other, and the run in {run} has "
            f"{list(results['levels'])}; name two of its levels, or give a run that trained core and full."
        )


def gradio_version() -> str:
    """Return the version of Gradio, which the page is made with.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.metadata.version("gradio")
    except importlib.metadata.PackageNotFoundError:
        raise ImportError('the page needs Gradio, which is not installed; run pip install "hf_ats[app]".') from None


def space_files(results: dict, models: dict[str, str], repo_id: str, revision: str = "main") -> Files:
    """Return what a Space holds.

    Args:
        results: of the run.
        models: by level, the ids of the networks that the page translates with.
        repo_id: its own id.
        revision: the branch that the networks are on; a pull request leaves them on `main`.

    Raises:
        ImportError: Gradio is not installed.
        ValueError: a fact is missing for the card.
    """
    # Those that the page was tried with here; what follows a plus sign names a build.
    versions = {package: importlib.metadata.version(package).split("+")[0] for package in _REQUIREMENTS}
    environment = {"sdk_version": gradio_version(), "python_version": platform.python_version().rpartition(".")[0]}
    title = repo_id.split("/")[-1].removesuffix(f"-{SPACE}")
    revision = "main" if revision.startswith("refs/") else revision
    texts = {
        CARD: render_space_card(results, title, models, environment),
        "app.py": _APP.format(folder=_FOLDER, models=models, revision=revision, results=RESULTS, title=title),
        "requirements.txt": "".join(f"{package}=={version}\n" for package, version in versions.items()),
        RESULTS: json_text(portable_results(results)),
        **{f"{_FOLDER}/{name}": path.read_text(encoding="utf-8") for name, path in PAGE_FILES.items()},
    }
    return {name: CommitOperationAdd(name, text.encode()) for name, text in texts.items()}
