"""Labelled images in memory: read, checked, split."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm.auto import tqdm


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
        """Those at the indices `which`."""
        return LabelledImages(self.images[which], self.labels[which])

    def channel_statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel over all pixels, as shares of 255."""
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
    """Reads a data set of labelled images into memory, through `datasets`.

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

    Raises:
        ValueError: there is no such part or column, a label is outside of the classes, or an image has another size
            than the first.
    """
    import datasets

    if dataset_name is not None:
        found = datasets.load_dataset(dataset_name, dataset_config_name)
    else:
        found = datasets.load_dataset("parquet", data_files={"train": train_file, "test": test_file})
    for part in ("train", "test"):
        if part not in found:
            raise ValueError(
                f"{dataset_name} has the parts {', '.join(found)}, and {part!r} is not among them; give "
                "--train_file and --test_file, or another data set."
            )
        for flag, column in (("image_column", image_column), ("label_column", label_column)):
            if column not in found[part].column_names:
                raise ValueError(
                    f"--{flag} {column} is not in the {part} part, which has the columns "
                    f"{', '.join(found[part].column_names)}; name one of these."
                )
    names = _class_names(found["train"], label_column)
    parts, size = {}, None
    for part in ("train", "test"):
        labels = _labels(found[part][label_column], part, len(names))
        column = found[part].select_columns(image_column).cast_column(image_column, datasets.Image(mode="RGB"))
        images = torch.empty(0)
        for index, row in enumerate(tqdm(column, desc=f"decoding the {part} part", disable=not progress)):
            image = np.asarray(row[image_column])
            size = size or image.shape
            if image.shape != size:
                raise ValueError(
                    f"image {index} of the {part} part is {image.shape[1]} x {image.shape[0]}, and the first of train "
                    f"is {size[1]} x {size[0]}; resize the images to one size."
                )
            if index == 0:
                images = torch.empty(len(column), *image.shape, dtype=torch.uint8)
            images[index] = torch.from_numpy(image.copy())
        parts[part] = LabelledImages(images.movedim(-1, 1).contiguous(), labels)
    return parts, names


def split_validation(
    train: LabelledImages, validation: int, seed: int, limit: int | None = None
) -> tuple[LabelledImages, LabelledImages]:
    """Draws a validation part out of the training part: `(train, validation)`, without an image in common.

    Args:
        train: all training images.
        validation: how many to draw.
        seed: of the draw.
        limit: train on this many of the rest only.

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


def _class_names(part, column: str) -> list[str]:
    feature = part.features[column]
    if hasattr(feature, "names"):
        return list(feature.names)
    highest = max((label for label in part[column] if isinstance(label, int)), default=-1)
    if highest < 0:
        raise ValueError(
            f"--label_column {column} holds {feature}, such as {part[column][0]!r}, and a class is a whole number "
            "from 0; encode them by datasets' class_encode_column."
        )
    return [str(label) for label in range(highest + 1)]


def _labels(column: Sequence[int], part: str, classes: int) -> torch.Tensor:
    for index, label in enumerate(column):
        if not (isinstance(label, int) and 0 <= label < classes):
            raise ValueError(
                f"the label of image {index} of the {part} part is {label!r}, and the {classes} classes of the "
                f"training part are 0 to {classes - 1}; correct it or leave the image out."
            )
    return torch.tensor(list(column), dtype=torch.long)
