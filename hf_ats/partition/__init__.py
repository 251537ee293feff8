"""What a super-network is: the partitioned layers, which modules of which architecture, levels and counts."""

from .config import PartitionConfig
from .flops import FlopsLedger, flops_per_token
from .layers import PartitionedRankLinear
from .network import (
    at_level,
    count_exported_parameters,
    count_parameters,
    get_level,
    is_partitioned,
    level_names,
    names_of_levels,
    num_levels,
    parameters_at_level,
    partition_,
    partition_config,
    partition_structure_,
    partitioned_layers,
    resolve_level,
    set_level,
    stock_config,
    stock_config_dict,
)
from .presets import PRESETS

__all__ = [
    "PRESETS",
    "FlopsLedger",
    "PartitionConfig",
    "PartitionedRankLinear",
    "at_level",
    "count_exported_parameters",
    "count_parameters",
    "flops_per_token",
    "get_level",
    "is_partitioned",
    "level_names",
    "names_of_levels",
    "num_levels",
    "parameters_at_level",
    "partition_",
    "partition_config",
    "partition_structure_",
    "partitioned_layers",
    "resolve_level",
    "set_level",
    "stock_config",
    "stock_config_dict",
]
