"""The kinds of exports, by name: how each is written, of which level it is, and which files it has."""

from peft import PeftModel
from transformers import AutoModelForSeq2SeqLM

from hf_ats.checkpoint import export_adapter, export_core, export_full
from tests.support.versions import EVERY_TOKENIZER

EXPORTS = {
    "full": export_full,
    "core": export_core,
    "level1": lambda model, directory, **kwargs: export_core(model, directory, level="level1", **kwargs),
    "core-dense": lambda model, directory, **kwargs: export_core(model, directory, dense=True, **kwargs),
    "adapter": export_adapter,
}
LEVELS = {"full": "full", "core": "core", "level1": "level1", "core-dense": "core", "adapter": "full"}

# Every export of a ladder by rank; by width those whose network differs, and the core that is a stock model.
PARTITIONED_EXPORTS = [("rank ladder", export) for export in EXPORTS] + [
    ("width ladder", "full"),
    ("width ladder", "core"),
    ("width ladder", "level1"),
    ("width ladder", "core-dense"),
    ("feed-forward width", "core"),
    ("composition", "level1"),
    ("composition", "core-dense"),
    ("vocabulary ladder", "full"),
    ("vocabulary ladder", "level1"),
    ("vocabulary ladder", "core-dense"),
    ("vocabulary ladder", "adapter"),
]

WEIGHTS = {"config.json", "generation_config.json", "model.safetensors"}
TOKENIZER = {"source.spm", "target.spm", "tokenizer_config.json", "vocab.json"} | EVERY_TOKENIZER
CODE = {"modeling_ats.py", "attention_ats.py", "pipeline_ats.py"}
FILES = {
    "full": WEIGHTS | TOKENIZER | {"export.json"},
    "core": WEIGHTS | TOKENIZER | CODE | {"export.json"},
    "level1": WEIGHTS | TOKENIZER | CODE | {"export.json"},
    "core-dense": WEIGHTS | TOKENIZER | {"export.json"},
    "adapter": {"adapter_config.json", "adapter_model.safetensors", "export.json"}
    | {f"base/{name}" for name in WEIGHTS | TOKENIZER},
}


def files(directory) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}


def load(export: str, directory, model):
    """The export, by the class that its user has."""
    if export == "adapter":
        return PeftModel.from_pretrained(type(model).from_pretrained(directory / "base"), directory).merge_and_unload()
    return AutoModelForSeq2SeqLM.from_pretrained(directory)
