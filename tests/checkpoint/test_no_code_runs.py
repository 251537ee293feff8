"""No file of a folder runs, whatever it is called: loading and publishing execute neither pickles nor Python."""

import contextlib
import json
import pickle
import shutil

import pytest
import torch

from hf_ats.checkpoint import (
    export_adapter,
    export_core,
    export_full,
    load_network,
    load_partitioned,
    load_processor,
    load_tokenizer,
    stored_levels,
)
from hf_ats.storage import sealed, sha256_of
from tests.support.checkpoints import trained_tokenizer
from tests.support.models import partitioned, tiny_resnet


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A core, a full network, an adapter, and a training checkpoint."""
    folder = tmp_path_factory.mktemp("good")
    model, tokenizer = partitioned("marian"), trained_tokenizer(folder / "tokenizer")
    for kind, export in (("core", export_core), ("full", export_full), ("adapter", export_adapter)):
        export(model, folder / "run" / kind, tokenizer=tokenizer)
    model.save_pretrained(folder / "run/checkpoint")
    tokenizer.save_pretrained(folder / "run/checkpoint")
    return folder / "run"


class Trap:
    """What pickles, and Python, leave behind if they are run: a file."""

    def __init__(self, marker):
        self.marker = marker
        self.code = f"open({str(marker)!r}, 'w')\nclass Evil:\n    pass\nEvilConfig = EvilTokenizer = Evil\n"

    def __reduce__(self):
        return open, (str(self.marker), "w")


def add_json(name, **fields):
    """Add fields to a JSON file, which is made if it is not there."""

    def prepare(directory, trap):
        path = directory / name
        before = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps(before | fields))

    return prepare


def code(*names):
    return lambda directory, trap: [put(directory / name, trap.code.encode()) for name in names]


def pickled(*names):
    return lambda directory, trap: [put(directory / name, pickle.dumps({"a": trap})) for name in names]


def zipped(*names):
    return lambda directory, trap: [torch.save({"a": trap}, made(directory / name)) for name in names]


def without(*names):
    return lambda directory, trap: [(directory / name).unlink(missing_ok=True) for name in names]


def made(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def put(path, data):
    made(path).write_bytes(data)


WEIGHTS = "model.safetensors"
BASE = f"base/{WEIGHTS}"
MAP = {
    "AutoConfig": "evil.EvilConfig",
    "AutoModelForSeq2SeqLM": "evil.Evil",
    "AutoTokenizer": ["evil.EvilTokenizer"] * 2,
}
FAR = {name: f"someone/else--{one if isinstance(one, str) else one[0]}" for name, one in MAP.items()}
PIPELINES = {"translation": {"impl": "evil.Evil", "pt": ["AutoModelForSeq2SeqLM"]}}
INDEX = {"metadata": {}, "weight_map": {"lm_head.weight": "part.bin"}}

WAYS = {
    "a pickle as weights": [without(WEIGHTS), pickled("pytorch_model.bin")],
    "an archive as weights": [without(WEIGHTS), zipped("pytorch_model.bin")],
    "a pickle beside weights": [pickled("pytorch_model.bin", "model.bin", "model.pt", "training_args.bin")],
    "an archive beside weights": [zipped("pytorch_model.bin", "model.bin", "model.pt", "training_args.bin")],
    "a pickle named safetensors": [pickled(WEIGHTS)],
    "an archive named safetensors": [zipped(WEIGHTS)],
    "shards": [without(WEIGHTS), add_json("pytorch_model.bin.index.json", **INDEX), zipped("part.bin")],
    "safe shards": [without(WEIGHTS), add_json("model.safetensors.index.json", **INDEX), zipped("part.bin")],
    "weights of other frameworks": [
        without(WEIGHTS),
        pickled("tf_model.h5", "flax_model.msgpack", "model.ckpt.index"),
    ],
    "states of a trainer": [pickled("optimizer.pt", "scheduler.pt", "rng_state.pth", "scaler.pt")],
    "an adapter beside": [add_json("adapter_config.json", peft_type="LORA", r=1), pickled("adapter_model.bin")],
    "code of the config": [add_json("config.json", auto_map=MAP), code("evil.py")],
    "code of an unknown type": [add_json("config.json", auto_map=MAP, model_type="evil"), code("evil.py")],
    "code of no type": [add_json("config.json", auto_map=MAP, model_type=None), code("evil.py")],
    "code from elsewhere": [add_json("config.json", auto_map=FAR, model_type="evil")],
    "code above": [
        add_json("config.json", auto_map={"AutoConfig": "../evil.EvilConfig"}, model_type="x"),
        code("../evil.py"),
    ],
    "code of the tokenizer": [
        add_json("tokenizer_config.json", auto_map=MAP),
        code("evil.py", "tokenization_evil.py"),
    ],
    "class of the tokenizer": [
        add_json("tokenizer_config.json", tokenizer_class="evil.EvilTokenizer"),
        code("evil.py"),
    ],
    "a tokenizer of pickles": [
        add_json("tokenizer_config.json", tokenizer_class="TransfoXLTokenizer"),
        pickled("vocab.pkl", "vocab.bin"),
    ],
    "code of a processor": [add_json("processor_config.json", auto_map=MAP, processor_class="Evil"), code("evil.py")],
    "code of images": [
        add_json("preprocessor_config.json", auto_map={"AutoImageProcessor": "evil.Evil"}),
        code("evil.py"),
    ],
    "code of a pipeline": [add_json("config.json", custom_pipelines=PIPELINES), code("evil.py")],
    "code of generation": [
        code("custom_generate/generate.py"),
        add_json("generation_config.json", custom_generate="evil"),
    ],
    "the files that travel": [code("modeling_ats.py", "attention_ats.py", "pipeline_ats.py")],
    "names of modules": [
        code("torch.py", "transformers.py", "hf_ats.py", "sitecustomize.py", "conftest.py", "__init__.py")
    ],
    "a function as class": [add_json("config.json", architectures=["pipeline"])],
    "a module as class": [add_json("config.json", architectures=["os.system", "evil.Evil"]), code("evil.py")],
    "a kernel as attention": [add_json("config.json", _attn_implementation="someone/kernel")],
    "a quantizer": [
        add_json("config.json", quantization_config={"quant_method": "evil", "modules_to_not_convert": []})
    ],
    "a template": [add_json("tokenizer_config.json", chat_template="{{ ().__class__.__base__.__subclasses__() }}")],
    "a pickled adapter": [without("adapter_model.safetensors"), pickled("adapter_model.bin")],
    "an archived adapter": [without("adapter_model.safetensors"), zipped("adapter_model.bin")],
    "a pickled base": [without(BASE), pickled("base/pytorch_model.bin")],
    "an archived base": [without(BASE), zipped("base/pytorch_model.bin")],
    "another base": [add_json("adapter_config.json", base_model_name_or_path="someone/else")],
    "a library of the adapter": [
        add_json("adapter_config.json", auto_mapping={"parent_library": "evil", "base_model_class": "Evil"}),
        code("evil.py"),
    ],
    "code of the base": [add_json("base/config.json", auto_map=MAP, model_type="evil"), code("base/evil.py")],
    "code of the base's tokenizer": [add_json("base/tokenizer_config.json", auto_map=MAP), code("base/evil.py")],
}


def loads(directory):
    """Everything that loads it."""
    yield lambda: load_network(directory)
    yield lambda: load_tokenizer(directory)
    yield lambda: load_processor(directory, tiny_resnet())
    yield lambda: load_partitioned(directory)
    yield lambda: stored_levels(directory)


@pytest.mark.parametrize("way", WAYS)
def test_nothing_runs(way, good, tmp_path, monkeypatch):
    trap = Trap(tmp_path / "it-ran")
    network = "core" if "code" in way or "travel" in way else "full"
    kinds = ("adapter",) if "adapter" in way or "base" in way else (network, "checkpoint")
    for kind in kinds:
        directory = tmp_path / "run" / kind
        shutil.copytree(good / kind, directory)
        for prepare in WAYS[way]:
            prepare(directory, trap)
        if kind != "checkpoint":  # with a report that says so
            report = json.loads((directory / "export.json").read_text())
            files = {name: digest for name, digest in sha256_of(directory).items() if name != "export.json"}
            (directory / "export.json").write_text(json.dumps(sealed(report | {"files": files})))
        monkeypatch.chdir(directory)
        for load in loads(directory):
            with contextlib.suppress(OSError, ValueError, ImportError):  # sentences
                load()
            assert not trap.marker.exists(), f"{way}: the file of {kind} ran"
        monkeypatch.chdir(tmp_path)
        shutil.rmtree(tmp_path / "run")


def test_the_traps_work(tmp_path):
    trap = Trap(tmp_path / "it-ran")
    for spring in (
        lambda: pickle.loads(pickle.dumps({"a": trap})),
        lambda: exec(compile(trap.code, "evil.py", "exec"), {}),
    ):
        assert not trap.marker.exists()
        spring()
        trap.marker.unlink()
