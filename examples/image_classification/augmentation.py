"""Training images as CIFAR's recipes show them: shifted, mirrored, normalised; whole batches at once."""

import torch
from torch.utils.data import Dataset
from transformers import TrainerCallback

from .data import LabelledImages


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
        if padding < 0:
            raise ValueError(f"padding={padding} must not be negative; write 0 to leave the images where they are.")
        self.data, self.seed, self.padding, self.mirror = data, seed, padding, mirror
        # In memory that loading workers share, so that those which outlive an epoch hear of the next.
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()
        self._drawn_for: int | None = None

    def set_epoch(self, epoch: int) -> None:
        """The epoch whose images come next."""
        self._epoch.fill_(epoch)

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index: int) -> dict:
        """One image as `pixel_values`, shape `(channels, height, width)`, uint8, and its `labels`."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict]:
        """Those of a batch, which PyTorch's loader asks for at once."""
        which = torch.as_tensor(indices)
        batch = self.data[which]
        images = self._cropped(batch.images, which)
        return [
            {"pixel_values": image, "labels": label}
            for image, label in zip(images, batch.labels.tolist(), strict=True)
        ]

    def _cropped(self, images: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        number, channels, height, width = images.shape
        tops, lefts, mirrored = (values[which] for values in self._drawn(int(self._epoch)))
        padded = torch.nn.functional.pad(images, (self.padding,) * 4)
        rows = tops.view(-1, 1) + torch.arange(height)
        columns = torch.arange(width).expand(number, width)
        columns = lefts.view(-1, 1) + torch.where(mirrored.view(-1, 1), columns.flip(1), columns)
        return padded[
            torch.arange(number).view(-1, 1, 1, 1),
            torch.arange(channels).view(1, -1, 1, 1),
            rows.view(number, 1, height, 1),
            columns.view(number, 1, 1, width),
        ]

    def _drawn(self, epoch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Top, left and whether mirrored, of every image in an epoch."""
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
        """One image and its label."""
        return {"pixel_values": self.data.images[index], "labels": int(self.data.labels[index])}


class ImageCollator:
    """Makes a batch of images: `pixel_values`, float32, each channel with mean 0 and deviation 1, and `labels`.

    Args:
        mean, std (`list[float]`): of each channel of the training images, as shares of 255
            (`LabelledImages.channel_statistics`).
    """

    def __init__(self, mean: list[float], std: list[float]):
        self.scale = 255 * torch.tensor(std).clamp_min(1 / 255).view(-1, 1, 1)
        self.mean = 255 * torch.tensor(mean).view(-1, 1, 1)

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """From rows to a batch of shape `(batch, channels, height, width)` and labels of shape `(batch,)`."""
        images = torch.stack([row["pixel_values"] for row in rows])
        return {
            "pixel_values": (images - self.mean) / self.scale,
            "labels": torch.tensor([row["labels"] for row in rows]),
        }


class EpochOfImages(TrainerCallback):
    """Tells the training images their epoch, also the one that a resumed run begins in."""

    def __init__(self, images: AugmentedImages):
        self._images = images

    def on_epoch_begin(self, args, state, control, **kwargs):
        """Called by the Trainer before it asks for the first batch of the epoch."""
        self._images.set_epoch(int(state.epoch or 0))
