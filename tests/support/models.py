"""Tiny real models, built from configs, and their partitions. Nothing here needs a network."""

import torch
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
    ResNetConfig,
    ResNetForImageClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from hf_ats.partition import Composition, PartitionConfig, partition_

FAMILIES = ("marian", "bart", "m2m_100", "t5")
"""The families that most tests go through: among them is each kind of attention, of positions and of first words."""

ALL_FAMILIES = (*FAMILIES, "mbart", "pegasus", "mt5")
"""Every family that has a preset and a core class, for the tests of what is written for each of them."""

VOCABULARY = 96

PARTITIONS = {
    "rank": dict(ratios=[0.25]),
    "rank ladder": dict(ratios=[0.1, 0.25]),
    "width": dict(method="width", ratios=[0.25]),
    "width ladder": dict(method="width", ratios=[0.25, 0.5, 0.75]),
    "feed-forward width": dict(method="width", ratios=[0.25]),
    "vocabulary": dict(ratios=[0.25]),
    "vocabulary ladder": dict(ratios=[0.1, 0.25]),
    "depth": dict(method="depth", decoder_layers=[[1]]),
    "depth ladder": dict(method="depth", decoder_layers=[[1], [1]], encoder_layers=[1, 2]),
}
"""What the tests partition by: by name, fields of `PartitionConfig`. `FEED_FORWARD` leaves queries and keys alone, and
the decoders of cores by depth begin with their second layer, but for T5, which needs its first. "vocabulary" is the
vocabulary tables beside what "rank" has. There is also a "composition" of three ladders: by depth, of narrower
feed-forward layers, and of queries and keys of low rank."""

FEED_FORWARD = {"t5": ["wi", "wo"], "mt5": ["wi_0", "wi_1", "wo"]}
QUERIES_AND_KEYS = {family: ["q", "k"] if family in ("t5", "mt5") else ["q_proj", "k_proj"] for family in ALL_FAMILIES}
FEED_FORWARD |= {family: ["fc1", "fc2"] for family in ALL_FAMILIES if family not in FEED_FORWARD}
"""By family, the suffixes of the feed-forward layers, which a stock class can have narrower."""

_SHARED = dict(
    vocab_size=VOCABULARY,
    d_model=32,
    encoder_layers=2,
    decoder_layers=2,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    encoder_ffn_dim=64,
    decoder_ffn_dim=64,
    max_position_embeddings=64,
    dropout=0.0,
    attention_dropout=0.0,
    activation_dropout=0.0,
    encoder_layerdrop=0.0,
    decoder_layerdrop=0.0,
    forced_eos_token_id=None,
)
_T5 = dict(
    vocab_size=VOCABULARY,
    d_model=32,
    d_kv=8,
    d_ff=64,
    num_layers=2,
    num_decoder_layers=2,
    num_heads=4,
    dropout_rate=0.0,
    pad_token_id=0,
    eos_token_id=1,
    decoder_start_token_id=0,
)
_MARIAN_IDS = dict(pad_token_id=VOCABULARY - 1, decoder_start_token_id=VOCABULARY - 1, eos_token_id=0)
_FAIRSEQ_IDS = dict(pad_token_id=1, bos_token_id=0, eos_token_id=2, decoder_start_token_id=2)
_PEGASUS_IDS = dict(pad_token_id=0, eos_token_id=1, decoder_start_token_id=0)

_TINY = {
    "marian": (MarianMTModel, MarianConfig, _SHARED | _MARIAN_IDS | dict(scale_embedding=True)),
    "bart": (BartForConditionalGeneration, BartConfig, _SHARED | _FAIRSEQ_IDS),
    "mbart": (MBartForConditionalGeneration, MBartConfig, _SHARED | _FAIRSEQ_IDS),
    "m2m_100": (M2M100ForConditionalGeneration, M2M100Config, _SHARED | _FAIRSEQ_IDS),
    "pegasus": (PegasusForConditionalGeneration, PegasusConfig, _SHARED | _PEGASUS_IDS),
    "t5": (T5ForConditionalGeneration, T5Config, _T5),
    "mt5": (MT5ForConditionalGeneration, MT5Config, _T5),
}


def tiny_config(family: str, **overrides):
    """The config of a model with 2 + 2 layers of width 32, feed-forward 64, 4 heads, 96 words, no dropout."""
    if family not in _TINY:
        raise ValueError(f"family={family!r}; write one of {ALL_FAMILIES}.")
    _, config_class, fields = _TINY[family]
    return config_class(**(fields | overrides))


def tiny_model(family: str, seed: int = 0, **overrides):
    """A model whose biases and norms are moved off their neutral start, so that losing one shows; in eval mode."""
    torch.manual_seed(seed)
    model = _TINY[family][0](tiny_config(family, **overrides))
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.requires_grad:  # a table of positions, which no checkpoint holds
                continue
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
            else:
                parameter.mul_(1.0 if family in ("t5", "mt5") else 4.0)
    return model.eval()


def partition_of(family: str, partition: str, **fields) -> PartitionConfig | Composition:
    """A configuration of `PARTITIONS` for an architecture, with other fields where given; or the composition."""
    if partition == "composition":
        ladder = dict(ratios=[0.25, 0.5])
        return Composition(
            [
                partition_of(family, "depth ladder"),
                partition_of(family, "feed-forward width", **ladder),
                partition_of(family, "rank", target_modules=QUERIES_AND_KEYS[family], **ladder),
            ]
        )
    if partition == "feed-forward width":
        fields = {"target_modules": FEED_FORWARD[family]} | fields
    if partition.startswith("vocabulary"):
        layers = [*QUERIES_AND_KEYS[family], *FEED_FORWARD[family]]
        fields = {"target_modules": [*layers, "embeddings"]} | fields
    if partition.startswith("depth") and family in ("t5", "mt5"):
        fields = {"decoder_layers": [[0] for _ in PARTITIONS[partition]["decoder_layers"]]} | fields
    return PartitionConfig(**(PARTITIONS[partition] | fields))


def partitioned(
    family: str = "marian",
    partition: str | PartitionConfig | Composition = "rank",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **overrides,
):
    """A tiny partitioned model in eval mode, by a name of `PARTITIONS` or a configuration of one's own.

    Further arguments are fields of the model's config.
    """
    config = partition_of(family, partition) if isinstance(partition, str) else partition
    return partition_(tiny_model(family, seed, **overrides).to(dtype), config)


def tiny_resnet(seed: int = 0):
    """Two stages of 8 and 16 channels for 5 classes, with batch statistics of their own; in training mode."""
    torch.manual_seed(seed)
    sizes = dict(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    model = ResNetForImageClassification(ResNetConfig(**sizes, layer_type="basic", num_labels=5))
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "normalization" in name and tensor.is_floating_point():
                tensor.add_(0.3 * torch.rand_like(tensor))
    return model


def probe_batch(model, n: int = 3, source: int = 7, target: int = 5, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random ids without padding; input_ids and attention_mask `(n, source)`, decoder_input_ids `(n, target)`."""
    generator = torch.Generator().manual_seed(seed)

    def ids(length):
        return torch.randint(3, VOCABULARY - 1, (n, length), generator=generator)

    return {
        "input_ids": ids(source),
        "attention_mask": torch.ones(n, source, dtype=torch.long),
        "decoder_input_ids": ids(target),
    }


def training_batch(n: int = 4, source: int = 7, target: int = 6, seed: int = 0) -> dict[str, torch.Tensor]:
    """A padded batch as a collator makes it, with labels of unequal lengths (-100 where there is none)."""
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(3, VOCABULARY - 1, (n, source), generator=generator)
    labels = torch.randint(3, VOCABULARY - 1, (n, target), generator=generator)
    for row in range(n):
        labels[row, target - row % 3 :] = -100
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "labels": labels}


def pictures(number: int = 4, seed: int = 0) -> list[dict]:
    """Random images of 8 x 8 with labels of `tiny_resnet`, as a data set has them."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(number, 3, 8, 8, generator=generator)
    labels = torch.randint(5, (number,), generator=generator)
    return [{"pixel_values": p, "labels": int(label)} for p, label in zip(pixels, labels, strict=True)]
