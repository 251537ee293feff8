"""What to partition, and how: the configuration that travels with every partitioned model."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise

INITS = {"rank": ("svd", "random"), "width": ("first", "importance"), "depth": ()}
"""The methods, and the starts of each that a user can choose; the first is its default."""

ADAPTER = "adapter"
"""The start of cores that `partition_from_adapter_` took over from a LoRA adapter."""

EMBEDDINGS = "embeddings"
"""The target module that means a model's vocabulary tables, whatever its embeddings and output head are called."""

ROLES = ("out", "in", "both", "heads", "filled_heads", "norm")
"""What is narrower in a layer of the core: its outputs, its inputs, both, the outputs of each attention head (filled
up with zeros or not), or, of a batch normalization, its channels."""


@dataclass
class PartitionConfig:
    """How `partition_` splits the layers of a network into a core and the rest.

    Args:
        method (`str`, defaults to `"rank"`): `"rank"` gives each linear layer a low-rank core `V U` beside its
            full-rank weight `W`, `LFC(x) = (V U + W) x + b` (Section 4.1 of the paper). `"width"` gives the core a
            share of the feed-forward neurons and of the query and key dimensions in each head (Section 4.2 and
            Appendix C), or of the channels of a convolutional network, with a batch normalization for each level.
            `"depth"` gives the core some of the layers of the decoder, of the encoder, or of both.
        ratios (`list[float]`, defaults to `[0.03125]`, and to none beside `ranks` or by depth): ratios in (0, 1),
            increasing. By rank, a layer's core has rank `max(1, round(ratio * min(in_features, out_features)))`; by
            width, `max(1, round(ratio * n))` of `n` neurons, dimensions of a head, or channels. Several ratios make a
            ladder of nested cores, one level each; the full network is the level above the last.
        target_modules (`list[str]` or `str`, *optional*): which modules to partition, by PEFT's rules: a list names
            whole dotted suffixes (`"fc1"` matches `encoder.layers.0.fc1`, not `encoder.layers.0.xfc1`), a string is a
            regular expression that matches the whole dotted name. `None` takes the preset of the architecture; for
            Marian these are the paper's layers, `q_proj`, `k_proj`, `fc1` and `fc2`. By width, `["fc1", "fc2"]` gives
            a core of the stock architecture; and for architectures without a preset a dictionary says what is
            narrower in each layer: `{"up": "out", "down": "in"}`, with the roles of `ROLES`. By rank, `"embeddings"`
            in a list means the vocabulary tables: lookups and the projection to the vocabulary, which go on sharing a
            table that they share.
        exclude_modules (`list[str]` or `str`, *optional*): modules to leave unpartitioned although `target_modules`
            names them, by the same rules.
        init (`str`, *optional*): start of the cores. By rank, `"svd"` (the default): `V U` is the best approximation
            of the given weight by its rank; `"random"`: Gaussian factors whose product has the given weight's mean
            square. In both cases `W` is what remains. By width, `"first"` (the default): the core keeps the neurons
            and dimensions that come first; `"importance"`: those whose weights are largest (the product of the norms
            of what goes in and what comes out) are put first, for a pretrained Transformer. With the `moments` of
            `partition_`, `"svd"` and `"importance"` keep what changes the outputs on a text least, instead of the
            weights. The full network always computes what it computed before (law 3). `"adapter"` is what
            `partition_from_adapter_` writes.
        ranks (`dict[str, int]`, *optional*): the rank of each module's core itself, in place of `ratios` and
            `target_modules`: maps whole dotted suffixes, as in the list of `target_modules`, to ranks; the longest
            suffix that matches a name decides. `{"fc1": 16, "decoder.layers.5.fc1": 64}` gives one `fc1` another rank
            than the rest. There is then one core.
        decoder_layers (`list[int]` or `list[list[int]]`, *optional*): by depth, how many layers of the decoder each
            core keeps, or their indices. A number is taken evenly spaced from the layers of the next larger core, the
            first and (but of 1) the last included: of 6 layers `[1, 2]` is `[[0], [0, 5]]`. The cores are nested.
            `None` keeps all.
        encoder_layers (`list[int]` or `list[list[int]]`, *optional*): the same of the encoder; with both, one entry of
            each for every core. The first layer of T5, whose position bias all others read, cannot be left out.
        tables (`list[list[str]]`, *optional*): written by `partition_`: the modules that share each vocabulary table.

    Raises:
        ValueError: an argument is out of its range; the message says what to write instead.

    Example:

    ```python
    >>> PartitionConfig(ratios=[0.03125, 0.25], target_modules=["fc1", "fc2"])
    >>> PartitionConfig(ranks={"q_proj": 8, "k_proj": 8, "fc1": 32})
    >>> PartitionConfig(method="width", ratios=[0.25], target_modules=["fc1", "fc2"], init="importance")
    >>> PartitionConfig(method="depth", decoder_layers=[1, 2])
    ```
    """

    method: str = "rank"
    ratios: Sequence[float] | None = None
    target_modules: Sequence[str] | str | dict[str, str] | None = None
    exclude_modules: Sequence[str] | str | None = None
    init: str | None = None
    ranks: dict[str, int] | None = None
    decoder_layers: Sequence[int | Sequence[int]] | None = None
    encoder_layers: Sequence[int | Sequence[int]] | None = None
    tables: list[list[str]] | None = field(default=None, compare=False)

    def __post_init__(self):
        if self.method not in INITS:
            raise ValueError(f"method={self.method!r} is not known; write one of {', '.join(map(repr, INITS))}.")
        if self.method == "depth" or self.decoder_layers is not None or self.encoder_layers is not None:
            self._check_depth()
            self.ratios = []
            return
        if self.init is None:
            self.init = INITS[self.method][0]
        starts = ", ".join(map(repr, INITS[self.method]))
        if self.init == ADAPTER and self.ranks is None:
            raise ValueError(
                f"init={ADAPTER!r} is how partition_from_adapter_(model, adapter) starts, with the adapter's ranks; "
                f"call that, or write one of {starts}."
            )
        if self.init not in (*INITS[self.method], ADAPTER):
            raise ValueError(f"init={self.init!r} is not a start of method={self.method!r}; write one of {starts}.")
        if self.ranks is not None:
            self._check_ranks()
            self.ratios = []
        else:
            self.ratios = self._checked_ratios()
        if isinstance(self.target_modules, dict):
            self._check_roles()
        else:
            self.target_modules = self._checked_pattern("target_modules", self.target_modules)
        self.exclude_modules = self._checked_pattern("exclude_modules", self.exclude_modules)
        targets = self.target_modules
        if self.method != "rank" and not isinstance(targets, str) and EMBEDDINGS in (targets or ()):
            raise ValueError(
                f"target_modules names {EMBEDDINGS!r}, the vocabulary tables, whose cores are of low rank, and this "
                f"is method={self.method!r}; leave it out, or give it to a second partition beside this one, "
                f"PartitionConfig('rank', ..., target_modules=[{EMBEDDINGS!r}])."
            )

    def _check_depth(self):
        if self.method != "depth":
            raise ValueError(
                f"{self.layers_given()} are those of method='depth', and this is method={self.method!r}; leave them "
                "out, or give them to a second partition beside this one, PartitionConfig(method='depth', ...)."
            )
        for name in ("ratios", "target_modules", "exclude_modules", "init", "ranks"):
            if getattr(self, name):
                raise ValueError(
                    f"{name}={getattr(self, name)!r} says nothing of method='depth', whose cores keep whole layers; "
                    "leave it out, or give it to a second partition beside this one, by rank or width (on the command "
                    "line --method rank or width)."
                )
        for name in ("decoder_layers", "encoder_layers"):
            setattr(self, name, self._checked_layers(name, getattr(self, name)))
        given = [levels for levels in (self.decoder_layers, self.encoder_layers) if levels is not None]
        if not given:
            raise ValueError("method='depth' keeps layers; say how many, such as decoder_layers=[1].")
        if len({len(levels) for levels in given}) > 1:
            raise ValueError(
                f"{self.layers_given()} differ in the number of cores; write an entry for each core in both."
            )

    @staticmethod
    def _checked_layers(name: str, levels) -> list | None:
        if levels is None:
            return None

        def is_fit(one) -> bool:
            if not isinstance(one, (list, tuple)):
                return type(one) is int and one >= 1
            numbers = [-1, *one]
            return len(one) > 0 and all(type(n) is int for n in one) and all(a < b for a, b in pairwise(numbers))

        if not isinstance(levels, (list, tuple)) or not levels or not all(map(is_fit, levels)):
            raise ValueError(
                f"{name}={levels!r} must have an entry for each core, a number of layers from 1 or a list of their "
                f"indices, which increase from 0; write such as {name}=[1, 2] or {name}=[[0], [0, 5]]."
            )
        return [one if isinstance(one, int) else list(one) for one in levels]

    def layers_given(self) -> str:
        """Return the arguments that say which layers are kept, as they are written."""
        names = [name for name in ("decoder_layers", "encoder_layers") if getattr(self, name) is not None]
        return " and ".join(f"{name}={getattr(self, name)}" for name in names)

    def _check_roles(self):
        if self.method != "width":
            raise ValueError(
                f"target_modules={self.target_modules!r} gives layers roles, which method='width' knows; with "
                f"method={self.method!r} write a list, target_modules={list(self.target_modules)}."
            )
        for suffix, role in self.target_modules.items():
            if role not in ROLES:
                raise ValueError(
                    f"target_modules gives {suffix!r} the role {role!r}; write one of {', '.join(map(repr, ROLES))}."
                )

    def _check_ranks(self):
        if self.method != "rank":
            raise ValueError(
                f"ranks={self.ranks!r} are those of method='rank'; with method={self.method!r} write ratios, such as "
                "ratios=[0.25]."
            )
        for other in ("ratios", "target_modules"):
            if getattr(self, other):
                raise ValueError(
                    f"ranks={self.ranks!r} say which modules get which rank, and so do "
                    f"{other}={getattr(self, other)!r}; leave one of them out."
                )
        if not self.ranks or any(type(rank) is not int or rank < 1 for rank in self.ranks.values()):
            raise ValueError(
                f"ranks={self.ranks!r} must give modules whole numbers of at least 1; write such as "
                "ranks={'fc1': 16, 'q_proj': 8}."
            )

    def _checked_ratios(self) -> list[float]:
        ratios = [0.03125] if self.ratios is None else [float(ratio) for ratio in self.ratios]
        if not ratios or not all(earlier < later for earlier, later in pairwise([0, *ratios, 1])):
            raise ValueError(
                f"ratios={ratios} must lie between 0 and 1 and increase strictly, from the smallest core to the "
                "largest; write such as ratios=[0.03125, 0.25] (the full network is always there and is not listed)."
            )
        return ratios

    @staticmethod
    def _checked_pattern(name: str, pattern) -> list[str] | str | None:
        if not isinstance(pattern, str):
            return pattern if pattern is None else list(pattern)
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"{name}={pattern!r} is a string, hence a regular expression, and does not compile ({error}); "
                f"to name one module write a list, {name}=[{pattern!r}]."
            ) from None
        return pattern

    def to_dict(self) -> dict:
        """Return a JSON-ready dictionary of the fields, which are the arguments of the constructor.

        Those of depth are there only by depth, and `tables` only where there are some.
        """
        fields = asdict(self)
        if self.method != "depth":
            del fields["decoder_layers"], fields["encoder_layers"]
        if self.tables is None:
            del fields["tables"]
        return fields

    @property
    def has_embeddings(self) -> bool:
        """Whether the vocabulary tables are among the target modules."""
        named = self.target_modules if self.ranks is None else self.ranks
        return self.method == "rank" and not isinstance(named, str) and EMBEDDINGS in (named or ())

    @property
    def reads_moments(self) -> bool:
        """Whether cores can begin from what modules read on some text, instead of from the weights."""
        return self.init in ("svd", "importance")

    @property
    def parts(self) -> list["PartitionConfig"]:
        """The partition itself, as the only one of its composition."""
        return [self]

    @property
    def num_cores(self) -> int:
        """The number of nested cores, one level each below the full network."""
        return len(self.decoder_layers or self.encoder_layers or self.ratios) or 1  # one with ranks

    def width(self, ratio: float, size: int) -> int:
        """Return how many of `size` ranks, neurons, dimensions or channels remain: `max(1, round(ratio * size))`."""
        return max(1, round(ratio * size))


@dataclass
class Composition:
    """Several partitions of one model as one ladder: a level is that level of each of them.

    Args:
        parts (`list[PartitionConfig]`): at least two, with equally many cores.

    Raises:
        ValueError: there are fewer, or their numbers of cores differ.

    Example:

    ```python
    >>> Composition([PartitionConfig(ratios=[0.25]), PartitionConfig(method="depth", decoder_layers=[1])])
    ```
    """

    parts: Sequence[PartitionConfig]

    def __post_init__(self):
        self.parts = list(self.parts)
        if len(self.parts) < 2:
            raise ValueError(
                f"a composition of {len(self.parts)} partitions is none; give two or more, or a PartitionConfig alone."
            )
        if len({part.num_cores for part in self.parts}) > 1:
            numbers = ", ".join(f"method={part.method!r} has {part.num_cores}" for part in self.parts)
            raise ValueError(
                f"the partitions of one ladder have equally many cores, and here {numbers}; write as many ratios, or "
                "numbers of layers, in each."
            )

    def to_dict(self) -> dict:
        """Return a JSON-ready dictionary of the parts."""
        return {"parts": [part.to_dict() for part in self.parts]}

    @property
    def num_cores(self) -> int:
        """The number of nested cores, one level each below the full network."""
        return self.parts[0].num_cores


def partition_from_dict(fields: dict) -> PartitionConfig | Composition:
    """Return the partition whose `to_dict` gave these fields.

    Raises:
        TypeError: a field is unknown.
        ValueError: as `PartitionConfig` and `Composition`.
    """
    if "parts" in fields:
        return Composition([PartitionConfig(**part) for part in fields["parts"]])
    return PartitionConfig(**fields)
