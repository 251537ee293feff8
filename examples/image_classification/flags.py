"""The flags of a run on images: the network, the data, the cores, and the training."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from hf_ats.run import FlagParser, PartitionArguments

from .training import ImageTrainingArguments


@dataclass
class NetworkArguments:
    """Which network to train: ResNet in its form for small images, from scratch."""

    _argument_group_name = "the network"

    width: int = field(
        default=64, metadata={"help": "Channels of the stem and of the first stage; every further stage has twice."}
    )
    depths: list[int] = field(
        default_factory=lambda: [2, 2, 2, 2], metadata={"help": "Blocks of each stage (2 2 2 2 is ResNet-18)."}
    )


@dataclass
class ImageDataArguments:
    """The data to train on."""

    _argument_group_name = "the data"

    dataset_name: str | None = field(
        default=None, metadata={"help": "A data set with the parts train and test: an id of the Hub or a directory."}
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Its configuration."})
    train_file: str | None = field(default=None, metadata={"help": "A Parquet file instead."})
    test_file: str | None = field(default=None, metadata={"help": "The same for the scores at the end."})
    image_column: str = field(default="image", metadata={"help": "The column of the images."})
    label_column: str = field(default="label", metadata={"help": "The column of their classes, whole numbers from 0."})
    validation_images: int | None = field(
        default=None,
        metadata={"help": "Images to draw out of the training part for validation (default: a tenth of them)."},
    )
    train_images: int | None = field(
        default=None, metadata={"help": "Train on only so many of the other images (default: on all of them)."}
    )
    split_seed: int = field(default=0, metadata={"help": "Seed of that draw, which --seed leaves as it is."})
    padding: int = field(default=4, metadata={"help": "Pixels around each image that a random crop of it may reach."})
    mirror: bool = field(default=True, metadata={"help": "Show half of the images mirrored, left to right."})


@dataclass
class ImagePartitionArguments(PartitionArguments):
    """The cores of the network."""

    method: str = field(
        default="width",
        metadata={
            "help": "How layers are partitioned. 'width': a core with fewer channels in every convolution and batch "
            "normalizations of its own; 'none' leaves the network as it is, for standard training with --schedule "
            "full.",
            "choices": ["width", "none"],
        },
    )
    ratios: list[float] = field(
        default_factory=lambda: [0.5],
        metadata={"help": "Share of the channels in each core, increasing, each in (0, 1)."},
    )


def parse_flags(description: str, argv: Sequence[str] | None = None) -> tuple:
    """Read the four groups of flags of the command line, as dataclasses, over those of its recipe.

    Args:
        description: what `--help` shows above them.
        argv: the words of the command line; by default those that this process was called with.

    Returns:
        `(NetworkArguments, ImageDataArguments, ImagePartitionArguments, ImageTrainingArguments, Recipe or None)`.
    """
    groups = (NetworkArguments, ImageDataArguments, ImagePartitionArguments, ImageTrainingArguments)
    return FlagParser(groups, description).parse(argv)
