"""What setup.py and MANIFEST.in name exists."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent


def test_every_file_that_is_shipped_by_name_exists():
    patterns = re.search(r'package_data={"hf_ats": \[(.*?)\]}', (REPOSITORY / "setup.py").read_text())[1]
    patterns = re.findall(r'"(.*?)"', patterns)
    assert patterns and all("*" in name or (REPOSITORY / "hf_ats" / name).is_file() for name in patterns)
    named = [
        name
        for line in (REPOSITORY / "MANIFEST.in").read_text().splitlines()
        if line.startswith(("include ", "graft "))
        for name in line.split()[1:]
    ]
    assert named and all((REPOSITORY / name).exists() for name in named)
