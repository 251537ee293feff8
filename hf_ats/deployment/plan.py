"""The core that a model can have within a budget: chosen layer by layer, before any training."""

import functools
import itertools
import math
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import yaml
from transformers import PreTrainedModel

from ..checkpoint import blank_core, save_network, weights_size
from ..partition import PartitionConfig, kept_layers, layer_stacks
from ..results import align
from .frontier import NOTHING, Frontier, best_pair, frontier_of, joined
from .spectra import WIDTH_RATIOS, Choice, Layer, composed, partitions_of, path_in_layer, stock_groups
from .stopwatch import Stopwatch, Times

BUDGETS = {"max_parameters": "parameters", "max_megabytes": "MB", "max_latency_ms": "ms"}
"""The limits that a plan can keep, and their units; a megabyte is 10^6 bytes of the weights in float32."""

HALVES = ("encoder", "decoder")
_SHOWN = 10  # rows of the table of depths
_TRIES = 10  # plans that are timed
_OFF = 0.1  # the most that a predicted time is off, as a share of the measured


@dataclass(frozen=True)
class Plan:
    """The best core of one depth.

    Attributes:
        kept: by half, the indices of the layers that it keeps; and of the vocabulary, the only one.
        choices: for each module or feed-forward block of these layers.
        parameters: how many numbers its export holds.
        energy: the share of energy that it keeps of a weight, the mean over the linear layers of all layers, by size;
            of those that it drops, 0.
        share: its time, as a share of the full network's, as it was predicted; None if nothing was measured.
    """

    kept: dict[str, tuple[int, ...]]
    choices: list[Choice]
    parameters: int
    energy: float
    share: float | None = None


@dataclass(frozen=True)
class Planned:
    """What a budget buys.

    Attributes:
        plans: the best of each depth that fits, the one with the most energy first: that is the plan.
        partitions: what `partition_` takes to make it.
        size_bytes: the weight file of the core's export.
        predicted_ms, measured_ms: the time of the plan; None without a limit of time.
        full_ms: that of the full network, measured.
    """

    plans: list[Plan]
    partitions: list[PartitionConfig]
    size_bytes: int
    predicted_ms: float | None = None
    measured_ms: float | None = None
    full_ms: float | None = None

    @property
    def needs(self) -> tuple[float, ...]:
        """What the plan needs, in the order of `BUDGETS`."""
        return self.plans[0].parameters, self.size_bytes / 1e6, self.measured_ms


def make_plan(
    model: PreTrainedModel,
    layers: dict[str, list[Layer]],
    budget: str,
    limit: float,
    *,
    depth: dict[str, int] | None = None,
    stopwatch: Stopwatch | None = None,
    stock: bool = False,
    progress: bool = True,
) -> Planned:
    """Return the core within a budget that keeps the most energy of its model's weights.

    For each number of encoder and decoder layers, dynamic programming finds the best rank of every module and the best
    width of every feed-forward block; the depth whose best keeps the most is the plan. A layer that is dropped keeps
    nothing.

    Args:
        model: an encoder-decoder, not partitioned.
        layers: what `read_layers` returns for it.
        budget: of which kind, a key of `BUDGETS`.
        limit: how much of that.
        depth: the number of layers that the core has, for `"encoder"`, `"decoder"`, or both; otherwise all numbers are
            tried.
        stopwatch: for a limit of time.
        stock: whether the core is to be of the stock class, as CTranslate2 wants it: no low rank, and feed-forward
            blocks of equal width in each half, for T5 in both.
        progress: whether to show a bar while times are measured.

    Raises:
        ValueError: nothing fits; the full network does; the model has no such depth; or the times measured here
            vary by more than a tenth.

    Example:

    ```python
    >>> planned = make_plan(model, read_layers(model), "max_parameters", 20_000_000)
    >>> model = partition_(model, planned.partitions)
    ```
    """
    depths = _depths(model, layers, depth or {})
    groups = stock_groups(model) if stock else None
    times = Times(layers, stopwatch, groups, progress) if stopwatch is not None else None
    itemsize = model.dtype.itemsize
    aim = limit
    if budget == "max_megabytes":  # a file has more than its numbers, or less, where positions are not saved
        parameters, size_bytes = core_size(model, [])
        aim -= (size_bytes - itemsize * parameters) / 1e6
    timed = 0
    while timed < _TRIES:
        search = _Search(model, layers, times, groups)
        unit = {"max_megabytes": itemsize / 1e6, "max_latency_ms": stopwatch and stopwatch.full_ms}.get(budget, 1)
        fitting = search.within(depths, aim / unit * (1 + 1e-12))  # rounding must not lose the last number
        plans = fitting or [search.smallest(depths)]
        planned = _made(model, layers, plans, stopwatch)
        if not planned.partitions:
            raise ValueError(
                f"{budget}={limit:g} is enough for the full network, of {plans[0].parameters:,} parameters, which "
                "needs no core; give less."
            )
        need = dict(zip(BUDGETS, planned.needs, strict=True))[budget]
        if need <= limit and (times is None or abs(planned.predicted_ms / need - 1) <= _OFF):
            return planned
        if need > limit and not fitting:
            decimals = 0 if budget == "max_parameters" else 3
            numbers = " and ".join(f"{len(plans[0].kept[half])} {half}" for half in HALVES)
            raise ValueError(
                f"no core fits {budget}={limit:g}: the smallest, of {numbers} layers, needs "
                f"{math.ceil(1e3 * need) / 1e3:,.{decimals}f} {BUDGETS[budget]}. Allow that much, or "
                + ("leave the number of layers open." if depth else "plan for a smaller model.")
            )
        if times is None:
            aim -= need - limit
            continue
        times.learn(_numbers(plans[0].kept), plans[0].choices, need / planned.full_ms)
        timed += 1
    raise ValueError(
        f"{budget}={limit:g}: the last plan took {need:.2f} ms and was predicted to take {planned.predicted_ms:.2f}; "
        "times vary too much here. Give more rounds, or wait until the machine is idle."
    )


def _numbers(kept: dict[str, tuple[int, ...]]) -> dict[str, int]:
    return {half: len(of) for half, of in kept.items()}


def _made(
    model: PreTrainedModel, layers: dict[str, list[Layer]], plans: list[Plan], stopwatch: Stopwatch | None
) -> Planned:
    """Return what the best of several plans needs: its size, and its time if there is a stopwatch."""
    plan = plans[0]
    fewer = {half: number for half, number in _numbers(plan.kept).items() if number < len(layers[half])}
    partitions = partitions_of(fewer, plan.choices)
    parameters, size_bytes = core_size(model, partitions)
    planned = Planned([replace(plan, parameters=parameters), *plans[1:]], partitions, size_bytes)
    if stopwatch is None or not partitions:
        return planned
    predicted_ms = plan.share * stopwatch.full_ms
    share = stopwatch.share(composed(partitions))
    return replace(
        planned, predicted_ms=predicted_ms, measured_ms=share * stopwatch.full_ms, full_ms=stopwatch.full_ms
    )


def _depths(model: PreTrainedModel, layers: dict[str, list[Layer]], given: dict[str, int]) -> list[dict]:
    """Return by half the indices of the layers that are kept, for every depth that the model can have."""
    most = {half: len(layers[half]) for half in HALVES}
    for half, number in given.items():
        if not 1 <= number <= most[half]:
            raise ValueError(
                f"{half}_layers={number}, but the model has {most[half]} {half} layers; write 1 to {most[half]}."
            )
    stacks, found, refused = layer_stacks(model), [], None
    for encoder in [given["encoder"]] if "encoder" in given else range(most["encoder"], 0, -1):
        for decoder in [given["decoder"]] if "decoder" in given else range(most["decoder"], 0, -1):
            kept = {half: tuple(range(number)) for half, number in most.items()}
            if (encoder, decoder) != tuple(most.values()):
                try:
                    config = PartitionConfig(method="depth", encoder_layers=[encoder], decoder_layers=[decoder])
                    by_name = kept_layers(model, config)
                except ValueError as error:  # such as T5 with more decoder than encoder layers
                    refused = error
                    continue
                kept = {half: by_name[stacks[half]] for half in most}
            found.append(kept | {"vocabulary": (0,)})
    if not found:
        raise refused
    return found


class _Search:
    """The best choices for each depth, by what they cost: numbers, or shares of time."""

    def __init__(
        self,
        model: PreTrainedModel,
        layers: dict[str, list[Layer]],
        times: Times | None,
        stock: list[list[str]] | None = None,
    ):
        self._layers, self._times, self._stock = layers, times, stock
        self._most = model.num_parameters()
        self._linears = sum(layer.linears for of_half in layers.values() for layer in of_half)
        self._of_layer = functools.cache(self._of_layer)
        self._of_half = functools.cache(self._of_half)

    def within(self, depths: list[dict], limit: float) -> list[Plan]:
        """Return the best plan of each depth whose cost is at most the limit, the one with the most energy first."""
        plans = (self._best(kept, limit) for kept in depths)
        return sorted((plan for plan in plans if plan is not None), key=lambda plan: -plan.energy)

    def smallest(self, depths: list[dict]) -> Plan:
        """Return the cheapest plan of all."""

        def least(kept):
            return self._base(kept) + min(first.costs[0] + second.costs[0] for first, second in self._pairs(kept))

        kept = min(depths, key=least)
        return self._best(kept, least(kept) + 1e-9)

    def _best(self, kept: dict[str, tuple[int, ...]], limit: float) -> Plan | None:
        base = self._base(kept)
        found = [best_pair(*pair, limit - base) for pair in self._pairs(kept)]
        found = [one for one in found if one is not None]
        if not found:
            return None
        cost, value, choices = max(found, key=lambda one: one[1])
        others = sum(self._others(half, index) for half, of in kept.items() for index in of)
        held = self._whole(kept) - sum(choice.saved for choice in choices)
        share = base + cost if self._times is not None else None
        return Plan(kept, choices, held, (value + others) / self._linears, share)

    def _pairs(self, kept: dict[str, tuple[int, ...]]) -> list[list[Frontier]]:
        """Return the frontiers of both halves; of a stock class for each width that its halves can have."""
        if self._stock is None:
            encoder, decoder, vocabulary = (self._of_half(half, of) for half, of in kept.items())
            return [[joined(encoder, vocabulary), decoder]]
        pairs = []
        for widths in itertools.product((None, *WIDTH_RATIOS), repeat=len(self._stock)):
            by_half = {half: width for halves, width in zip(self._stock, widths, strict=True) for half in halves}
            encoder, decoder, vocabulary = (self._of_width(h, of, by_half.get(h)) for h, of in kept.items())
            pairs.append([joined(encoder, vocabulary), decoder])
        return pairs

    def _of_width(self, half: str, kept: tuple[int, ...], width: float | None) -> Frontier:
        choices = [choice for index in kept for choice in self._layers[half][index].of_width(width)]
        cost, energy = sum(map(self._cost, choices)), sum(choice.energy for choice in choices)
        return Frontier(np.array([float(cost)]), np.array([energy]), lambda point: choices)

    def _base(self, kept: dict[str, tuple[int, ...]]) -> float:
        """Return the cost of a depth whose layers are whole."""
        if self._times is not None:
            return self._times.of_depth(_numbers(kept))
        return self._whole(kept)

    def _whole(self, kept: dict[str, tuple[int, ...]]) -> int:
        """Return the numbers of a depth whose layers are whole."""
        dropped = (
            layer.numbers
            for half, layers in self._layers.items()
            for index, layer in enumerate(layers)
            if index not in kept[half]
        )
        return self._most - sum(dropped)

    def _others(self, half: str, index: int) -> float:
        layer = self._layers[half][index]
        return layer.linears - sum(block[0].energy for block in layer.blocks)

    def _of_half(self, half: str, kept: tuple[int, ...]) -> Frontier:
        return functools.reduce(joined, (self._of_layer(half, index) for index in kept), NOTHING)

    def _cost(self, choice: Choice) -> float:
        return -choice.saved if self._times is None else self._times.of_choice(choice)

    def _of_layer(self, half: str, index: int) -> Frontier:
        frontiers = (
            frontier_of(block, map(self._cost, block), (choice.energy for choice in block))
            for block in self._layers[half][index].blocks
        )
        return functools.reduce(joined, frontiers)


def core_size(model: PreTrainedModel, partitions: Sequence[PartitionConfig]) -> tuple[int, int]:
    """Return the parameters of the core of a partition, and the bytes of its export's weights.

    Args:
        model: not partitioned.
        partitions: what `partition_` takes; nothing for the full network.
    """
    core = blank_core(model, composed(partitions) if partitions else None)
    with tempfile.TemporaryDirectory() as folder:
        save_network(core, Path(folder))
        return core.num_parameters(), weights_size(folder)


def render_depths(planned: Planned, itemsize: int = 4) -> str:
    """Render a table of the best plan of each depth, the best of all first; at most 10."""
    chosen = planned.plans[0]
    beside = planned.size_bytes - itemsize * chosen.parameters  # what a file has beside the numbers
    whole_ms = planned.predicted_ms and planned.predicted_ms / chosen.share  # as it was when the plan was made
    rows = []
    for plan in planned.plans[:_SHOWN]:
        size = (itemsize * plan.parameters + beside) / 1e6
        row = [str(len(plan.kept[half])) for half in HALVES]
        row += [f"{plan.parameters:,}", f"{size:,.3f}"]
        row += [f"{plan.share * whole_ms:,.1f}"] if whole_ms else []
        rows.append([*row, f"{100 * plan.energy:.1f}%", "the plan" if plan is chosen else ""])
    header = ["encoder layers", "decoder layers", "parameters", "size (MB)", *(["latency (ms)"] if whole_ms else [])]
    table = align([*header, "energy", ""], rows, left=0)
    left_out = len(planned.plans) - _SHOWN
    return table + (f"\n({left_out} more depths fit, and keep less)" if left_out > 0 else "")


def render_plan(layers: dict[str, list[Layer]], plan: Plan) -> str:
    """Render a table of the layers that a plan keeps: the rank of each module, or the share of its neurons."""
    cells: dict[tuple[str, int], dict[str, str]] = {}
    for half, kept in plan.kept.items():
        for index in kept:
            layer = layers[half][index]
            row = cells[half, index] = {}
            for choice in plan.choices:
                for module in choice.modules:
                    if module in layer.modules:
                        width = None if choice.width is None else f"{choice.width:g} wide"
                        kept_of_it = width or str(choice.ranks.get(module, "whole"))
                        row[path_in_layer(module, layer.name)] = kept_of_it
    columns = list(Counter(path for row in cells.values() for path in row))
    rows = [
        [half if half not in HALVES else f"{half} {i}", *(row.get(path, "") for path in columns)]
        for (half, i), row in cells.items()
    ]
    return align(["layer", *columns], rows)


def render_recipe(planned: Planned, model: str, command: str, calibration: str | None = None) -> str:
    """Render a recipe of `hf-ats train` that trains the model with the plan's core.

    Args:
        planned: what `make_plan` returned.
        model: the model's directory or id, as the user wrote it.
        command: what made the plan, for the comment.
        calibration: the file of the sentences that it was made with, from which the core then begins.
    """
    plan, reads = planned.plans[0], any(part.reads_moments for part in planned.partitions)
    flags = {
        "model_name_or_path": model,
        **({"calibration_sentences": calibration} if calibration and reads else {}),
        "partitions": [
            {name: value for name, value in part.to_dict().items() if value not in (None, [])}
            for part in planned.partitions
        ],
        "core_parameters": plan.parameters,
    }
    time = "" if planned.measured_ms is None else f", {planned.measured_ms:.1f} ms"
    return (
        f"# A core of {plan.parameters:,} parameters, {planned.size_bytes:,} bytes{time}, that keeps "
        f"{100 * plan.energy:.1f}% of the {'outputs' if calibration else 'weights'}' energy:\n"
        f"#     {command}\n"
        "# To train it: hf-ats train --recipe THIS_FILE --output_dir DIR, the data, and what else a run takes.\n\n"
        + yaml.safe_dump(flags, sort_keys=False, width=120)
    )
