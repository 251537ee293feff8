"""What belongs here helps to deploy a run: which of its networks to take, and the runtimes that it can run in."""

from .choose import Level, choose_level, copy_export, exported_levels, measure_latency, parse_limit, render_levels
from .formats import deploy, made_up_sentences
from .onnx_graphs import ENCODER, MERGED, graph_file
from .onnx_network import OnnxNetwork
from .runtimes import FORMATS, QUANTIZATIONS, RUNTIMES, require_runtime
from .to_ctranslate2 import CTranslate2Network, check_format, convert_to_ctranslate2
from .to_onnx import export_onnx

__all__ = [
    "ENCODER",
    "FORMATS",
    "MERGED",
    "QUANTIZATIONS",
    "RUNTIMES",
    "CTranslate2Network",
    "Level",
    "OnnxNetwork",
    "check_format",
    "choose_level",
    "convert_to_ctranslate2",
    "copy_export",
    "deploy",
    "export_onnx",
    "exported_levels",
    "graph_file",
    "made_up_sentences",
    "measure_latency",
    "parse_limit",
    "render_levels",
    "require_runtime",
]
