"""Image classification by the same trainer (Table 3 of the paper): the network, the data, a whole run."""

from hf_ats.remote_code.modeling_cifar_resnet import CifarResNetConfig, CifarResNetForImageClassification

from .augmentation import AugmentedImages, EpochOfImages, ImageCollator, PlainImages
from .data import LabelledImages, load_images, split_validation
from .flags import parse_flags
from .generated import generated_images
from .preparation import ImageRun, prepare
from .report import report
from .table import TASK, render_images, render_run
from .training import ImageTrainingArguments, count_correct, epoch_forward_flops, image_cross_entropy, sgd

__all__ = [
    "TASK",
    "AugmentedImages",
    "CifarResNetConfig",
    "CifarResNetForImageClassification",
    "EpochOfImages",
    "ImageCollator",
    "ImageRun",
    "ImageTrainingArguments",
    "LabelledImages",
    "PlainImages",
    "count_correct",
    "epoch_forward_flops",
    "generated_images",
    "image_cross_entropy",
    "load_images",
    "parse_flags",
    "prepare",
    "render_images",
    "render_run",
    "report",
    "sgd",
    "split_validation",
]
