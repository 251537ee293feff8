"""What belongs here helps to deploy: which core to train, which network to take, and the runtimes that it runs in."""

from .choose import (
    Level,
    choose_level,
    copy_export,
    exported_levels,
    generated_sentences,
    measure_latency,
    parse_limit,
    render_levels,
)
from .formats import deploy, made_up_sentences
from .onnx_graphs import ENCODER, MERGED, graph_file
from .onnx_network import OnnxNetwork
from .plan import BUDGETS, core_size, make_plan, render_depths, render_plan, render_recipe
from .runtimes import FORMATS, QUANTIZATIONS, RUNTIMES, require_runtime
from .spectra import plot_spectra, read_layers
from .stopwatch import Stopwatch
from .to_ctranslate2 import CTranslate2Network, check_format, convert_to_ctranslate2
from .to_onnx import export_onnx

__all__ = [
    "BUDGETS",
    "ENCODER",
    "FORMATS",
    "MERGED",
    "QUANTIZATIONS",
    "RUNTIMES",
    "CTranslate2Network",
    "Level",
    "OnnxNetwork",
    "Stopwatch",
    "check_format",
    "choose_level",
    "convert_to_ctranslate2",
    "copy_export",
    "core_size",
    "deploy",
    "export_onnx",
    "exported_levels",
    "generated_sentences",
    "graph_file",
    "made_up_sentences",
    "make_plan",
    "measure_latency",
    "parse_limit",
    "plot_spectra",
    "read_layers",
    "render_depths",
    "render_levels",
    "render_plan",
    "render_recipe",
    "require_runtime",
]
