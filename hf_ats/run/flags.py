"""The flags of a run: the model, the data, the cores, and the training."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from ..data import RULES
from ..partition import INITS, ROLES, Composition, PartitionConfig
from ..training import ATSSeq2SeqTrainingArguments
from .architectures import ARCHITECTURES
from .card_flags import CardArguments
from .recipes import FlagParser


@dataclass
class ModelArguments:
    """Which model to train."""

    _argument_group_name = "the model"

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "A pretrained sequence-to-sequence model: a directory or an id of the Hub."}
    )
    adapter_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "A LoRA adapter for that model (default: for the one that it names itself), whose A and B become "
            "the core's U and V: the partitioned model begins as the adapted one. Instead of --ratios and the "
            "other flags of the partition."
        },
    )
    calibration_sentences: str | None = field(
        default=None,
        metadata={
            "help": "Source text, a hundred sentences or so, one a line, that a pretrained model translates first: "
            "cores of --init svd and importance then begin as what changes its layers' outputs on them least, instead "
            "of from the weights alone. Only a new run reads it."
        },
    )
    architecture: str | None = field(
        default=None,
        metadata={
            "help": "A Marian model from scratch instead, with a tokenizer of its own: tiny, or the sizes of the "
            "paper's Table 4 (default: tiny).",
            "choices": list(ARCHITECTURES),
        },
    )
    layers: int | None = field(default=None, metadata={"help": "Replaces the architecture's layers, in each half."})
    width: int | None = field(default=None, metadata={"help": "Replaces the architecture's width."})
    feed_forward: int | None = field(
        default=None, metadata={"help": "Replaces the architecture's feed-forward width."}
    )
    heads: int | None = field(default=None, metadata={"help": "Replaces the architecture's attention heads."})
    dropout: float | None = field(default=None, metadata={"help": "Dropout (default: the model's own)."})
    vocab_size: int | None = field(
        default=None,
        metadata={"help": "Pieces of a tokenizer from scratch (default: 8000; 500 for the generated corpus)."},
    )
    separate_vocabularies: bool = field(
        default=False, metadata={"help": "A vocabulary for each language (default: one for both)."}
    )
    source_normalization_rule_name: str | None = field(
        default=None,
        metadata={
            "help": "What a tokenizer from scratch does to sources before it splits them. 'nfc' (default): accents "
            "are composed, blanks of every kind become the usual one, control characters vanish, and all else stays. "
            "Rules of sentencepiece: 'nmt_nfkc' and 'nfkc' make 10² into 102, ½ into 1⁄2, and full-width letters "
            "narrow; with '_cf' capitals become small as well; 'identity' does nothing.",
            "choices": list(RULES),
        },
    )
    target_normalization_rule_name: str | None = field(
        default=None,
        metadata={
            "help": "The same for targets (default: nfc). The model can write only what the rule leaves: with "
            "nmt_nfkc never ², ½, … or full-width forms.",
            "choices": list(RULES),
        },
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "eager or sdpa, as in from_pretrained (default: the library's choice)."}
    )

    def facts(self) -> dict:
        """Return what results.json says of the model: its `name`, and every flag that is set."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        return {"name": self.model_name_or_path or self.architecture, **given}


@dataclass
class DataArguments:
    """The data to train on."""

    _argument_group_name = "the data"

    source_lang: str = field(default="de", metadata={"help": "Language of the source: a key of the data, a suffix."})
    target_lang: str = field(default="en", metadata={"help": "Language of the target."})
    dataset_name: str | None = field(
        default=None, metadata={"help": "A data set with a column `translation`: an id of the Hub or a directory."}
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Its configuration, such as de-en."})
    train_prefix: str | None = field(
        default=None,
        metadata={
            "help": "Text files instead: PREFIX.de and PREFIX.en, or these with .txt; or one file, .jsonl or .tsv, "
            "whose two columns are source and target. Each plain or packed (.gz, .xz, .bz2)."
        },
    )
    validation_prefix: str | None = field(default=None, metadata={"help": "The same for validation during training."})
    test_prefix: str | None = field(default=None, metadata={"help": "The same for the scores at the end."})
    skip_bad_lines: bool = field(default=False, metadata={"help": "Leave out bad pairs and count them."})
    long_sentences: str = field(
        default="error",
        metadata={
            "help": "Sentences over the limits: 'error' stops before training; 'skip' leaves the pair out of training "
            "and validation; 'truncate' cuts it. No sentence of the test part is left out, so that scores are over "
            "the whole set: both 'skip' and 'truncate' cut what is more than the model has positions for.",
            "choices": ["error", "skip", "truncate"],
        },
    )
    max_source_length: int | None = field(
        default=None,
        metadata={
            "help": "Most tokens of a source in training and validation (default: the tokenizer's limit or the "
            "model's positions, whichever is less)."
        },
    )
    max_target_length: int | None = field(default=None, metadata={"help": "Most tokens of a target, likewise."})
    source_prefix: str | None = field(
        default=None,
        metadata={"help": "Text before every source, which T5 needs; kept in the exports (default: the model's own)."},
    )
    tokenizer_source_lang: str | None = field(
        default=None, metadata={"help": "Code of the source language in a multilingual tokenizer, such as deu_Latn."}
    )
    tokenizer_target_lang: str | None = field(default=None, metadata={"help": "The same for the target language."})
    bleu_tokenizer: str | None = field(
        default=None,
        metadata={
            "help": "sacreBLEU's tokenizer (default: by the target language, as sacreBLEU chooses: zh for Chinese, "
            "ja-mecab or ko-mecab where installed, char for other languages without blanks, else 13a)."
        },
    )
    speed_sentences: int = field(
        default=200, metadata={"help": "Test sentences to measure the decoding speed on; 0 leaves it out."}
    )

    def facts(self, corpus: dict, scored: str) -> dict:
        """Return what results.json says of the data: where they are from, and the number of pairs in each part.

        Args:
            corpus: the parts by name.
            scored: the part that the networks are scored on.
        """
        facts = {"name": self.dataset_name or self.train_prefix or "embedded default corpus"}
        if self.dataset_config_name:
            facts["config"] = self.dataset_config_name
        if self.test_prefix and scored == "test":
            facts["test_name"] = Path(self.test_prefix).name
        return facts | {part: len(pairs) for part, pairs in corpus.items()}


@dataclass
class PartitionArguments:
    """The cores of the model."""

    _argument_group_name = "the partition"

    method: str | None = field(
        default=None,
        metadata={
            "help": "How layers are partitioned. 'rank' (default): a core of low-rank factors beside every weight; "
            "'width': a core of fewer feed-forward neurons and query and key dimensions; 'depth' (default with "
            "--decoder_layers or --encoder_layers): a core of fewer layers; 'none' leaves the model as it is, for "
            "standard training with --schedule full.",
            "choices": [*INITS, "none"],
        },
    )
    ratios: list[float] | None = field(
        default=None,
        metadata={
            "help": "Sizes of the cores, increasing, each in (0, 1): the share of the rank, or by width of the "
            "neurons and of each head's dimensions (default: 0.03125)."
        },
    )
    ranks: list[str] | None = field(
        default=None,
        metadata={
            "help": "The rank of each module's core itself, instead of --ratios and --target_modules: a suffix "
            "of names and a rank each, as fc1=16 decoder.layers.5.fc1=64."
        },
    )
    target_modules: list[str] | None = field(
        default=None,
        metadata={
            "help": "Layers to partition: suffixes of their names, or one regular expression (default: a preset of "
            "the architecture). By rank, 'embeddings' means the vocabulary tables. By width, 'fc1 fc2' gives a core "
            "of the stock architecture, and 'up=out down=in' says "
            f"for an architecture without a preset what is narrower in each layer: {', '.join(ROLES)}."
        },
    )
    exclude_modules: list[str] | None = field(default=None, metadata={"help": "Layers not to partition, likewise."})
    init: str | None = field(
        default=None,
        metadata={
            "help": "Start of the cores. By rank, 'svd': the best approximation of the weights (default), or "
            "'random'; by width, 'first': what comes first (default), or 'importance': what weighs most. See also "
            "--calibration_sentences.",
            "choices": [init for inits in INITS.values() for init in inits],
        },
    )
    decoder_layers: list[str] | None = field(
        default=None,
        metadata={
            "help": "How many decoder layers each core keeps, evenly spaced, as 1 2; or the indices of a core's "
            "layers in one word, as 0,5 (of a single layer 0,). Beside --method rank or width, a core is smaller in "
            "both ways (default: all)."
        },
    )
    encoder_layers: list[str] | None = field(
        default=None, metadata={"help": "The same for the encoder; with both, one word of each for every core."}
    )
    partitions: list[str] | None = field(
        default=None,
        metadata={
            "help": "Several partitions as one ladder, instead of the flags above: a JSON object of the fields of "
            "PartitionConfig for each, or in a recipe a list of mappings. All have as many cores, and no two name the "
            "same module."
        },
    )

    core_parameters: int | None = field(
        default=None,
        metadata={
            "help": "How many parameters the export of the smallest core must have, as a plan of hf-ats plan says; "
            "another number ends the run before training (default: any)."
        },
    )

    def config(self) -> PartitionConfig | Composition | None:
        r"""Return the partition that the words of the command line describe; None for method "none".

        A single word that is not a dotted name (`model\.encoder\..*fc1`) is a regular expression; names stay a list.
        Words that all have an equals sign (`up=out down=in`) give layers roles. The words of `ranks` are a name and a
        rank each (`fc1=16 q_proj=8`), those of layers a number (`1 2`) or indices (`0,5`).

        Raises:
            ValueError: a word is none of these; or as `PartitionConfig` and `Composition`.
        """
        fields = dict(vars(self))
        del fields["core_parameters"]
        given = [name for name, value in fields.items() if value is not None]
        if fields.pop("partitions") is not None:
            if given != ["partitions"]:
                raise ValueError(
                    f"--partitions are the whole partition, and --{given[0]} is a part; leave one of them out."
                )
            try:
                return _composed([_fields_of(word) for word in self.partitions])
            except TypeError as error:
                raise ValueError(
                    f"--partitions {' '.join(self.partitions)} are not as PartitionConfig takes them ({error}); write "
                    "texts, numbers and lists as its documentation does."
                ) from None
        depth = {name: _layers(name, fields.pop(name)) for name in ("decoder_layers", "encoder_layers")}
        by_depth = any(levels is not None for levels in depth.values())
        fields["method"] = self.method or ("depth" if by_depth else "rank")
        if self.method == "none":
            if by_depth:
                raise ValueError("--method none leaves the model whole; leave out what a core keeps of its layers.")
            return None
        for name in ("target_modules", "exclude_modules"):
            words = fields[name]
            if words and len(words) == 1 and not re.fullmatch(r"[\w.]+", words[0]):
                fields[name] = words[0]
        targets = self.target_modules
        if targets and all(re.fullmatch(r"[\w.]+=\w+", word) for word in targets):
            fields["target_modules"] = dict(word.split("=") for word in targets)
        if self.ranks is not None:
            fields["ranks"] = _ranks(self.ranks)
        if fields["method"] == "depth":
            return _composed([fields | depth])
        return _composed([fields, *([{"method": "depth"} | depth] if by_depth else [])])


def _composed(parts: list[dict]) -> PartitionConfig | Composition:
    configs = [PartitionConfig(**part) for part in parts]
    return configs[0] if len(configs) == 1 else Composition(configs)


def _fields_of(word: str) -> dict:
    """Return the fields of a `PartitionConfig` that a word of `--partitions` gives."""
    try:
        part = json.loads(word)
    except ValueError:
        part = None
    known = [one.name for one in fields(PartitionConfig)]
    if not isinstance(part, dict) or not set(part) <= set(known) or not isinstance(part.get("ratios", []), list):
        raise ValueError(
            f"--partitions holds {word!r}, which is not a JSON object of the fields {', '.join(known)}; write such as "
            """'{"method": "depth", "decoder_layers": [1]}' '{"method": "width", "ratios": [0.5]}'."""
        )
    return part


def _layers(name: str, words: list[str] | None) -> list[int | list[int]] | None:
    """Return the numbers of layers, and lists of their indices, that words give."""
    if words is None:
        return None
    bad = next((word for word in words if not re.fullmatch(r"\d+|(\d+,)+\d*", word)), None)
    if bad is not None:
        raise ValueError(
            f"--{name} holds {bad!r}; write a number of layers for each core, such as 1 2, or indices, such as 0,5."
        )
    return [[int(index) for index in word.split(",") if index] if "," in word else int(word) for word in words]


def _ranks(words: list[str]) -> dict[str, int]:
    for word in words:
        if not re.fullmatch(r"[\w.]+=\d+", word):
            raise ValueError(f"ranks={words} holds {word!r}; write a name and its rank, such as fc1=16.")
    names = [word.split("=")[0] for word in words]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"ranks={words} gives {twice} twice; give each name one rank.")
    return {name: int(rank) for name, rank in (word.split("=") for word in words)}


# The flags that a pretrained model takes the place of.
_TOKENIZER = ["vocab_size", "separate_vocabularies"]
_TOKENIZER += ["source_normalization_rule_name", "target_normalization_rule_name"]
_SHAPE = ["architecture", "layers", "width", "feed_forward", "heads", *_TOKENIZER]


def parse_flags(description: str, argv: Sequence[str] | None = None):
    """Read the flags of the training script.

    Args:
        description: what `--help` shows above them.
        argv: the words of the command line; by default those that this process was called with.

    Returns:
        `(ModelArguments, DataArguments, PartitionArguments, CardArguments, ATSSeq2SeqTrainingArguments, Recipe or
        None)`. A contradiction among the flags ends the program with a sentence.
    """
    groups = (ModelArguments, DataArguments, PartitionArguments, CardArguments, ATSSeq2SeqTrainingArguments)
    parser = FlagParser(groups, description)
    model_args, data_args, partition_args, card_args, args, recipe = parser.parse(argv)
    for name in ("layers", "width", "feed_forward", "heads", "vocab_size"):
        size = getattr(model_args, name)
        if size is not None and size < 1:
            parser.error(f"--{name} {size} is not a size; write 1 or more, or leave it out.")
    if model_args.dropout is not None and not 0 <= model_args.dropout < 1:
        parser.error(f"--dropout {model_args.dropout} is not a share; write 0 or more, and less than 1.")
    values = vars(model_args) | vars(partition_args)
    partition = [one.name for one in fields(PartitionArguments)]
    for source, brought in (
        ("model_name_or_path", _SHAPE),
        ("adapter_name_or_path", [*_SHAPE, *partition, "calibration_sentences"]),
    ):
        for name in brought:
            if values[source] is not None and name in parser.given and values[name]:
                value = values[name] if not isinstance(values[name], list) else " ".join(map(str, values[name]))
                parser.error(
                    f"--{name} {value}, but --{source} {values[source]} brings its own; leave one of them out."
                )
    if model_args.model_name_or_path is None and model_args.adapter_name_or_path is None:
        if model_args.calibration_sentences is not None:
            parser.error(
                f"--calibration_sentences {model_args.calibration_sentences} are shown to a pretrained model, and one "
                "from scratch has learned nothing; give --model_name_or_path, or leave them out."
            )
        model_args.architecture = model_args.architecture or "tiny"
    return model_args, data_args, partition_args, card_args, args, recipe
