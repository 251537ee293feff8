"""What a core can keep of each layer: the share of its weights' energy by rank and by width, and a picture of it.

The energy of a weight is the square of its Frobenius norm, the sum of its squared singular values, and a core keeps
`1 - |W - W_core|^2 / |W|^2` of it: by rank the share of the leading singular values. With calibration sentences it is
that of the outputs, `1 - |(W - W_core) C^1/2|^2 / |W C^1/2|^2`, where C is the second moment of the layer's inputs on
them, as `InputMoments` has it; and the core is the one that begins from them. Neither says how layers work together:
it stands in for the quality of a core before training.
"""

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
    EMBEDDINGS,
    PRESETS,
    WIDTH_PRESETS,
    Composition,
    InputMoments,
    Moments,
    PartitionConfig,
    find_by_model_type,
    is_partitioned,
    layer_stacks,
    moments_of,
    order_by_importance,
    vocabulary_tables,
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
        energy: the sum of the shares of energy that they keep, each times the size `in * out` of its weight.
    """

    modules: tuple[str, ...]
    ranks: dict[str, int]
    width: float | None
    saved: int
    energy: float


@dataclass(frozen=True)
class Layer:
    """A layer of an encoder or a decoder; or the vocabulary tables, as the one layer of a third part.

    Attributes:
        name: the dotted name; of the tables, none.
        numbers: how many numbers it holds.
        linears: the size of all weights of its linear layers.
        spectra: by the name of each module that rank can be taken from, the share of energy that its leading singular
            values hold, shape `(min(out, in),)`, increasing to 1.
        blocks: the choices for each module or feed-forward block, the first of which keeps it whole.
    """

    name: str
    numbers: int
    linears: int
    spectra: dict[str, np.ndarray]
    blocks: list[list[Choice]]

    @property
    def modules(self) -> list[str]:
        """The names of all modules that there is a choice for."""
        return [module for block in self.blocks for module in block[0].modules]

    def of_width(self, width: float | None) -> list[Choice]:
        """Return the choices of a layer in which only the feed-forward block is narrower, or nothing; one a block."""
        found = (
            next((one for one in block if one.width == width and not one.ranks), block[0]) for block in self.blocks
        )
        return list(found)


def read_layers(model: PreTrainedModel, moments: Moments | None = None) -> dict[str, list[Layer]]:
    """Return the layers of `"encoder"`, `"decoder"` and `"vocabulary"`, with what a core can keep of them.

    Args:
        model: an encoder-decoder with a preset, not partitioned; it is left as it is.
        moments: what `input_moments` returns, for the energies of outputs.

    Raises:
        ValueError: it is another, or a core.
    """
    targets, roles = _presets(model)
    feed_forward = {suffix: role for suffix, role in roles.items() if role in ("out", "in")}
    return {
        half: [
            _read_layer(f"{stack}.{index}", layer, targets, feed_forward, moments)
            for index, layer in enumerate(model.get_submodule(stack))
        ]
        for half, stack in layer_stacks(model).items()
    } | {"vocabulary": [_read_tables(model, moments)]}


@torch.no_grad()
def _read_tables(model: PreTrainedModel, moments: Moments | None) -> Layer:
    """Return the vocabulary tables, whose cores all have one rank."""
    names = vocabulary_tables(model)
    tables = [model.get_submodule(readers[0]).weight for readers in names]
    size, width = sum(table.numel() for table in tables), min(table.shape[1] for table in tables)
    kept = 0
    for readers, table in zip(names, tables, strict=True):
        weight = _weighted(table, moments and moments_of(moments, readers))
        # Its squared singular values, by a product that is as small as the width.
        energies = torch.linalg.eigvalsh((weight.T @ weight).double()).clamp(min=0).flip(0).cumsum(0)
        kept = kept + table.numel() * (energies / energies[-1])[:width].numpy()
    choices = [Choice((EMBEDDINGS,), {}, None, 0, size)]
    for rank in _ranks(width):
        saved = size - sum(rank * sum(table.shape) for table in tables)
        if saved > 0 and rank <= min(map(len, tables)):
            choices.append(Choice((EMBEDDINGS,), {EMBEDDINGS: rank}, None, saved, float(kept[rank - 1])))
    return Layer("", size, size, {EMBEDDINGS: kept / size}, [choices])


def _ranks(most: int) -> list[int]:
    """Return the ranks that are tried of a weight, the largest first."""
    return sorted({max(1, round(ratio * most)) for ratio in RANK_RATIOS}, reverse=True)


def _presets(model: PreTrainedModel) -> tuple[Sequence[str], dict[str, str]]:
    """Return the preset of a model by rank and that by width; raise ValueError if there can be no plan for it."""
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
    return targets, roles


@torch.no_grad()
def _read_layer(
    name: str, layer: nn.Module, targets: Sequence[str], feed_forward: dict[str, str], moments: Moments | None
) -> Layer:
    linears = {inner: one for inner, one in layer.named_modules() if isinstance(one, nn.Linear)}
    read = None if moments is None else {inner: moments_of(moments, [f"{name}.{inner}"]) for inner in linears}
    chosen = {inner: one for inner, one in linears.items() if inner.rpartition(".")[2] in targets}
    spectra = {inner: _spectrum(_weighted(one.weight, read and read[inner])) for inner, one in chosen.items()}
    block = {inner: feed_forward[end] for inner in chosen if (end := inner.rpartition(".")[2]) in feed_forward}
    blocks = [_of_rank(name, {inner: one}, spectra) for inner, one in chosen.items() if inner not in block]
    if block:
        by_rank = _combined([_of_rank(name, {inner: chosen[inner]}, spectra) for inner in block])
        blocks.append(by_rank + _of_width(name, chosen, block, read))
    return Layer(
        name,
        sum(parameter.numel() for parameter in layer.parameters()),
        sum(one.weight.numel() for one in linears.values()),
        {f"{name}.{inner}": spectrum for inner, spectrum in spectra.items()},
        blocks,
    )


def _weighted(weight: torch.Tensor, moments: InputMoments | None) -> torch.Tensor:
    """Return the weight whose squared norm is the energy."""
    return weight.float() if moments is None else moments.weighted(weight.float())


def _spectrum(weight: torch.Tensor) -> np.ndarray:
    kept = torch.linalg.svdvals(weight).double().square().cumsum(0)
    return (kept / kept[-1]).numpy() if kept[-1] > 0 else np.ones(len(kept))


def _of_rank(name: str, modules: dict[str, nn.Linear], spectra: dict[str, np.ndarray]) -> list[Choice]:
    """Return what can be kept of one module: all of it, or a rank at which its factors are smaller."""
    ((inner, linear),) = modules.items()
    outputs, inputs = linear.weight.shape
    module = f"{name}.{inner}"
    size = outputs * inputs
    choices = [Choice((module,), {}, None, 0, size)]
    for rank in _ranks(min(outputs, inputs)):
        if (saved := size - rank * (outputs + inputs)) > 0:
            choices.append(Choice((module,), {module: rank}, None, saved, size * float(spectra[inner][rank - 1])))
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


def _of_width(
    name: str, linears: dict[str, nn.Linear], block: dict[str, str], moments: Moments | None
) -> list[Choice]:
    """Return what is kept of a feed-forward block whose most important neurons stay."""
    order = order_by_importance(block, linears, dict.fromkeys(block, 1), moments)
    choices = []
    for ratio in WIDTH_RATIOS:
        width, saved, energy = max(1, round(ratio * len(order))), 0, 0.0
        dropped = order[width:]
        for inner, role in block.items():
            linear = linears[inner]
            whole, weight = linear.weight.float(), torch.zeros_like(linear.weight, dtype=torch.float32)
            if role == "out":
                weight[dropped] = whole[dropped]
            else:
                weight[:, dropped] = whole[:, dropped]
            lost, total = (_weighted(one, moments and moments[inner]).square() for one in (weight, whole))
            share = 1.0 if total.sum() <= 0 else 1 - (lost.double().sum() / total.double().sum()).item()
            energy += share * whole.numel()
            saved += len(dropped) * (len(whole) if role == "in" else whole.shape[1] + (linear.bias is not None))
        if len(dropped):
            choices.append(Choice(tuple(f"{name}.{inner}" for inner in block), {}, ratio, saved, energy))
    return choices


def stock_groups(model: PreTrainedModel) -> list[list[str]]:
    """Return the halves whose feed-forward blocks are equally wide in a stock class, which T5's are in both."""
    halves = list(layer_stacks(model))
    return [halves] if hasattr(model.config, "d_ff") else [[half] for half in halves]


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
        layers: what `read_layers` returned.
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
