"""What setup.py and MANIFEST.in name exists."""

import re
import runpy
import subprocess
import sys
from pathlib import Path
from unittest import mock

from packaging.version import Version

REPOSITORY = Path(__file__).parents[2]


def setup_arguments() -> dict:
    """What setup.py hands to setuptools."""
    setuptools = mock.MagicMock()
    setuptools.find_packages.return_value = ["hf_ats"]
    with mock.patch.dict(sys.modules, setuptools=setuptools):
        runpy.run_path(str(REPOSITORY / "setup.py"))
    return setuptools.setup.call_args.kwargs


def lowest_bounds(*arguments: str) -> dict[str, str]:
    """What `.ci/lowest_bounds.py` prints, by package."""
    command = [sys.executable, REPOSITORY / ".ci/lowest_bounds.py", *arguments]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return dict(line.split("==") for line in printed.splitlines())


def test_the_lowest_environment_has_exactly_the_lower_bounds():
    given = setup_arguments()
    asked = {*given["install_requires"], *(line for extra in given["extras_require"].values() for line in extra)}
    assert {f"{name}>={version}" for name, version in lowest_bounds("--torch").items()} == asked
    # The one difference by default.
    tested = re.search(r"^torch==(\S+)$", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE)[1]
    assert lowest_bounds() == lowest_bounds("--torch") | {"torch": tested}


def test_every_requirement_has_a_tested_version_within_its_bound():
    tested = dict(re.findall(r"^([\w.-]+)==(\S+)$", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE))
    lowest = lowest_bounds("--torch")
    assert tested.keys() == lowest.keys()
    for name, version in lowest.items():
        assert Version(version) <= Version(tested[name]), name


def test_every_file_that_is_shipped_by_name_exists():
    given = setup_arguments()
    folders = {"hf_ats": REPOSITORY / "hf_ats"} | {
        package: REPOSITORY / folder for package, folder in given["package_dir"].items()
    }
    assert given["package_data"].keys() <= folders.keys()
    for package, patterns in given["package_data"].items():
        for pattern in patterns:
            assert list(folders[package].glob(pattern)), f"{package}: {pattern}"
    named = [
        name
        for line in (REPOSITORY / "MANIFEST.in").read_text().splitlines()
        if line.startswith(("include ", "graft "))
        for name in line.split()[1:]
    ]
    assert named and all((REPOSITORY / name).exists() for name in named)
