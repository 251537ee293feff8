"""Prints constraints that pin everything setup.py asks for, extras included, to its lower bound.

    python .ci/lowest_bounds.py > lowest.txt && pip install -c lowest.txt '.[test]'

torch is the exception: by default it stays at the version in constraints.txt, since its older releases come for Linux
with gigabytes of CUDA packages only. `--torch` pins it too.
"""

import argparse
import re
import runpy
import sys
from pathlib import Path
from unittest import mock

REPOSITORY = Path(__file__).parent.parent


def requirements() -> list[str]:
    """What setup.py hands to setuptools, sorted, each once."""
    setuptools = mock.MagicMock()  # a new environment of Python 3.12 has none
    setuptools.find_packages.return_value = []
    with mock.patch.dict(sys.modules, setuptools=setuptools):
        runpy.run_path(str(REPOSITORY / "setup.py"))
    given = setuptools.setup.call_args.kwargs
    return sorted(
        {*given["install_requires"], *(line for extra in given["extras_require"].values() for line in extra)}
    )


def pinned(requirement: str) -> str:
    """`"name>=1.2"` as `"name==1.2"`.

    Raises:
        ValueError: it is of another form, so that its lower bound is not known.
    """
    match = re.fullmatch(r"([\w.-]+)>=([\d.]+)", requirement)
    if match is None:
        raise ValueError(f"setup.py asks for {requirement!r}; write it as 'name>=version'.")
    return f"{match[1]}=={match[2]}"


def main() -> None:
    """Print one line for each requirement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", action="store_true", help="pin torch to its lower bound too")
    lowest_torch = parser.parse_args().torch
    tested = dict(re.findall(r"^([\w.-]+)==(\S+)$", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE))
    for line in map(pinned, requirements()):
        print(line if lowest_torch or not line.startswith("torch==") else f"torch=={tested['torch']}")


if __name__ == "__main__":
    main()
