"""Image classification by the same trainer (Table 3 of the paper): the network, the data, a whole run.

Importing it makes the network known to the Auto classes of transformers.
"""

from transformers import AutoConfig, AutoModelForImageClassification

from .flags import parse_flags
from .modeling_cifar_resnet import CifarResNetConfig, CifarResNetForImageClassification
from .table import TASK, render_run

__all__ = [
    "TASK",
    "CifarResNetConfig",
    "CifarResNetForImageClassification",
    "parse_flags",
    "render_run",
]

AutoConfig.register(CifarResNetConfig.model_type, CifarResNetConfig, exist_ok=True)
AutoModelForImageClassification.register(CifarResNetConfig, CifarResNetForImageClassification, exist_ok=True)
