"""What to partition, and how: the configuration that travels with every partitioned model."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

METHODS = ("rank",)
INITS = ("svd", "random")


@dataclass
class PartitionConfig:
    """How `partition_` splits the linear layers of a network into a core and the rest.

    Args:
        method (`str`, defaults to `"rank"`): `"rank"` gives each layer a low-rank core `V U` beside its full-rank
            weight `W`, `LFC(x) = (V U + W) x + b` (Section 4.1 of the paper).
        ratios (`list[float]`, defaults to `[0.03125]`): rank ratios in (0, 1), increasing. A layer's core has rank
            `max(1, round(ratio * min(in_features, out_features)))`. Several ratios make a ladder of nested cores,
            one level each; the full network is the level above the last.
        target_modules (`list[str]` or `str`, *optional*): which `nn.Linear` modules to partition, by PEFT's rules: a
            list names whole dotted suffixes (`"fc1"` matches `encoder.layers.0.fc1`, not `encoder.layers.0.xfc1`), a
            string is a regular expression that matches the whole dotted name. `None` takes the preset of the
            architecture; for Marian these are the paper's layers, `q_proj`, `k_proj`, `fc1` and `fc2`.
        exclude_modules (`list[str]` or `str`, *optional*): modules to leave alone although `target_modules` names
            them, by the same rules.
        init (`str`, defaults to `"svd"`): start of the factors. `"svd"`: `V U` is the best approximation of the given
            weight by its rank. `"random"`: Gaussian factors whose product has the given weight's mean square. In both
            cases `W` is what remains, so the full network computes what it computed before (law 3).

    Raises:
        ValueError: an argument is out of its range; the message says what to write instead.

    Example:

    ```python
    >>> PartitionConfig(ratios=[0.03125, 0.25], target_modules=["fc1", "fc2"])
    ```
    """

    method: str = "rank"
    ratios: Sequence[float] = (0.03125,)
    target_modules: Sequence[str] | str | None = None
    exclude_modules: Sequence[str] | str | None = None
    init: str = "svd"

    def __post_init__(self):
        if self.method not in METHODS:
            raise ValueError(f"method={self.method!r} is not known; write one of {', '.join(map(repr, METHODS))}.")
        if self.init not in INITS:
            raise ValueError(f"init={self.init!r} is not known; write one of {', '.join(map(repr, INITS))}.")
        self.ratios = self._checked_ratios(self.ratios)
        for name in ("target_modules", "exclude_modules"):
            setattr(self, name, self._checked_pattern(name, getattr(self, name)))

    @staticmethod
    def _checked_ratios(ratios) -> list[float]:
        if isinstance(ratios, (int, float)):
            raise ValueError(f"ratios={ratios!r} is a single number; write a list, ratios=[{ratios}].")
        ratios = [float(ratio) for ratio in ratios]
        if not ratios:
            raise ValueError("ratios=[] names no core; write at least one ratio, such as ratios=[0.03125].")
        for ratio in ratios:
            if not 0 < ratio < 1:
                raise ValueError(
                    f"ratios={ratios} holds {ratio}, which is not between 0 and 1; a core keeps a share of the rank, "
                    "such as 0.03125 or 0.25 (the full network is always there and is not listed)."
                )
        if any(later <= earlier for earlier, later in pairwise(ratios)):
            raise ValueError(
                f"ratios={ratios} must increase strictly, from the smallest core to the largest; write "
                f"ratios={sorted(set(ratios))}."
            )
        return ratios

    @staticmethod
    def _checked_pattern(name: str, pattern) -> list[str] | str | None:
        if pattern is None:
            return None
        if isinstance(pattern, str):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(
                    f"{name}={pattern!r} is a string, hence a regular expression, and does not compile ({error}); "
                    f"to name one module write a list, {name}=[{pattern!r}]."
                ) from None
            return pattern
        pattern = list(pattern)
        if not pattern:
            raise ValueError(f"{name}=[] names no module; write None to leave it open.")
        return pattern

    @classmethod
    def from_flags(cls, **fields) -> "PartitionConfig":
        r"""A configuration from command-line flags, where every pattern is a list of words.

        A single word that is no dotted name (`model\.encoder\..*fc1`) is a regular expression; names stay a list.
        """
        for name in ("target_modules", "exclude_modules"):
            words = fields.get(name)
            if words and len(words) == 1 and not re.fullmatch(r"[\w.]+", words[0]):
                fields[name] = words[0]
        return cls(**fields)

    def to_dict(self) -> dict:
        """A JSON-ready dictionary of all fields."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict) -> "PartitionConfig":
        """The configuration that `to_dict` wrote."""
        return cls(**fields)

    def rank(self, ratio: float, in_features: int, out_features: int) -> int:
        """The rank of a layer's core at `ratio` (Section 4.1): `max(1, round(ratio * min(in, out)))`."""
        return max(1, round(ratio * min(in_features, out_features)))
