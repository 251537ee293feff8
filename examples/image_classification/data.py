"""Labelled images in memory: read, split, and shown to the network; whole batches at once."""

from dataclasses import dataclass

import datasets
import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers import TrainerCallback


@dataclass
class LabelledImages:
    """Images of one size, and the class of each.

    Attributes:
        images: shape `(number, channels, height, width)`, whole numbers from 0 to 255 (`torch.uint8`).
        labels: shape `(number,)`, from 0 to the number of classes minus 1.
    """

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, which: torch.Tensor) -> "LabelledImages":
        """Return the images at the indices `which`."""
        return LabelledImages(self.images[which], self.labels[which])

    def channel_statistics(self) -> tuple[list[float], list[float]]:
        """Return mean and standard deviation of each channel over all pixels, as shares of 255."""
        means, deviations = [], []
        shades = torch.arange(256, dtype=torch.float64) / 255
        for channel in self.images.unbind(1):
            shares = torch.bincount(channel.flatten().long(), minlength=256).double() / channel.numel()
            mean = (shares * shades).sum()
            means.append(mean.item())
            deviations.append((shares * (shades - mean) ** 2).sum().sqrt().item())
        return means, deviations


def load_images(
    *,
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    train_file: str | None = None,
    test_file: str | None = None,
    image_column: str = "image",
    label_column: str = "label",
    progress: bool = True,
) -> tuple[dict[str, LabelledImages], list[str]]:
    """Read a data set of labelled images of one size into memory, through `datasets`.

    Args:
        dataset_name: an id of the Hub or a directory, with the parts `train` and `test`.
        dataset_config_name: its configuration.
        train_file: a Parquet file with the training images instead.
        test_file: one with the test images.
        image_column: holds images that `datasets.Image` decodes; they become RGB.
        label_column: holds the class as a whole number, named by a `datasets.ClassLabel` or not.
        progress: whether to show a bar while decoding.

    Returns:
        `({"train": LabelledImages, "test": LabelledImages}, names of the classes)`.
    """
    if dataset_name is not None:
        found = datasets.load_dataset(dataset_name, dataset_config_name)
    else:
        found = datasets.load_dataset("parquet", data_files={"train": train_file, "test": test_file})
    parts = {}
    for part in ("train", "test"):
        labels = torch.tensor(found[part][label_column][:], dtype=torch.long)
        pictures = found[part].select_columns(image_column).cast_column(image_column, datasets.Image(mode="RGB"))
        rows = tqdm(pictures, desc=f"decoding the {part} part", disable=not progress)
        images = torch.from_numpy(np.stack([np.asarray(row[image_column]) for row in rows]))
        parts[part] = LabelledImages(images.movedim(-1, 1).contiguous(), labels)
    names = getattr(found["train"].features[label_column], "names", None)
    return parts, list(names) if names else [str(label) for label in range(int(parts["train"].labels.max()) + 1)]


def split_validation(
    train: LabelledImages, validation: int, seed: int, limit: int | None = None
) -> tuple[LabelledImages, LabelledImages]:
    """Draw a validation part out of the training part: `(train, validation)`, without an image in common.

    Args:
        train: all training images.
        validation: how many to draw.
        seed: of the draw.
        limit: train on only this many of the rest.

    Raises:
        ValueError: there are not enough images.
    """
    wanted = validation + (1 if limit is None else limit)
    if validation < 0 or (limit is not None and limit < 1) or wanted > len(train):
        raise ValueError(
            f"--validation_images {validation} and --train_images {limit or 'left out'} do not fit into the "
            f"{len(train)} images of the training part, of which at least one has to be trained on; give less."
        )
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    rest = order[validation:] if limit is None else order[validation : validation + limit]
    return train[rest], train[order[:validation]]


class AugmentedImages(Dataset):
    """Images that look a little different in every epoch: padded, cropped at random, mirrored at random.

    How an image looks is a function of the seed, the epoch and its index, and of no generator's state. So the same run
    always sees the same, on any number of processes and loading workers, and goes on exactly where a checkpoint was
    written. `EpochOfImages` tells the epoch.

    Args:
        data (`LabelledImages`): the images.
        seed (`int`, defaults to 0): of the shifts and mirrors.
        padding (`int`, defaults to 4): black pixels around each image, of which a crop of its own size is taken. 0
            leaves it where it is.
        mirror (`bool`, defaults to `True`): whether half of the images are mirrored, left to right.
    """

    def __init__(self, data: LabelledImages, seed: int = 0, padding: int = 4, mirror: bool = True):
        self.data, self.seed, self.padding, self.mirror = data, seed, padding, mirror
        # In memory that loading workers share, so that those which outlive an epoch hear of the next.
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()
        self._drawn_for: int | None = None

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose images come next."""
        self._epoch.fill_(epoch)

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index: int) -> dict:
        """Return one image as `pixel_values`, shape `(channels, height, width)`, uint8, and its `labels`."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict]:
        """Return those of a batch, which PyTorch's loader asks for at once."""
        which = torch.as_tensor(indices)
        batch = self.data[which]
        images = self._cropped(batch.images, which)
        return [
            {"pixel_values": image, "labels": label}
            for image, label in zip(images, batch.labels.tolist(), strict=True)
        ]

    def _cropped(self, images: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        number, channels, height, width = images.shape
        tops, lefts, mirrored = (values[which].view(-1, 1) for values in self._drawn(int(self._epoch)))
        padded = torch.nn.functional.pad(images, (self.padding,) * 4)
        rows = tops + torch.arange(height)
        columns = torch.arange(width).expand(number, width)
        columns = lefts + torch.where(mirrored, columns.flip(1), columns)
        return padded[
            torch.arange(number).view(-1, 1, 1, 1),
            torch.arange(channels).view(1, -1, 1, 1),
            rows.view(number, 1, height, 1),
            columns.view(number, 1, 1, width),
        ]

    def _drawn(self, epoch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return top, left and whether mirrored, of every image in an epoch."""
        if epoch != self._drawn_for:
            # Seeds are further apart than a run has epochs, so that no two runs share the images of one.
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
            crops = torch.randint(2 * self.padding + 1, (2, len(self)), generator=generator)
            mirrored = torch.rand(len(self), generator=generator) < 0.5
            self._tables = (*crops, mirrored & self.mirror)
            self._drawn_for = epoch
        return self._tables


class PlainImages(Dataset):
    """Images as they are, for validation and tests; items as those of `AugmentedImages`."""

    def __init__(self, data: LabelledImages):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index: int) -> dict:
        return {"pixel_values": self.data.images[index], "labels": int(self.data.labels[index])}


class ImageCollator:
    """A collator of images: `pixel_values`, float32, each channel with mean 0 and deviation 1, and `labels`.

    Args:
        mean, std (`list[float]`): of each channel of the training images, as shares of 255
            (`LabelledImages.channel_statistics`).
    """

    def __init__(self, mean: list[float], std: list[float]):
        self.scale = 255 * torch.tensor(std).clamp_min(1 / 255).view(-1, 1, 1)
        self.mean = 255 * torch.tensor(mean).view(-1, 1, 1)

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """Return a batch of shape `(batch, channels, height, width)` and labels of shape `(batch,)`."""
        images = torch.stack([row["pixel_values"] for row in rows])
        return {
            "pixel_values": (images - self.mean) / self.scale,
            "labels": torch.tensor([row["labels"] for row in rows]),
        }


class EpochOfImages(TrainerCallback):
    """A callback that tells the training images their epoch, also the one that a resumed run begins in."""

    def __init__(self, images: AugmentedImages):
        self._images = images

    def on_epoch_begin(self, args, state, control, **kwargs):
        self._images.set_epoch(int(state.epoch or 0))
