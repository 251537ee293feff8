"""Exports in ONNX, in the folder that transformers.js and ONNX Runtime read."""

import json
import os
from pathlib import Path

import torch
from transformers import PreTrainedModel
from transformers.utils import CONFIG_NAME

from ..checkpoint import load_network, load_tokenizer, save_tokenizer
from ..storage import write_file
from .onnx_graphs import write_graphs


def export_onnx(directory: str | os.PathLike, output: str | os.PathLike, quantization: str = "float32") -> None:
    """Write an export, a core too, as transformers.js reads it: graphs in `onnx/`, and beside it config and tokenizer.

    The graphs themselves say where a core is smaller, so its config is that of the stock class.

    Args:
        directory: an export, or another translation model.
        output: a directory, made here.
        quantization: as for `write_graphs`.

    Raises:
        ValueError: as `load_network` and `write_graphs`.
    """
    model, tokenizer = load_network(directory, dtype=torch.float32), load_tokenizer(directory)
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    write_graphs(model, output, quantization)
    write_file(output / CONFIG_NAME, json.dumps(_stock_config(model), indent=2) + "\n")
    model.generation_config.save_pretrained(output)
    save_tokenizer(tokenizer, output)


def _stock_config(model: PreTrainedModel) -> dict:
    config = json.loads(model.config.to_json_string(use_diff=True))
    if not config["model_type"].startswith("ats_"):
        return config
    ours = ("ats_", "auto_map", "custom_pipelines")
    return {name: value for name, value in config.items() if not name.startswith(ours)} | {
        "model_type": config["model_type"].removeprefix("ats_"),
        "architectures": [type(model).__mro__[2].__name__],  # behind the core class and what cores have in common
    }
