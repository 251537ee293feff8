"""What belongs here helps to deploy a run: which of its networks to take, and the runtimes that it can run in."""

from .choose import Level, choose_level, copy_export, exported_levels, measure_latency, parse_limit, render_levels
from .runtimes import (
    RUNTIMES,
    CTranslate2Network,
    OnnxNetwork,
    convert_to_ctranslate2,
    export_onnx,
    require_runtime,
)

__all__ = [
    "RUNTIMES",
    "CTranslate2Network",
    "Level",
    "OnnxNetwork",
    "choose_level",
    "convert_to_ctranslate2",
    "copy_export",
    "export_onnx",
    "exported_levels",
    "measure_latency",
    "parse_limit",
    "render_levels",
    "require_runtime",
]
