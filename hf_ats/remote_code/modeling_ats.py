"""Cores of ATS models: stock architectures whose chosen linear layers are low-rank, `y = V U x + b`, or narrower.

This file travels with every core checkpoint and needs torch and transformers alone.
"""

from itertools import chain
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    MBartConfig,
    MBartForConditionalGeneration,
    MT5Config,
    MT5ForConditionalGeneration,
    PegasusConfig,
    PegasusForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.modeling_utils import is_fsdp_enabled, is_local_dist_rank_0

from .attention_ats import allow_narrow_keys_

# transformers caches a checkpoint's code as files import each other; so all are there to be saved again, also when
# the Hub is out of reach, its repository has changed, or a pipeline was never used.
from .pipeline_ats import ATSTranslationPipeline  # noqa: F401

FILES = ("modeling_ats.py", "attention_ats.py", "pipeline_ats.py")

# An installed hf_ats registers these classes and the pipeline, so that nothing of the checkpoint's own code runs.
INSTALLED = not __name__.startswith("transformers_modules.")


class LowRankLinear(nn.Module):
    """`y = V (U x) + b`, in place of an `nn.Linear` of shape `(out_features, in_features)`.

    Attributes:
        U: maps `(..., in_features)` to `(..., rank)`; its weight has shape `(rank, in_features)`.
        V: maps `(..., rank)` to `(..., out_features)`, and holds the bias; its weight is `(out_features, rank)`.
    """

    def __init__(self, in_features: int, out_features: int, rank: int, bias: bool = True):
        super().__init__()
        self.U = nn.Linear(in_features, rank, bias=False)
        self.V = nn.Linear(rank, out_features, bias=bias)

    @property
    def weight(self) -> torch.Tensor:
        """The shape and dtype of `V U`, which T5 asks for, without data: reading values from it raises."""
        return torch.empty(self.V.out_features, self.U.in_features, dtype=self.V.weight.dtype, device="meta")

    @property
    def bias(self) -> nn.Parameter | None:
        """The bias, shape `(out_features,)`, or None."""
        return self.V.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape `(..., in_features)` to `(..., out_features)`."""
        return self.V(self.U(x))


class TableFactor(nn.Module):
    """The holder of `U`, which all modules that read a vocabulary table `V U` share.

    Attributes:
        weight: `U`, shape `(rank, width)`.
    """

    def __init__(self, width: int, rank: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rank, width))
        nn.init.normal_(self.weight, std=width**-0.5)


class _FactorizedTable(nn.Module):
    """A module that reads a vocabulary table `V U`.

    Args:
        rows: the size of the vocabulary.
        factor: what holds `U`. It is not a submodule of this one.

    Attributes:
        weight: `V`, shape `(vocabulary, rank)`, which transformers ties as it ties the table of a stock model.
    """

    def __init__(self, rows: int, factor: TableFactor):
        super().__init__()
        rank = len(factor.weight)
        self.weight = nn.Parameter(torch.empty(rows, rank))
        nn.init.normal_(self.weight, std=rank**-0.5)
        object.__setattr__(self, "factor", factor)


class FactorizedEmbedding(_FactorizedTable):
    """Rows of `V U`, in place of an `nn.Embedding`.

    Args:
        embedding: what it takes the place of.
        factor: as for the other readers of the table.
    """

    def __init__(self, embedding: nn.Embedding, factor: TableFactor):
        super().__init__(embedding.num_embeddings, factor)
        self.padding_idx = embedding.padding_idx
        self.scale = vars(embedding).get("embed_scale", 1.0)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids `(...)` to rows `(..., width)`."""
        return F.linear(F.embedding(ids, self.weight, self.padding_idx), self.factor.weight.t()) * self.scale


class FactorizedProjection(_FactorizedTable):
    """The projection `(h U^T) V^T + b` to the vocabulary, in place of an `nn.Linear`.

    Args:
        linear: what it takes the place of.
        factor: as for the other readers of the table.
    """

    def __init__(self, linear: nn.Linear, factor: TableFactor):
        super().__init__(linear.out_features, factor)
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape `(..., width)` to `(..., vocabulary)`."""
        return F.linear(F.linear(x, self.factor.weight), self.weight, self.bias)


class FilledHeadsLinear(nn.Linear):
    """A linear layer whose output is filled up with zeros, in each head, for attention that takes one size of heads.

    Args:
        in_features, out_features, bias: as for `nn.Linear`.
        heads: the number of heads that share the output.
        filled_features: size of the output once it is filled up.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool, heads: int, filled_features: int):
        super().__init__(in_features, out_features, bias)
        self.heads = heads
        self.missing = (filled_features - out_features) // heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape `(..., in_features)` to `(..., filled_features)`."""
        return F.pad(super().forward(x).unflatten(-1, (self.heads, -1)), (0, self.missing)).flatten(-2)


def refuse_nan(model: nn.Module, what: str) -> None:
    """Raise ValueError if a tensor holds something that is not a number, or a parameter infinity; it names the first.

    Args:
        model: any module; tensors without data (of the meta device) or of fewer than 16 bits are passed over.
        what: what it is, for the message.
    """
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        held = tensor.is_floating_point() and tensor.element_size() > 1 and tensor.device.type != "meta"
        is_nan = held and tensor.isnan().any()
        if is_nan or (held and isinstance(tensor, nn.Parameter) and tensor.isinf().any()):
            raise ValueError(
                f"{what} holds {'NaN' if is_nan else 'infinity'} in {name}: the training that it comes from diverged, "
                "or a file is damaged. Take an earlier checkpoint, or another copy."
            )


class CoreConfig:
    """What every core's config adds to the stock one.

    Attributes:
        ats_ranks: the rank of each low-rank layer by its name.
        ats_widths: of each narrower layer, by its name, `[in_features, out_features]`.
        ats_heads: of each narrower layer whose output is filled up, by its name, the number of heads.
        ats_tables: by the name of the module that holds `U`, the `rank` of a vocabulary table and the `modules` that
            read it.
    """

    ats_ranks = None
    ats_widths = None
    ats_heads = None
    ats_tables = None

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        """Return the config in `config_dict`; where hf_ats is installed, `pipeline()` takes the registered one."""
        if INSTALLED:
            config_dict = {**config_dict, "custom_pipelines": {}}
        return super().from_dict(config_dict, **kwargs)

    def to_dict(self):
        """All fields, and where the code is that travels with the checkpoint."""
        return {
            **super().to_dict(),
            "auto_map": {
                "AutoConfig": f"modeling_ats.{type(self).__name__}",
                "AutoModelForSeq2SeqLM": f"modeling_ats.{self.core_class}",
            },
            "custom_pipelines": {
                "translation": {"impl": "pipeline_ats.ATSTranslationPipeline", "pt": ["AutoModelForSeq2SeqLM"]}
            },
        }


class CoreModel:
    """A stock model with smaller layers where its config says so, which saves itself together with its code."""

    # Stock models take a bias of the logits that is missing for zero.
    _keys_to_ignore_on_load_missing = ()

    def __init__(self, config):
        super().__init__(config)
        for name, rank in (config.ats_ranks or {}).items():
            linear = self.get_submodule(name)
            low_rank = LowRankLinear(linear.in_features, linear.out_features, rank, linear.bias is not None)
            self._replace(name, low_rank)
        for name, (in_features, out_features) in (config.ats_widths or {}).items():
            linear = self.get_submodule(name)
            heads = (config.ats_heads or {}).get(name)
            if heads is None:
                self._replace(name, nn.Linear(in_features, out_features, linear.bias is not None))
            else:
                filled = (in_features, out_features, linear.bias is not None, heads, linear.out_features)
                self._replace(name, FilledHeadsLinear(*filled))
        for name, table in (config.ats_tables or {}).items():
            self._factorize_table(name, **table)
        for attention in self._narrow_attentions(config):
            allow_narrow_keys_(self.get_submodule(attention))

    def _factorize_table(self, factor_name: str, rank: int, modules: list[str]) -> None:
        readers = {name: self.get_submodule(name) for name in modules}
        width = readers[modules[0]].weight.shape[1]
        setattr(self, factor_name, factor := TableFactor(width, rank))
        made = {}
        for name, reader in readers.items():
            if id(reader) not in made:  # in transformers 4 one module may have several names
                kind = FactorizedProjection if isinstance(reader, nn.Linear) else FactorizedEmbedding
                made[id(reader)] = kind(reader, factor)
            self._replace(name, made[id(reader)])
        first = self.get_submodule(modules[0]).weight
        for reader in made.values():
            reader.weight = first

    def _replace(self, name: str, layer: nn.Module) -> None:
        parent, _, attribute = name.rpartition(".")
        setattr(self.get_submodule(parent), attribute, layer)

    @staticmethod
    def _narrow_attentions(config) -> list[str]:
        narrow = set(config.ats_widths or {}) - set(config.ats_heads or {})
        return [name.removesuffix(".q_proj") for name in narrow if name.endswith(".q_proj")]

    def _reorder_cache(self, past_key_values, beam_idx):
        """Move the keys and values of the decoder's own words with their beams, and leave those of the source.

        The stock models copy both, but all beams of a sentence read the same source.
        """
        past_key_values.self_attention_cache.reorder_cache(beam_idx)
        return past_key_values

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, output_loading_info=False, **kwargs):
        """Load as any Transformers model, except that weights which are missing are not made up.

        Raises:
            ValueError: a tensor of the core is missing or has another name, or one is not a number.
        """
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        where = f"the core in {pretrained_model_name_or_path}"
        # A class made from this one may have layers of its own, which no core holds.
        missing = sorted(info["missing_keys"]) if cls.__name__ == cls.config_class.core_class else []
        if missing:
            raise ValueError(
                f"{where} is not complete: its weights have no {missing[0]}"
                f"{f', nor {len(missing) - 1} more of its tensors' if missing[1:] else ''}; files are damaged or of "
                "several models. Take another copy, or export it again."
            )
        # Other processes get their weights later, and what was to be of another size is not set here by all versions.
        if not info["mismatched_keys"] and (not is_fsdp_enabled() or is_local_dist_rank_0()):
            refuse_nan(model, where)
        return (model, info) if output_loading_info else model

    def save_pretrained(self, save_directory, **kwargs):
        """Save as any Transformers model; the files of code come along, so that the directory is complete."""
        super().save_pretrained(save_directory, **kwargs)
        for name in FILES:
            Path(save_directory, name).write_bytes(Path(__file__).with_name(name).read_bytes())


class ATSMarianConfig(CoreConfig, MarianConfig):
    """`MarianConfig` and where it is smaller."""

    model_type = "ats_marian"
    core_class = "ATSMarianMTModel"


class ATSMarianMTModel(CoreModel, MarianMTModel):
    """The core of a `MarianMTModel`."""

    _keys_to_ignore_on_load_missing = ("embed_positions.weight",)  # a table that is computed, and never saved

    config_class = ATSMarianConfig


class ATSBartConfig(CoreConfig, BartConfig):
    """`BartConfig` and where it is smaller."""

    model_type = "ats_bart"
    core_class = "ATSBartForConditionalGeneration"


class ATSBartForConditionalGeneration(CoreModel, BartForConditionalGeneration):
    """The core of a `BartForConditionalGeneration`."""

    config_class = ATSBartConfig


class ATSMBartConfig(CoreConfig, MBartConfig):
    """`MBartConfig` and where it is smaller."""

    model_type = "ats_mbart"
    core_class = "ATSMBartForConditionalGeneration"


class ATSMBartForConditionalGeneration(CoreModel, MBartForConditionalGeneration):
    """The core of an `MBartForConditionalGeneration`, also of mBART-50."""

    config_class = ATSMBartConfig


class ATSM2M100Config(CoreConfig, M2M100Config):
    """`M2M100Config` and where it is smaller."""

    model_type = "ats_m2m_100"
    core_class = "ATSM2M100ForConditionalGeneration"


class ATSM2M100ForConditionalGeneration(CoreModel, M2M100ForConditionalGeneration):
    """The core of an `M2M100ForConditionalGeneration`, which NLLB is too."""

    config_class = ATSM2M100Config


class ATSPegasusConfig(CoreConfig, PegasusConfig):
    """`PegasusConfig` and where it is smaller."""

    model_type = "ats_pegasus"
    core_class = "ATSPegasusForConditionalGeneration"


class ATSPegasusForConditionalGeneration(CoreModel, PegasusForConditionalGeneration):
    """The core of a `PegasusForConditionalGeneration`."""

    config_class = ATSPegasusConfig


class ATST5Config(CoreConfig, T5Config):
    """`T5Config` and where it is smaller."""

    model_type = "ats_t5"
    core_class = "ATST5ForConditionalGeneration"


class ATST5ForConditionalGeneration(CoreModel, T5ForConditionalGeneration):
    """The core of a `T5ForConditionalGeneration`."""

    config_class = ATST5Config


class ATSMT5Config(CoreConfig, MT5Config):
    """`MT5Config` and where it is smaller."""

    model_type = "ats_mt5"
    core_class = "ATSMT5ForConditionalGeneration"


class ATSMT5ForConditionalGeneration(CoreModel, MT5ForConditionalGeneration):
    """The core of an `MT5ForConditionalGeneration`."""

    config_class = ATSMT5Config
