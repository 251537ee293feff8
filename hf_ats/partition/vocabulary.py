"""The low-rank partition of vocabulary tables, which lookups and the projection to the vocabulary may share.

The table is `E = W + V U`, of shape `(vocabulary, width)`, with `V` `(vocabulary, k)` and `U` `(k, width)`:

                 lookup of ids                 projection of h  (..., width)
          |---------------.                    |---------------.
        V[ids] (..., k)  W[ids]              h U^T (..., k)   h W^T
          |               |                    |               |
        V[ids] U          |                  (h U^T) V^T       |
          |-- core --     |                    |-- core --     |
          |----- full ----+                    |----- full ----+

Each module that reads a table keeps `W` as its `weight`, tied as in the stock model. The factors are in one further
module at the root of the model, so that they are there once.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from .config import EMBEDDINGS, PartitionConfig
from .layers import PartitionedLayer
from .moments import InputMoments, Moments, moments_of
from .presets import PRESETS, find_by_model_type, matches
from .rank import LowRankSum, product_with_factors, split_weight, sum_of_products

_HOLDERS = ("shared", "embed_tokens", "lm_head")
"""What the architectures of the presets call the modules that read a vocabulary table."""


class VocabularyFactors(PartitionedLayer):
    """The factors of one table, which every module that reads it shares.

    Args:
        weight (`nn.Parameter`): the table, shape `(vocabulary, width)`; the factors get its device and dtype.
        ranks (`tuple[int, ...]`): the rank of each core level, strictly increasing.

    The constructor leaves the parameters uninitialised; `split_` and `load_state_dict` fill them.

    Attributes:
        U: the shares of the factor on the side of the width; share `i` has shape `(ranks[i] - ranks[i-1], width)`.
        V: those on the side of the vocabulary, share `i` of shape `(vocabulary, ranks[i] - ranks[i-1])`.
    """

    def __init__(self, weight: nn.Parameter, ranks: tuple[int, ...]):
        super().__init__()
        self.ranks = tuple(ranks)
        self.level = len(self.ranks)
        rows, width = weight.shape
        like = dict(device=weight.device, dtype=weight.dtype)
        shares = [after - before for before, after in zip((0, *ranks), ranks, strict=False)]
        self.U = nn.ParameterList([nn.Parameter(torch.empty(share, width, **like)) for share in shares])
        self.V = nn.ParameterList([nn.Parameter(torch.empty(rows, share, **like)) for share in shares])
        for share in self.V:  # what is kept off a row of the table, such as <pad>, is kept off that of V too
            for hook in (weight._post_accumulate_grad_hooks or {}).values():
                share.register_post_accumulate_grad_hook(hook)

    def split_(self, weight: nn.Parameter, init: str, moments: InputMoments | None = None) -> None:
        """Fill the factors, and take their product from `weight`, in place; a row of zeros, as of `<pad>`, stays."""
        split_weight(weight, weight, self.U, self.V, init, moments, keeps_zero_rows=True)

    @property
    def num_levels(self) -> int:
        """The number of core levels plus one."""
        return len(self.ranks) + 1

    def parameters_at(self, level: int) -> list[nn.Parameter]:
        """Return the shares of `U` and `V` up to the level."""
        return [share for factor in (self.U, self.V) for share in list(factor)[: level + 1]]

    def stock_state(self, level: int) -> dict[str, torch.Tensor]:
        """Return nothing: a stock model has the table alone."""
        return {}

    def exported_size(self, level: int) -> int:
        """Count the numbers of a core's factors; the full network has the sum in `W`."""
        return super().exported_size(level) if level < len(self.ranks) else 0

    def extra_repr(self) -> str:
        return f"ranks={self.ranks}, level={self.level}"


class TableReader(LowRankSum):
    """A module that reads a partitioned table: it keeps `W`, and `table` has `U` and `V`.

    Args:
        module (`nn.Embedding` or `nn.Linear`): what it takes the place of; its weight becomes `W`, the same object.
        table (`VocabularyFactors`): the factors, which another module holds too.
    """

    def __init__(self, module: nn.Embedding | nn.Linear, table: VocabularyFactors):
        super().__init__()
        self.weight = module.weight
        object.__setattr__(self, "table", table)  # not a submodule: the root of the model has it
        self.level = table.level
        self.train(module.training)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The rank of each core level."""
        return self.table.ranks

    @property
    def U(self) -> nn.ParameterList:
        """The shares of the table's `U`."""
        return self.table.U

    @property
    def V(self) -> nn.ParameterList:
        """The shares of the table's `V`."""
        return self.table.V

    @property
    def out_features(self) -> int:
        """The size of the vocabulary."""
        return len(self.weight)

    @property
    def in_features(self) -> int:
        """The width of the model."""
        return self.weight.shape[1]

    def parameters_at(self, level: int) -> list[nn.Parameter]:
        """Return `W` at the full level; the factors are those of the table."""
        return [self.weight] if level == len(self.ranks) else []

    def stock_state(self, level: int) -> dict[str, torch.Tensor]:
        """Return the table of the level, `merged_weight(level)`."""
        return {"weight": self.merged_weight(level)}

    def extra_repr(self) -> str:
        return f"vocabulary={self.out_features}, width={self.in_features}, ranks={self.ranks}, level={self.level}"


class PartitionedEmbedding(TableReader):
    """A lookup in a partitioned table, in place of an `nn.Embedding`: rows of `W + V U`, or of `V U` in a core.

    Args:
        module (`nn.Embedding`): what it takes the place of, also one that multiplies by an `embed_scale`; its weight
            becomes `W`, the same object.
        table (`VocabularyFactors`): the factors.

    Attributes:
        padding_idx: the row to which a lookup sends no gradient, or None.
        scale: what the rows are multiplied by.
    """

    def __init__(self, module: nn.Embedding, table: VocabularyFactors):
        super().__init__(module, table)
        self.padding_idx = module.padding_idx
        self.scale = vars(module).get("embed_scale", 1.0)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Map ids `(...)` to rows `(..., width)`, of the parameters' dtype at every level, also under autocast."""
        U, V = self.factors(self.level)
        flat = ids.flatten()
        rest = F.embedding(flat, self.weight, self.padding_idx) if self.level == len(self.ranks) else None
        rows = sum_of_products(F.embedding(flat, V, self.padding_idx), U, rest)
        if self.padding_idx is not None and rows.requires_grad:  # a lookup of it sends none to U either
            rows = rows.where(flat.ne(self.padding_idx)[:, None], rows.detach())
        return rows.view(*ids.shape, self.in_features) * self.scale


class PartitionedProjection(TableReader):
    """The projection to the vocabulary by a partitioned table, in place of the `nn.Linear` of an output head.

    Args:
        module (`nn.Linear`): what it takes the place of; its weight becomes `W`, the same object, and its bias stays.
        table (`VocabularyFactors`): the factors.
    """

    def __init__(self, module: nn.Linear, table: VocabularyFactors):
        super().__init__(module, table)
        self.bias = module.bias

    def parameters_at(self, level: int) -> list[nn.Parameter]:
        """Return the bias, and at the full level `W`."""
        return [*super().parameters_at(level), *([] if self.bias is None else [self.bias])]

    def stock_state(self, level: int) -> dict[str, torch.Tensor]:
        """Return the table of the level, and the bias."""
        return super().stock_state(level) | ({} if self.bias is None else {"bias": self.bias})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map states `(..., width)` to logits `(..., vocabulary)`: in a core two products, by `U` and by `V`."""
        U, V = self.factors(self.level)
        is_full = self.level == len(self.ranks)
        if self.merges(math.prod(x.shape[:-1])):
            return F.linear(x, sum_of_products(V, U, self.weight if is_full else None), self.bias)
        product = product_with_factors(x, U, V, self.bias)
        return product + F.linear(x, self.weight) if is_full else product


def plan_vocabulary(
    model: nn.Module,
    config: PartitionConfig,
    find_ranks: Callable[[str, torch.Tensor], tuple[int, ...]],
    moments: Moments | None = None,
) -> dict[str, Callable[[bool], PartitionedLayer]]:
    """Return what makes the factors of each table, and each module that reads it, by name; nothing if not asked for.

    Args:
        model: the model.
        config: whether `"embeddings"` is among its target modules, and the tables, if an earlier call found them.
        find_ranks: the ranks of a table, by the name of its first reader and its weight.
        moments: what modules read, for a start by how often tokens are looked up; of a table that only the projection
            reads, by its outputs.

    Raises:
        ValueError: a table is frozen, or of a kind that cannot be split; or as `find_tables`, `find_ranks` and
            `moments_of`.
    """
    if not config.has_embeddings:
        return {}
    named = dict(model.named_modules(remove_duplicate=False))
    makers = {}
    for readers in config.tables or find_tables(model, config):
        modules = {name: named[name] for name in readers}
        for name, module in modules.items():
            _refuse_unfit_table(name, module)
        first, of_table = readers[0], None if moments is None else moments_of(moments, readers)
        made = _Table(named[first].weight, find_ranks(first, named[first].weight), config.init, of_table)
        makers[factors_name(first)] = made.factors
        makers |= {name: partial(made.reader, module) for name, module in modules.items()}
    return makers


def factors_name(reader: str) -> str:
    """Return the name of the module that has a table's factors, at the root, by that of the table's first reader."""
    return f"{reader.replace('.', '_')}_factors"


def vocabulary_tables(model: nn.Module) -> list[list[str]]:
    """Return the names of the modules that share each vocabulary table; nothing if the architecture has no preset."""
    if find_by_model_type(PRESETS, getattr(model, "config", None)) is None:
        return []
    return find_tables(model, PartitionConfig(ratios=[0.5], target_modules=[EMBEDDINGS]))


def find_tables(model: nn.Module, config: PartitionConfig) -> list[list[str]]:
    """Return the names of the modules that share each vocabulary table, without the tables that are excluded.

    Raises:
        ValueError: the architecture has no preset, or all tables are excluded.
    """
    kind = type(model).__name__
    if find_by_model_type(PRESETS, getattr(model, "config", None)) is None:
        raise ValueError(
            f"{EMBEDDINGS!r} among the target modules means the vocabulary tables of {', '.join(PRESETS)}, and those "
            f"of this {kind} are not known; leave it out."
        )
    by_weight: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if name.rpartition(".")[2] in _HOLDERS:
            by_weight.setdefault(id(module.weight), []).append(name)
    exclude = config.exclude_modules
    tables = [
        names for names in by_weight.values() if exclude is None or not any(matches(exclude, name) for name in names)
    ]
    if not tables:
        raise ValueError(
            f"exclude_modules={exclude!r} leaves no vocabulary table of this {kind}, and the target modules have "
            f"{EMBEDDINGS!r}; leave one of them out."
        )
    return tables


class _Table:
    """What makes the modules of one table, each once, the factors first."""

    def __init__(self, weight: nn.Parameter, ranks: tuple[int, ...], init: str, moments: InputMoments | None):
        self._weight, self._ranks, self._start = weight, ranks, (init, moments)
        self._readers: dict[int, TableReader] = {}

    def factors(self, fill: bool) -> VocabularyFactors:
        self._factors = VocabularyFactors(self._weight, self._ranks)
        if fill:
            self._factors.split_(self._weight, *self._start)
        return self._factors

    def reader(self, module: nn.Module, fill: bool) -> TableReader:
        if id(module) not in self._readers:  # one module may have several names
            kind = PartitionedProjection if isinstance(module, nn.Linear) else PartitionedEmbedding
            self._readers[id(module)] = kind(module, self._factors)
        return self._readers[id(module)]


def _refuse_unfit_table(name: str, module: nn.Module) -> None:
    is_plain = type(module) in (nn.Embedding, nn.Linear) or type(module).__name__.endswith("ScaledWordEmbedding")
    if not is_plain or module.weight.dtype.itemsize < 2:
        raise ValueError(
            f"{EMBEDDINGS!r} among the target modules means {name} too, a {type(module).__name__} of "
            f"{module.weight.dtype}, and only plain embeddings and linear layers can be partitioned; load a quantised "
            "model in full precision, or leave it out."
        )
    if not module.weight.requires_grad:
        raise ValueError(
            f"{EMBEDDINGS!r} among the target modules means {name} too, and its weight is frozen, so that a core of "
            "it would never be trained; call requires_grad_(True) on it first, or exclude it by "
            f"exclude_modules=[{name!r}]."
        )
