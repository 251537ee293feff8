"""What a core can keep of each layer: the share of its weights' energy by rank and by width, and a picture of it.

The energy of a weight is the square of its Frobenius norm, the sum of its squared singular values. What a core keeps
of it, `|V U|^2 / |W|^2` for the best `V U` of a rank, says nothing of the data, and nothing of how layers work
together: it stands in for the quality of a core before training.
"""

import copy
import io
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from ..partition import (
    PRESETS,
    WIDTH_PRESETS,
    Composition,
    PartitionConfig,
    find_by_model_type,
    is_partitioned,
    layer_stacks,
    partition_,
    partitioned_layers,
)
from ..storage import write_file

RANK_RATIOS = (1 / 32, 1 / 16, 3 / 32, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4)
WIDTH_RATIOS = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Choice:
    """What a core keeps of a module, or of the modules of a feed-forward block.

    Attributes:
        modules: their dotted names.
        ranks: the rank of each that is of low rank.
        width: the share of a block's neurons; None for all of them.
        saved: how many numbers fewer these modules hold then, biases included.
        energy: the sum of the shares of energy that they keep, 1 for each that is whole.
    """

    modules: tuple[str, ...]
    ranks: dict[str, int]
    width: float | None
    saved: int
    energy: float


@dataclass(frozen=True)
class Layer:
    """A layer of an encoder or a decoder.

    Attributes:
        name: the dotted name.
        numbers: how many numbers it holds.
        linears: how many linear layers are in it.
        spectra: by the name of each module that rank can be taken from, the share of energy that its leading singular
            values hold, shape `(min(out, in),)`, increasing to 1.
        blocks: the choices for each module or feed-forward block, the first of which keeps it whole.
    """

    name: str
    numbers: int
    linears: int
    spectra: dict[str, np.ndarray]
    blocks: list[list[Choice]]


def read_layers(model: PreTrainedModel) -> dict[str, list[Layer]]:
    """Return the layers of each half, `"encoder"` and `"decoder"`, with what a core can keep of them.

    Args:
        model: an encoder-decoder with a preset, not partitioned; it is left as it is.

    Raises:
        ValueError: it is another, or a core.
    """
    kind, model_type = type(model).__name__, getattr(model.config, "model_type", None)
    if is_partitioned(model) or str(model_type).startswith("ats_"):
        raise ValueError(
            f"this {kind} is partitioned already, or a core; give the full/ export of its run, or the model that its "
            "training began from."
        )
    targets, roles = (find_by_model_type(table, model.config) for table in (PRESETS, WIDTH_PRESETS))
    if targets is None or len(layer_stacks(model)) < 2:
        raise ValueError(
            f"a plan knows the layers of {', '.join(PRESETS)}, and not those of this {kind}; give a model of these."
        )
    feed_forward = {suffix: role for suffix, role in roles.items() if role in ("out", "in")}
    return {
        half: [_read_layer(f"{stack}.{index}", layer, targets, feed_forward) for index, layer in enumerate(layers)]
        for half, stack in layer_stacks(model).items()
        for layers in [model.get_submodule(stack)]
    }


def _read_layer(name: str, layer: nn.Module, targets: Sequence[str], feed_forward: dict[str, str]) -> Layer:
    linears = {inner: one for inner, one in layer.named_modules() if isinstance(one, nn.Linear)}
    chosen = {inner: one for inner, one in linears.items() if inner.rpartition(".")[2] in targets}
    spectra = {inner: _spectrum(one.weight) for inner, one in chosen.items()}
    block = {inner: feed_forward[end] for inner in chosen if (end := inner.rpartition(".")[2]) in feed_forward}
    groups = [[_of_rank(name, {inner: one}, spectra)] for inner, one in chosen.items() if inner not in block]
    if block:
        groups.append([_of_rank(name, {inner: chosen[inner]}, spectra) for inner in block])
    blocks = [_combined(group) for group in groups]
    if block:
        blocks[-1] += _of_width(name, layer, block)
    return Layer(
        name,
        sum(parameter.numel() for parameter in layer.parameters()),
        len(linears),
        {f"{name}.{inner}": spectrum for inner, spectrum in spectra.items()},
        blocks,
    )


@torch.no_grad()
def _spectrum(weight: torch.Tensor) -> np.ndarray:
    values = torch.linalg.svdvals(weight.float()).double().square().cumsum(0)
    return (values / values[-1]).numpy() if values[-1] > 0 else np.ones(len(values))


def _of_rank(name: str, modules: dict[str, nn.Linear], spectra: dict[str, np.ndarray]) -> list[Choice]:
    """Return what can be kept of one module: all of it, or a rank at which its factors are smaller."""
    ((inner, linear),) = modules.items()
    outputs, inputs = linear.weight.shape
    module = f"{name}.{inner}"
    choices = [Choice((module,), {}, None, 0, 1.0)]
    for rank in sorted({max(1, round(ratio * min(outputs, inputs))) for ratio in RANK_RATIOS}, reverse=True):
        if (saved := outputs * inputs - rank * (outputs + inputs)) > 0:
            choices.append(Choice((module,), {module: rank}, None, saved, float(spectra[inner][rank - 1])))
    return choices


def _combined(group: list[list[Choice]]) -> list[Choice]:
    """Return every combination of the choices of several modules."""
    first, *others = group
    for other in others:
        first = [
            Choice(a.modules + b.modules, a.ranks | b.ranks, None, a.saved + b.saved, a.energy + b.energy)
            for a in first
            for b in other
        ]
    return first


@torch.no_grad()
def _of_width(name: str, layer: nn.Module, block: dict[str, str]) -> list[Choice]:
    """Return what is kept of a feed-forward block whose most important neurons stay."""
    whole = nn.Module()
    for inner in block:
        whole.add_module(inner.rpartition(".")[2], copy.deepcopy(layer.get_submodule(inner)))
    roles = {inner.rpartition(".")[2]: role for inner, role in block.items()}
    sizes = {one.out_features for inner, one in whole.named_children() if roles[inner] == "out"}
    ratios = [ratio for ratio in WIDTH_RATIOS if all(max(1, round(ratio * size)) < size for size in sizes)]
    ratios = [b for a, b in zip([0, *ratios], ratios, strict=False) if all(round(a * n) < round(b * n) for n in sizes)]
    if not ratios:
        return []
    partition_(whole, PartitionConfig("width", ratios, target_modules=roles, init="importance"))
    parts = partitioned_layers(whole).values()
    energies = [[one.at(level)[0].double().square().sum().item() for level in range(len(ratios) + 1)] for one in parts]
    modules = tuple(f"{name}.{inner}" for inner in block)
    return [
        Choice(
            modules,
            {},
            ratio,
            sum(p.numel() for one in parts for p in one.parameters())
            - sum(p.numel() for one in parts for p in one.parameters_at(level)),
            sum(energy[level] / energy[-1] if energy[-1] else 1.0 for energy in energies),
        )
        for level, ratio in enumerate(ratios)
    ]


def partitions_of(fewer_layers: dict[str, int], choices: Iterable[Choice]) -> list[PartitionConfig]:
    """Return what `partition_` takes for a core; nothing if it keeps everything.

    Args:
        fewer_layers: the number of layers of each half, `"encoder"` or `"decoder"`, that does not keep all.
        choices: for modules of the layers that are kept; whole ones may be left out.
    """
    choices = list(choices)
    depth = {f"{half}_layers": [number] for half, number in fewer_layers.items()}
    partitions = [PartitionConfig(method="depth", **depth)] if depth else []
    ranks = {module: rank for choice in choices for module, rank in choice.ranks.items()}
    if ranks:
        partitions.append(PartitionConfig(ranks=ranks))
    for width in sorted({choice.width for choice in choices} - {None}):
        modules = [module for choice in choices if choice.width == width for module in choice.modules]
        partitions.append(PartitionConfig("width", [width], target_modules=modules, init="importance"))
    return partitions


def composed(partitions: Sequence[PartitionConfig]) -> PartitionConfig | Composition:
    """Return one partition of one or several."""
    return partitions[0] if len(partitions) == 1 else Composition(partitions)


def path_in_layer(module: str, layer: str) -> str:
    """Return what a module is called in each layer of its half, as `self_attn.q_proj`, without T5's numbers."""
    return re.sub(r"(^|\.)layer\.\d+\.", r"\1", module.removeprefix(f"{layer}."))


def plot_spectra(layers: dict[str, list[Layer]], ranks: dict[str, int], path: str | os.PathLike, title: str) -> None:
    """Draw the spectra into a PNG file: kept energy over the share of the rank, a dot where the plan cuts.

    Args:
        layers: by half, all of them.
        ranks: by module, those of the plan.
        path: the file to write.
        title: over the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    spectra: dict[tuple[str, str], list[tuple[str, np.ndarray]]] = defaultdict(list)
    for half, of_half in layers.items():
        for layer in of_half:
            for module, spectrum in layer.spectra.items():
                spectra[half, path_in_layer(module, layer.name)].append((module, spectrum))
    columns = 4
    rows = -(-len(spectra) // columns)
    figure = Figure(figsize=(3.1 * columns, 0.5 + 2.6 * rows), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
    for axis in axes[len(spectra) :]:
        axis.set_visible(False)
    for axis, ((half, kind), of_kind) in zip(axes, spectra.items(), strict=False):
        for number, (module, spectrum) in enumerate(of_kind):
            shade = str(0.75 * number / max(1, len(of_kind) - 1))  # the first layer black, the last light grey
            axis.plot(np.arange(1, len(spectrum) + 1) / len(spectrum), spectrum, color=shade, linewidth=1.2)
            if module in ranks:
                at = ranks[module]
                axis.plot(at / len(spectrum), spectrum[at - 1], "o", color="#D55E00", markersize=4)
        axis.set_title(f"{half} {kind}", fontsize=9)
        axis.set_ylim(0, 1.03)
        axis.grid(alpha=0.3, linewidth=0.6)
    figure.supxlabel("share of the rank (black: the first layer, light: the last)", fontsize=9)
    figure.supylabel("share of the energy", fontsize=9)
    figure.suptitle(title, fontsize=10, fontweight="bold")
    figure.savefig(picture := io.BytesIO(), format="png")
    write_file(Path(path), picture.getvalue())
