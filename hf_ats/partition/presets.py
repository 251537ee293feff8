"""Which layers of which architecture the paper's partitions mean, and how names are matched.

The paper partitions the feed-forward layers and the query and key projections; value and output projections,
embeddings, norms and biases are shared (Section 4.1 and Appendix C).
"""

import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

from torch import nn

from .config import EMBEDDINGS, PartitionConfig

T = TypeVar("T")

_BART_LIKE = ("q_proj", "k_proj", "fc1", "fc2")
_T5_LIKE = ("q", "k", "wi", "wi_0", "wi_1", "wo")

PRESETS: dict[str, tuple[str, ...]] = {
    "marian": _BART_LIKE,
    "bart": _BART_LIKE,
    "mbart": _BART_LIKE,
    "m2m_100": _BART_LIKE,
    "pegasus": _BART_LIKE,
    "t5": _T5_LIKE,
    "mt5": _T5_LIKE,
}
"""By rank: `model_type` to the suffixes of the module names; `m2m_100` is also NLLB."""

_BART_LIKE_ROLES = {"q_proj": "heads", "k_proj": "heads", "fc1": "out", "fc2": "in"}
# T5's attention takes one size of heads only.
_T5_LIKE_ROLES = {
    "q": "filled_heads",
    "k": "filled_heads",
    "wi": "out",
    "wi_0": "out",
    "wi_1": "out",
    "wo": "in",
}
# Every channel except those of the picture; the longest suffix that matches decides.
_RESNET_ROLES = {
    "embedder.embedder.convolution": "out",
    "convolution": "both",
    "normalization": "norm",
    "classifier.1": "in",
}

WIDTH_PRESETS: dict[str, dict[str, str]] = {
    "marian": _BART_LIKE_ROLES,
    "bart": _BART_LIKE_ROLES,
    "mbart": _BART_LIKE_ROLES,
    "m2m_100": _BART_LIKE_ROLES,
    "pegasus": _BART_LIKE_ROLES,
    "t5": _T5_LIKE_ROLES,
    "mt5": _T5_LIKE_ROLES,
    "resnet": _RESNET_ROLES,
}
"""By width: `model_type` to the role of each layer by the suffix of its name."""

_BART_LIKE_HALVES = {
    "encoder": ("encoder.layers", "encoder_layers"),
    "decoder": ("decoder.layers", "decoder_layers"),
}
_T5_LIKE_HALVES = {"encoder": ("encoder.block", "num_layers"), "decoder": ("decoder.block", "num_decoder_layers")}

DEPTH_PRESETS: dict[str, dict[str, tuple[str, str]]] = {
    "marian": _BART_LIKE_HALVES,
    "bart": _BART_LIKE_HALVES,
    "mbart": _BART_LIKE_HALVES,
    "m2m_100": _BART_LIKE_HALVES,
    "pegasus": _BART_LIKE_HALVES,
    "t5": _T5_LIKE_HALVES,
    "mt5": _T5_LIKE_HALVES,
}
"""By depth: `model_type` to the list of layers of each half, by the suffix of its name, and to the field of the config
that has their number."""

_KINDS = {
    "out": (nn.Linear, nn.Conv2d),
    "in": (nn.Linear, nn.Conv2d),
    "both": (nn.Linear, nn.Conv2d),
    "heads": (nn.Linear,),
    "filled_heads": (nn.Linear,),
    "norm": (nn.BatchNorm2d,),
}


def find_by_model_type(table: dict[str, T], config) -> T | None:
    """Return the entry of a table by `model_type` for a model's config, or for the class that its class derives from.

    A user's class that derives from a known architecture's class gets the same entry. None if there is no entry.
    """
    known = (getattr(kind, "model_type", None) for kind in type(config).__mro__)
    return next((table[model_type] for model_type in known if model_type in table), None)


def matches(pattern: Sequence[str] | str, name: str) -> bool:
    """Whether a name matches by PEFT's rule: a string is an expression for all of it, a list holds dotted suffixes."""
    if isinstance(pattern, str):
        return re.fullmatch(pattern, name) is not None
    return any(name == suffix or name.endswith(f".{suffix}") for suffix in pattern)


def longest_match(table: Iterable[str], name: str) -> str | None:
    """Return the longest of the dotted suffixes that match a name, which decides if several do, or None."""
    return max((suffix for suffix in table if matches([suffix], name)), key=len, default=None)


def find_targets(model: nn.Module, config: PartitionConfig) -> dict[str, nn.Module]:
    """Return the modules to partition, by dotted name, in the order of the model.

    The output head is left out by identity, whatever its name, and the vocabulary tables are planned elsewhere.

    Raises:
        ValueError: no preset and neither `target_modules` nor `ranks`; an entry that matches nothing; a match that has
            a kind that cannot be split, or whose weight another module shares.
    """
    presets = PRESETS if config.method == "rank" else WIDTH_PRESETS
    argument = "target_modules" if config.ranks is None else "ranks"
    pattern = config.target_modules if config.ranks is None else list(config.ranks)
    given = pattern is not None
    if pattern is None:
        pattern = find_by_model_type(presets, getattr(model, "config", None))
        if pattern is None:
            example = "['fc1', 'fc2']" if config.method == "rank" else "{'fc1': 'out', 'fc2': 'in'}"
            raise ValueError(
                f"target_modules=None, but there is no preset for {type(model).__name__} (model_type="
                f"{_model_type(model)!r}); presets: {', '.join(presets)}. Name the layers, such as "
                f"target_modules={example}."
            )
    if config.has_embeddings:
        pattern = [suffix for suffix in pattern if suffix != EMBEDDINGS]
        if not pattern:
            return {}
    exclude = config.exclude_modules
    named = dict(model.named_modules())
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    targets = {
        name: module
        for name, module in named.items()
        if name
        and module is not head
        and matches(pattern, name)
        and not (exclude is not None and matches(exclude, name))
    }
    if not targets:
        linears = sorted({name.rpartition(".")[2] for name, m in named.items() if isinstance(m, nn.Linear)})
        raise ValueError(
            f"{argument}={pattern!r} with exclude_modules={exclude!r} matches no module of "
            f"{type(model).__name__}; its linear layers end in {', '.join(linears) or '(it has none)'}."
        )
    if given and not isinstance(pattern, str):
        for suffix in pattern:
            if not any(matches([suffix], name) for name in named):
                raise ValueError(
                    f"{argument}={list(pattern)!r}: {suffix!r} matches no module of {type(model).__name__}; "
                    "correct it or leave it out."
                )
    _refuse_what_cannot_be_split(model, argument, targets, (nn.Linear,) if config.method == "rank" else None)
    return targets


def find_roles(model: nn.Module, config: PartitionConfig, targets: dict[str, nn.Module]) -> dict[str, str]:
    """Return the role of each target by name: what is narrower in the core.

    Raises:
        ValueError: the preset does not have a target, or its role is not one for a module of its kind.
    """
    given = isinstance(config.target_modules, dict)
    table = config.target_modules if given else find_by_model_type(WIDTH_PRESETS, getattr(model, "config", None)) or {}
    roles = {}
    for name, module in targets.items():
        suffix = longest_match(table, name)
        if suffix is None:
            known = f"the preset of {_model_type(model)!r} knows {', '.join(table)}" if table else "there is no preset"
            raise ValueError(
                f"target_modules matches {name}, and {known}; say what is narrower there with a dictionary, such as "
                "target_modules={'fc1': 'out', 'fc2': 'in'}."
            )
        role = table[suffix]
        if type(module) not in _KINDS[role]:
            kinds = " or ".join(kind.__name__ for kind in _KINDS[role])
            raise ValueError(
                f"target_modules gives {name}, a {type(module).__name__}, the role {role!r}, which is one of a plain "
                f"{kinds}; leave it out or correct the role."
            )
        roles[name] = role
    return roles


def is_translation_model(model: nn.Module) -> bool:
    """Whether the model is an encoder-decoder of Transformers that writes text from text."""
    return (
        getattr(getattr(model, "config", None), "is_encoder_decoder", False)
        and getattr(model, "main_input_name", None) == "input_ids"
        and model.can_generate()
    )


def _model_type(model: nn.Module) -> str | None:
    return getattr(getattr(model, "config", None), "model_type", None)


def _refuse_what_cannot_be_split(
    model: nn.Module, argument: str, targets: dict[str, nn.Module], kinds: tuple | None
) -> None:
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    for name, module in targets.items():
        if kinds is not None and type(module) not in kinds:
            raise ValueError(
                f"{argument} matches {name}, a {type(module).__name__}; only plain nn.Linear layers can be "
                f"partitioned. Name the linear layers themselves, and {EMBEDDINGS!r} for the vocabulary tables of a "
                "translation model; load a quantised model in full precision."
            )
        shared = [
            other
            for parameter in module.parameters(recurse=False)
            for other in owners[id(parameter)]
            if other.rpartition(".")[0] != name
        ]
        if shared:
            raise ValueError(
                f"{argument} matches {name}, whose weight is shared with {', '.join(shared)}; leave it out with "
                f"exclude_modules=[{name!r}]."
            )
