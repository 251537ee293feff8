"""A run and a Hub for the tests of pushes."""

import shutil

import pytest

from tests.support.hub import connected_hub
from tests.support.pushes import make_run


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("pair") / "run")


@pytest.fixture(scope="session")
def other(tmp_path_factory):
    """Another run of the same shape."""
    return make_run(tmp_path_factory.mktemp("other") / "run", seed=1)


@pytest.fixture
def run(template, tmp_path):
    return shutil.copytree(template, tmp_path / "run")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A server on loopback that the client of this process speaks to; `hub.naps` has what it would have waited."""
    with connected_hub(monkeypatch, tmp_path / "home") as hub:
        monkeypatch.setattr("hf_ats.hub.errors._sleep", hub.naps.append)
        yield hub
