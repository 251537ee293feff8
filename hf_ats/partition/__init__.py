"""What a super-network is: the partitioned layers, which modules of which architecture, levels and counts."""

from .adapter import partition_from_adapter_, read_adapter_config
from .config import ADAPTER, EMBEDDINGS, INITS, ROLES, Composition, PartitionConfig, partition_from_dict
from .convolution import PartitionedBatchNorm2d, PartitionedConv2d
from .depth import PartitionedStack, exported_names, kept_layers, layer_stacks, partitioned_stacks
from .flops import FlopsLedger, blank_sentences, flops_per_token
from .layers import PartitionedLayer
from .levels import (
    at_level,
    count_exported_parameters,
    count_parameters,
    find_partition,
    get_level,
    is_partitioned,
    layers_at_level,
    level_names,
    names_of_levels,
    num_levels,
    parameters_at_level,
    partitioned_layers,
    resolve_level,
    set_level,
    sort_levels,
    tie_as_,
)
from .moments import InputMoments, Moments, moments_of
from .partitioning import partition_, partition_structure_, stock_config, stock_config_dict
from .presets import PRESETS, WIDTH_PRESETS, find_by_model_type, is_translation_model
from .rank import LowRankSum, PartitionedRankLinear
from .summed import SummedNetworks, SummedOutput
from .vocabulary import (
    PartitionedEmbedding,
    PartitionedProjection,
    TableReader,
    VocabularyFactors,
    vocabulary_tables,
)
from .width import PartitionedLinear
from .width_plan import order_by_importance

__all__ = [
    "ADAPTER",
    "EMBEDDINGS",
    "INITS",
    "PRESETS",
    "ROLES",
    "WIDTH_PRESETS",
    "Composition",
    "FlopsLedger",
    "InputMoments",
    "LowRankSum",
    "Moments",
    "PartitionConfig",
    "PartitionedBatchNorm2d",
    "PartitionedConv2d",
    "PartitionedEmbedding",
    "PartitionedLayer",
    "PartitionedLinear",
    "PartitionedProjection",
    "PartitionedRankLinear",
    "PartitionedStack",
    "SummedNetworks",
    "SummedOutput",
    "TableReader",
    "VocabularyFactors",
    "at_level",
    "blank_sentences",
    "count_exported_parameters",
    "count_parameters",
    "exported_names",
    "find_by_model_type",
    "find_partition",
    "flops_per_token",
    "get_level",
    "is_partitioned",
    "is_translation_model",
    "kept_layers",
    "layer_stacks",
    "layers_at_level",
    "level_names",
    "moments_of",
    "names_of_levels",
    "num_levels",
    "order_by_importance",
    "parameters_at_level",
    "partition_",
    "partition_from_adapter_",
    "partition_from_dict",
    "partition_structure_",
    "partitioned_layers",
    "partitioned_stacks",
    "read_adapter_config",
    "resolve_level",
    "set_level",
    "sort_levels",
    "stock_config",
    "stock_config_dict",
    "tie_as_",
    "vocabulary_tables",
]
