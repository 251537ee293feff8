"""Where a network lies, in transformers and in the runtimes for deployment, and how to open it there."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, MarianConfig, MarianMTModel

from hf_ats.checkpoint import weights_size
from hf_ats.deployment import (
    ENCODER,
    MERGED,
    RUNTIMES,
    CTranslate2Network,
    OnnxNetwork,
    convert_to_ctranslate2,
    export_onnx,
    graph_file,
)

from .networks import CORE, DENSE, FULL, TransformersNetwork

# Which networks a runtime is measured with, and in which arithmetic. CTranslate2 runs only Marian's own class: of a
# core by rank the one multiplied out, of a core with fewer layers or feed-forward neurons the core itself.
_DEPLOYED = {
    "ctranslate2": ("CTranslate2", (FULL, CORE, DENSE), ("float32", "int8")),
    "onnxruntime": ("ONNX Runtime", (FULL, CORE), ("float32", "int8")),
}


@dataclass(frozen=True)
class Opening:
    """Where a network lies and how to open it; can be sent to another process."""

    runtime: str
    directory: Path
    checkpoint: Path
    arithmetic: str

    def open(self, dtype: str, attn_implementation: str, device: str):
        """Return the network, which has `decode` and `translate`; what it is given counts in transformers alone."""
        if self.runtime == "ctranslate2":
            return CTranslate2Network(self.directory, self.checkpoint, self.arithmetic, torch.get_num_threads())
        if self.runtime == "onnxruntime":
            network = OnnxNetwork(self.directory, self.arithmetic, torch.get_num_threads())
            return TransformersNetwork(network, device)
        model = (MarianMTModel if _is_stock(self.directory) else AutoModelForSeq2SeqLM).from_pretrained(
            self.directory, dtype=getattr(torch, dtype), attn_implementation=attn_implementation
        )
        return TransformersNetwork(model, device)

    @property
    def size_bytes(self) -> int:
        """Bytes of the weights that the runtime loads."""
        if self.runtime == "onnxruntime":
            graphs = (graph_file(self.directory, graph, self.arithmetic) for graph in (ENCODER, MERGED))
            return sum(graph.stat().st_size for graph in graphs)
        return weights_size(self.directory)


def find_openings(
    directories: dict[str, Path], runtimes: Sequence[str], folder: Path, dtype: str
) -> dict[str, Opening]:
    """Return by the name of a candidate how to open it; convert for the runtimes, into `folder`."""
    openings = {name: Opening("transformers", path, path, dtype) for name, path in directories.items()}
    for runtime in RUNTIMES:
        if runtime not in runtimes:
            continue
        title, networks, arithmetics = _DEPLOYED[runtime]
        for network, arithmetic in itertools.product(networks, arithmetics):
            if network not in directories or (runtime == "ctranslate2" and not _is_stock(directories[network])):
                continue
            output = folder / runtime / f"{network}-{arithmetic}"
            if runtime == "ctranslate2":
                output.parent.mkdir(exist_ok=True)
                convert_to_ctranslate2(directories[network], output, arithmetic)
            else:
                export_onnx(directories[network], output, arithmetic)
            openings[f"{network}, {title} {arithmetic}"] = Opening(runtime, output, directories[network], arithmetic)
    return openings


def _is_stock(directory: Path) -> bool:
    return AutoConfig.from_pretrained(directory).model_type == MarianConfig.model_type
