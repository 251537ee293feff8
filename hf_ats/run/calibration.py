"""The sentences that a pretrained model translates before it is partitioned, so that cores keep what matters there."""

import os

from ..data import read_lines, shows_nothing
from ..partition import Composition, PartitionConfig


def check_calibration(path: str | None, partition: PartitionConfig | Composition | None) -> None:
    """Raise a ValueError if there are calibration sentences, and no core of a partition would begin from them."""
    parts = partition.parts if partition else []
    if path is not None and not any(part.reads_moments for part in parts):
        starts = [f"--method {part.method}" + (f" --init {part.init}" if part.init else "") for part in parts]
        raise ValueError(
            f"--calibration_sentences {path} are for --method rank --init svd and --method width --init importance, "
            f"and this is {' and '.join(starts) or '--method none'}; write one of those, or leave them out."
        )


def read_calibration(path: str | os.PathLike | None) -> list[str] | None:
    """Return the sentences of a text file that have text; None if there is no path.

    Raises:
        ValueError: there is no such file, it cannot be read, or no sentence has text.
    """
    if path is None:
        return None
    try:
        sentences = [line for line in read_lines(path) if not shows_nothing(line)]
    except (OSError, ValueError) as error:
        raise ValueError(f"--calibration_sentences {path}: {error}") from error
    if not sentences:
        raise ValueError(
            f"--calibration_sentences {path} has no sentence with text; give a hundred or so, one a line."
        )
    return sentences
