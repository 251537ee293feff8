"""A tiny grid with its data, and where its files go."""

import shutil
import sys
from pathlib import Path

import pytest

from experiments import grids, run, table
from tests.support.scripts import train, write_corpus

GRID = """
title: A tiny grid
train: translation
scales:
  small:
    recipe: tiny.yaml
    seeds: [1, 2]
    data: {train_prefix: text/train, validation_prefix: text/validation, test_prefix: text/test}
    flags: {max_steps: 2}
  paper:
    recipe: iwslt14
    seeds: [1]
    data: {train_prefix: iwslt14/train}
runs:
  full: {method: none, schedule: full}
  core: {ratios: [0.25], schedule: core}
  alternating: {ratios: [0.25], schedule: alternating}
paper:
  full: {full: 32.48 (0.32)}
  alternating: {core: 24.03 (0.77), full: 31.20 (0.58)}
"""
RECIPE = """
architecture: tiny
layers: 1
width: 32
feed_forward: 64
vocab_size: 300
source_lang: de
target_lang: en
generation_max_length: 8
max_tokens: 512
learning_rate: 1e-3
use_cpu: true
report_to: none
disable_tqdm: true
speed_sentences: 0
logging_steps: 1
save_steps: 1
"""


class Bench:
    """A folder with a grid, its data, and the commands as they are there."""

    def __init__(self, folder: Path, text: Path | None = None):
        self.folder = folder
        self.grid = folder / "tiny-grid.yaml"
        if not self.grid.exists():
            self.grid.write_text(GRID)
            (folder / "tiny.yaml").write_text(RECIPE)
            shutil.copytree(text, folder / "data" / "text")
        self.work, self.records = folder / "runs" / "tiny", folder / "results" / "tiny"

    def command(self, module, *words) -> None:
        """`python experiments/MODULE.py GRID WORDS`, in this process, with folders of its own."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(grids, "GRIDS", self.folder)
            patch.setattr(grids, "RECORDS", self.records.parent)
            patch.setattr(grids, "WORK", self.work.parent)
            patch.setattr(run, "POLL_SECONDS", 0.02)
            patch.setattr(sys, "argv", [f"{module.__name__.split('.')[1]}.py", str(self.grid), *map(str, words)])
            module.main()

    def run(self, *words) -> None:
        self.command(run, "--data", self.folder / "data", *words)

    def table(self, *words) -> None:
        self.command(table, *words)

    def load(self) -> grids.Grid:
        """The grid itself; its paths are those of the moment that they are asked for."""
        return grids.load_grid(str(self.grid), None, self.folder / "data")

    def train(self, name: str, seed: int = 1, more: str = "") -> Path:
        """Train a run as the runner's process would, and return its folder."""
        (one,) = (one for one in self.load().runs if (one.name, one.seed) == (name, seed))
        folder = self.work / one.id
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(grids, "GRIDS", self.folder)
            train(*one.words(self.folder / "data", folder)[1:], *more.split())
        return folder

    def files(self) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in sorted(self.folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("text"))


@pytest.fixture
def bench(tmp_path, text) -> Bench:
    return Bench(tmp_path, text)


@pytest.fixture(scope="session")
def trained(tmp_path_factory, text) -> Bench:
    """A bench on which two runs of the first seed are trained."""
    bench = Bench(tmp_path_factory.mktemp("bench"), text)
    for name in ("full", "alternating"):
        bench.train(name)
    return bench


@pytest.fixture
def half_done(trained, tmp_path) -> Bench:
    """A copy of it."""
    return Bench(Path(shutil.copytree(trained.folder, tmp_path / "bench")))
