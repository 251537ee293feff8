"""Cores of ATS models: stock architectures whose chosen linear layers are low-rank, `y = V U x + b`.

This file travels with every core checkpoint and needs torch and transformers alone.
"""

from pathlib import Path

import torch
from torch import nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.utils import cached_file

FILES = ("modeling_ats.py", "pipeline_ats.py")

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


class CoreConfig:
    """What every core's config adds to the stock one: `ats_ranks`, the rank of each low-rank layer by its name."""

    ats_ranks = None

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        """The config in `config_dict`; where hf_ats is installed, `pipeline()` shall take its registered pipeline."""
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
    """A stock model with low-rank layers where its config says so, which saves itself together with its code."""

    def __init__(self, config):
        super().__init__(config)
        for name, rank in (config.ats_ranks or {}).items():
            parent, _, attribute = name.rpartition(".")
            linear = self.get_submodule(name)
            low_rank = LowRankLinear(linear.in_features, linear.out_features, rank, linear.bias is not None)
            setattr(self.get_submodule(parent), attribute, low_rank)

    def _reorder_cache(self, past_key_values, beam_idx):
        """Moves the keys and values of the decoder's own words with their beams, and leaves those of the source.

        The stock models copy both, but all beams of a sentence read the same source.
        """
        past_key_values.self_attention_cache.reorder_cache(beam_idx)
        return past_key_values

    def save_pretrained(self, save_directory, **kwargs):
        """As for any Transformers model; the two files of code come along, so that the directory is complete."""
        super().save_pretrained(save_directory, **kwargs)
        for name in FILES:
            source = Path(__file__).with_name(name)
            if not source.exists():  # transformers caches each file of a checkpoint's code only when it is first used
                source = Path(cached_file(self.config.name_or_path, name))
            Path(save_directory, name).write_bytes(source.read_bytes())


class ATSMarianConfig(CoreConfig, MarianConfig):
    """`MarianConfig` and `ats_ranks`."""

    model_type = "ats_marian"
    core_class = "ATSMarianMTModel"


class ATSMarianMTModel(CoreModel, MarianMTModel):
    """The core of a `MarianMTModel`."""

    config_class = ATSMarianConfig


class ATSBartConfig(CoreConfig, BartConfig):
    """`BartConfig` and `ats_ranks`."""

    model_type = "ats_bart"
    core_class = "ATSBartForConditionalGeneration"


class ATSBartForConditionalGeneration(CoreModel, BartForConditionalGeneration):
    """The core of a `BartForConditionalGeneration`."""

    config_class = ATSBartConfig


class ATSM2M100Config(CoreConfig, M2M100Config):
    """`M2M100Config` and `ats_ranks`."""

    model_type = "ats_m2m_100"
    core_class = "ATSM2M100ForConditionalGeneration"


class ATSM2M100ForConditionalGeneration(CoreModel, M2M100ForConditionalGeneration):
    """The core of an `M2M100ForConditionalGeneration`, which NLLB is too."""

    config_class = ATSM2M100Config


class ATST5Config(CoreConfig, T5Config):
    """`T5Config` and `ats_ranks`."""

    model_type = "ats_t5"
    core_class = "ATST5ForConditionalGeneration"


class ATST5ForConditionalGeneration(CoreModel, T5ForConditionalGeneration):
    """The core of a `T5ForConditionalGeneration`."""

    config_class = ATST5Config
