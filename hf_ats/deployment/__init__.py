"""What belongs here helps to deploy a run: which of its networks to take, and the runtimes that it can run in."""

from .choose import Level, choose_level, copy_export, exported_levels, measure_latency, parse_limit, render_levels

__all__ = [
    "Level",
    "choose_level",
    "copy_export",
    "exported_levels",
    "measure_latency",
    "parse_limit",
    "render_levels",
]
