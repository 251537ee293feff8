"""Which network to deploy, and the runtimes that it is deployed in."""

from .choose import (
    Budget,
    Level,
    choose_level,
    copy_export,
    exported_levels,
    measure_latency,
    parse_bytes,
    parse_parameters,
    render_levels,
)

__all__ = [
    "Budget",
    "Level",
    "choose_level",
    "copy_export",
    "exported_levels",
    "measure_latency",
    "parse_bytes",
    "parse_parameters",
    "render_levels",
]
