r"""Show that exports in ONNX translate in transformers.js as in Python: docs/deployment.md.

    python -m benchmarks.transformers_js out/core-onnx out/core-onnx-int8 --sentences test.de

Each export is read by transformers.js under Node.js from its folder, and by `OnnxNetwork`; both translate greedily,
sentence by sentence. npm fetches transformers.js, if it is not yet in the folder --packages.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from hf_ats.checkpoint import ExportReport, load_tokenizer
from hf_ats.data import read_lines
from hf_ats.deployment import OnnxNetwork
from hf_ats.results import align, name_of_network, read_json, write_json

RECORD = Path(__file__).parent / "results" / "deployment" / "transformers-js.json"
_DTYPES = {"float32": "fp32", "int8": "q8"}
_PACKAGE = "@huggingface/transformers"
_SCRIPT = """
import { pipeline, env } from "@huggingface/transformers";
import fs from "fs";
import path from "path";
const [directory, dtype] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = path.dirname(directory);
const translator = await pipeline("translation", path.basename(directory), { dtype });
const translations = [];
for (const sentence of JSON.parse(fs.readFileSync(0, "utf8")))
  translations.push((await translator(sentence, { num_beams: 1 }))[0].translation_text);
fs.writeSync(1, "\\n" + JSON.stringify(translations) + "\\n");
"""


def compare(directories: list[Path], sentences: list[str], packages: Path) -> dict:
    """Return by export how many translations are the same, and the versions."""
    if not (packages / "node_modules" / _PACKAGE).is_dir():
        packages.mkdir(parents=True, exist_ok=True)
        # Its dependency for images is fetched by a script of its own, and is not needed.
        _run(["npm", "install", "--prefix", ".", "--ignore-scripts", "--no-audit", "--no-fund", _PACKAGE], packages)
    (packages / "translate.mjs").write_text(_SCRIPT, encoding="utf-8")
    compared = []
    for directory in directories:
        report = ExportReport.read(directory)
        quantization = report.runtime["quantization"]
        words = ["node", "translate.mjs", str(directory.absolute()), _DTYPES[quantization]]
        theirs = json.loads(_run(words, packages, json.dumps(sentences)).splitlines()[-1])
        ours = _translate(directory, quantization, sentences)
        same = sum(a.strip() == b.strip() for a, b in zip(theirs, ours, strict=True))
        compared.append({"network": name_of_network(report), "quantization": quantization, "same": same})
        print(compared[-1], flush=True)
    package = read_json(packages / "node_modules" / _PACKAGE / "package.json", "install it again.")
    return {
        "transformers.js": package["version"],
        "node": _run(["node", "--version"], packages).strip().removeprefix("v"),
        "sentences": len(sentences),
        "compared": compared,
    }


def _run(words: list[str], folder: Path, text: str | None = None) -> str:
    return subprocess.run(words, cwd=folder, input=text, stdout=subprocess.PIPE, text=True, check=True).stdout


def _translate(directory: Path, quantization: str, sentences: list[str]) -> list[str]:
    network, tokenizer = OnnxNetwork(directory, quantization, 1), load_tokenizer(directory)
    translations = []
    for sentence in sentences:
        ids = network.generate(**tokenizer([sentence], return_tensors="pt"), num_beams=1, do_sample=False)[0]
        translations.append(tokenizer.decode(ids, skip_special_tokens=True))
    return translations


def render_transformers_js(record: dict) -> str:
    """Return a table with a row for each export."""
    rows = [
        [one["network"], one["quantization"], f"{one['same']} of {record['sentences']}"] for one in record["compared"]
    ]
    header = ["network", "arithmetic", f"same in transformers.js {record['transformers.js']}"]
    return align(header, rows, "markdown", left=2)


def main() -> None:
    """Compare, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exports", nargs="+", type=Path, help="folders that hf-ats export --format onnx wrote")
    parser.add_argument("--sentences", type=Path, required=True, help="a text file, one sentence a line")
    parser.add_argument("--packages", type=Path, default=Path("runs/transformers-js"), help="where npm installs")
    parser.add_argument("--first", type=int, default=200, help="how many of the sentences (default: 200)")
    arguments = parser.parse_args()
    try:
        sentences = read_lines(arguments.sentences)[: arguments.first]
        write_json(RECORD, compare(arguments.exports, sentences, arguments.packages))
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        sys.exit(f"transformers_js.py: {error}")


if __name__ == "__main__":
    main()
