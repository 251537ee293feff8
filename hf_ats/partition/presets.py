"""Which linear layers of which architecture the paper's partition means, and how names are matched.

The paper partitions the feed-forward layers and the query and key projections; value and output projections,
embeddings, norms and biases are shared (Section 4.1).
"""

import re
from collections.abc import Sequence

from torch import nn

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
"""`model_type` to the suffixes of the module names; `m2m_100` is also NLLB."""


def matches(pattern: Sequence[str] | str, name: str) -> bool:
    """PEFT's rule: a string is a regular expression for the whole name, a list holds whole dotted suffixes."""
    if isinstance(pattern, str):
        return re.fullmatch(pattern, name) is not None
    return any(name == suffix or name.endswith(f".{suffix}") for suffix in pattern)


def find_targets(
    model: nn.Module, target_modules: Sequence[str] | str | None, exclude_modules: Sequence[str] | str | None
) -> dict[str, nn.Linear]:
    """The modules to partition, by dotted name, in the order of the model.

    The output head is left out by identity, whatever its name.

    Raises:
        ValueError: no preset and no `target_modules`; an entry that matches nothing; a match that is not a plain
            `nn.Linear`, or whose weight another module shares.
    """
    pattern = target_modules
    if pattern is None:
        model_type = getattr(getattr(model, "config", None), "model_type", None)
        if model_type not in PRESETS:
            raise ValueError(
                f"target_modules=None, but there is no preset for {type(model).__name__} (model_type={model_type!r}); "
                f"presets: {', '.join(PRESETS)}. Name the linear layers, such as target_modules=['fc1', 'fc2']."
            )
        pattern = PRESETS[model_type]
    named = dict(model.named_modules())
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    targets = {
        name: module
        for name, module in named.items()
        if name
        and module is not head
        and matches(pattern, name)
        and not (exclude_modules is not None and matches(exclude_modules, name))
    }
    if not targets:
        linears = sorted({name.rpartition(".")[2] for name, m in named.items() if isinstance(m, nn.Linear)})
        raise ValueError(
            f"target_modules={pattern!r} with exclude_modules={exclude_modules!r} matches no module of "
            f"{type(model).__name__}; its linear layers end in {', '.join(linears) or '(it has none)'}."
        )
    if target_modules is not None and not isinstance(pattern, str):
        for suffix in pattern:
            if not any(matches([suffix], name) for name in named):
                raise ValueError(
                    f"target_modules={list(pattern)!r}: {suffix!r} matches no module of {type(model).__name__}; "
                    "correct it or leave it out."
                )
    _refuse_what_cannot_be_split(model, targets)
    return targets


def _refuse_what_cannot_be_split(model: nn.Module, targets: dict[str, nn.Module]) -> None:
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    for name, module in targets.items():
        if type(module) is not nn.Linear:
            raise ValueError(
                f"target_modules matches {name}, a {type(module).__name__}; only plain nn.Linear layers can be "
                "partitioned. Name the linear layers themselves, and load a quantised model in full precision."
            )
        if len(owners[id(module.weight)]) > 1:
            raise ValueError(
                f"target_modules matches {name}, whose weight is shared with "
                f"{', '.join(other for other in owners[id(module.weight)] if other != f'{name}.weight')}; "
                f"leave it out with exclude_modules=[{name!r}]."
            )
