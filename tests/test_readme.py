"""No figure in the README is typed by hand."""

from pathlib import Path

from hf_ats.evaluation import render_comparison

REPOSITORY = Path(__file__).parent.parent
# In the order of the table's rows.
RUNS = [
    "full",
    *(f"{kind}-{ratio}" for ratio in ("0.03125", "0.25") for kind in ("core", "alternating", "alternating-twice")),
]


def test_the_table_is_rendered_from_the_result_files():
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    block = readme.split("<!-- begin multi30k -->")[1].split("<!-- end multi30k -->")[0].strip()
    files = [REPOSITORY / "results" / "multi30k" / f"{run}.json" for run in RUNS]
    assert block == render_comparison(files, replace={"../shared/data/multi30k": "multi30k"})
