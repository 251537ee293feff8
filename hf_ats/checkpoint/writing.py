"""The writing of an export: to a draft, which is loaded back, compared, and only then moved into place."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging

from ..partition import find_partition, level_names, set_level
from ..remote_code import refuse_nan
from ..storage import draft, sha256_of
from .networks import reference_network
from .report import REPORT_NAME, ExportReport


def write_export(
    model: PreTrainedModel,
    directory: str | os.PathLike,
    *,
    kind: str,
    level: int,
    parameters: int,
    save: Callable[[Path], None],
    load: Callable[[Path], PreTrainedModel],
) -> ExportReport:
    """Write one export of `model`, load it back, compare it, and move it into place.

    Args:
        model: the model, partitioned or not; it is left as it is.
        directory: where the export goes.
        kind: as in `ExportReport`.
        level: the level, an integer.
        parameters: as in `ExportReport`.
        save: writes the export's files into the directory that it is given.
        load: loads that directory as a user would, in float32.

    Raises:
        FileExistsError: see `check_replaceable`.
        ValueError: a weight is NaN.
        RuntimeError: the logits differ by more than rounding, or are not finite. Nothing is left behind.
    """
    check_replaceable(directory)
    refuse_nan(model, f"the model to be exported to {directory}")
    with draft(directory) as folder:
        # `from_pretrained` draws random numbers, and training may go on after an export.
        with torch.random.fork_rng(devices=[]), _no_progress_bars():
            save(folder)
            parity = _compare(model, level, load(folder), f"the {kind} export for {directory}")
        partition, files = find_partition(model), sha256_of(folder)
        report = ExportReport(
            path=Path(directory),
            kind=kind,
            level=level_names(model)[level],
            parameters=parameters,
            size_bytes=sum((folder / name).stat().st_size for name in files if name.endswith(".safetensors")),
            parity=parity,
            partition=partition and partition.to_dict(),
            files=files,
        )
        report.write(folder)
    return report


def check_replaceable(directory: str | os.PathLike) -> None:
    """Refuse a directory that is not new, not empty, and holds something other than one export.

    Raises:
        FileExistsError: there is something that no export wrote; the message names it.
        ValueError: its `export.json` is not one that an export writes.
    """
    path = Path(directory)
    if not path.exists():
        return
    instead = "move it away, or choose another directory"
    if not path.is_dir():
        raise FileExistsError(f"{path} is a file; {instead}.")
    found = (file for file in path.rglob("*") if file.is_symlink() or not file.is_dir())
    present = sorted(file.relative_to(path).as_posix() for file in found)
    if not present:
        return
    if REPORT_NAME not in present:
        raise FileExistsError(f"{path} holds {present[0]}, and was not written by an export; {instead}.")
    foreign = sorted(set(present) - {REPORT_NAME, *ExportReport.read(path).files})
    if foreign:
        raise FileExistsError(f"{path} holds an export, and {foreign[0]}, which the export did not write; {instead}.")


def _compare(model: PreTrainedModel, level: int, export: PreTrainedModel, what: str) -> float:
    probe = probe_batch(model)
    reference = reference_network(model)
    set_level(reference, level)
    expected = _logits(reference, probe)
    difference = (_logits(export, probe) - expected).abs().max().item()
    # In a half precision the merged weight is rounded once more than the float32 reference, by at most half an eps
    # per entry; in float32 only the order of the sums differs.
    eps = torch.finfo(model.dtype).eps
    tolerance = max(1e-4, 4 * eps) * expected.abs().max().item()
    if not difference <= tolerance:
        raise RuntimeError(
            f"{what} does not compute what the model computes at level {level_names(model)[level]!r}: the logits "
            f"differ by {difference:.3g}, and rounding explains {tolerance:.3g}. Nothing was written. If they are "
            "nan, training has diverged; go back to an earlier checkpoint with load_partitioned."
        )
    return difference


def probe_batch(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return what both networks are shown: two random sentences, or two random images.

    Sentences have ids `(2, 12)`, or fewer if the model has fewer positions, and one is padded; images have pixels
    `(2, channels, size, size)`, with 32 for a size that the config does not say.
    """
    generator = torch.Generator().manual_seed(0)
    config = model.config
    if model.main_input_name == "pixel_values":
        size = getattr(config, "image_size", None) or 32
        return {"pixel_values": torch.randn(2, config.num_channels, size, size, generator=generator)}
    length = min(12, getattr(config, "max_position_embeddings", 12))

    def ids(part):  # a model of two models has a vocabulary for each
        return torch.randint(len(part.get_input_embeddings().weight), (2, length), generator=generator)

    attention_mask = torch.ones(2, length, dtype=torch.long)
    attention_mask[1, length // 2 :] = 0
    batch = {"input_ids": ids(model), "attention_mask": attention_mask, "use_cache": False}
    if config.is_encoder_decoder:
        batch["decoder_input_ids"] = ids(model.get_decoder())
    return batch


@torch.no_grad()
def _logits(network: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return network.eval()(**batch).logits


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
