"""The writing of an export: to a draft, which is loaded back, compared, and only then moved into place."""

import contextlib
import dataclasses
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging

from ..partition import find_partition, level_names, set_level
from .files import weights_sha256
from .networks import reference_network

REPORT_NAME = "export.json"


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote, and how near it comes to the model it was made from; also kept in its `export.json`.

    Attributes:
        path: the directory.
        kind: `"full"`, `"core"`, `"core-dense"` or `"adapter"`.
        level: the level's name, such as `"core"` or `"full"`.
        parameters: how many numbers the exported network holds, tied ones once.
        size_bytes: size of the weight files on disk.
        weights_sha256: the SHA-256 of each weight file, which tells one training from another.
        parity: largest absolute difference of the logits, on a probe batch in float32, between the export loaded back
            from disk and the partitioned model at that level.
        partition: the fields of the `PartitionConfig`; None for a model that was never partitioned.
        files: the paths of all files, relative to the directory.
    """

    path: Path
    kind: str
    level: str
    parameters: int
    size_bytes: int
    weights_sha256: dict[str, str]
    parity: float
    partition: dict | None
    files: list[str]

    @classmethod
    def read(cls, directory: str | os.PathLike) -> "ExportReport":
        """Return the report of an export on disk.

        Raises:
            FileNotFoundError: the directory holds no export.
        """
        path = Path(directory)
        return cls(path=path, **json.loads((path / REPORT_NAME).read_text(encoding="utf-8")))

    def facts(self) -> dict:
        """Return what the `results.json` of a run keeps of an export."""
        return {
            "parameters": self.parameters,
            "size_bytes": self.size_bytes,
            "weights_sha256": self.weights_sha256,
            "parity": self.parity,
            "files": self.files,
        }

    def _write(self, directory: Path) -> None:
        fields = dataclasses.asdict(self)
        del fields["path"]  # exports are moved and published
        (directory / REPORT_NAME).write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


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
        RuntimeError: the logits differ by more than rounding, or are not finite. Nothing is left behind.
    """
    check_replaceable(directory)
    target = Path(directory).resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.parent / f".{target.name}-{uuid.uuid4().hex[:8]}"
    draft.mkdir()
    try:
        # `from_pretrained` draws random numbers, and training may go on after an export.
        with torch.random.fork_rng(devices=[]), _no_progress_bars():
            save(draft)
            parity = _compare(model, level, load(draft), f"the {kind} export for {directory}")
        files = sorted(path.relative_to(draft).as_posix() for path in draft.rglob("*") if path.is_file())
        partition = find_partition(model)
        report = ExportReport(
            path=Path(directory),
            kind=kind,
            level=level_names(model)[level],
            parameters=parameters,
            size_bytes=sum((draft / name).stat().st_size for name in files if name.endswith(".safetensors")),
            weights_sha256=weights_sha256(draft),
            parity=parity,
            partition=partition and partition.to_dict(),
            files=sorted([*files, REPORT_NAME]),
        )
        report._write(draft)
        move_into_place(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return report


def check_replaceable(directory: str | os.PathLike) -> None:
    """Refuse a directory that is not new, not empty, and holds something other than one export.

    Raises:
        FileExistsError: there is something that no export wrote; the message names it.
    """
    path = Path(directory)
    if not path.exists():
        return
    instead = "move it away, or choose another directory"
    if not path.is_dir():
        raise FileExistsError(f"{path} is a file; {instead}.")
    present = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if not file.is_dir())
    if not present:
        return
    if REPORT_NAME not in present:
        raise FileExistsError(f"{path} holds {present[0]}, and was not written by an export; {instead}.")
    foreign = sorted(set(present) - set(ExportReport.read(path).files))
    if foreign:
        raise FileExistsError(f"{path} holds an export, and {foreign[0]}, which the export did not write; {instead}.")


def move_into_place(draft: Path, target: Path) -> None:
    """Rename a directory to `target`; remove what was there afterwards, or put it back if that fails."""
    if not target.exists():
        draft.rename(target)
        return
    old = target.parent / f"{draft.name}-old"
    target.rename(old)
    try:
        draft.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old)


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

    def ids(vocab_size):
        return torch.randint(vocab_size, (2, length), generator=generator)

    attention_mask = torch.ones(2, length, dtype=torch.long)
    attention_mask[1, length // 2 :] = 0
    batch = {"input_ids": ids(config.vocab_size), "attention_mask": attention_mask, "use_cache": False}
    if config.is_encoder_decoder:
        batch["decoder_input_ids"] = ids(getattr(config, "decoder_vocab_size", None) or config.vocab_size)
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
