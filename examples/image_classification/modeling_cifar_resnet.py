"""ResNet in its form for small images, as CIFAR's 32 x 32: a 3 x 3 stem of stride 1, and no pooling before the stages.

This file travels with every export of the network and needs only torch and transformers.
"""

from pathlib import Path

from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification

_FILE = "modeling_cifar_resnet.py"
_MODEL_TYPE = "ats_cifar_resnet"


class CifarResNetConfig(ResNetConfig):
    """`ResNetConfig` with the sizes of ResNet-18 and 10 classes as defaults.

    Args:
        embedding_size (`int`, defaults to 64): channels of the stem.
        hidden_sizes (`list[int]`, defaults to `[64, 128, 256, 512]`): channels of each stage; every stage but the
            first halves height and width.
        depths (`list[int]`, defaults to `[2, 2, 2, 2]`): blocks of each stage.
        layer_type (`str`, defaults to `"basic"`): the kind of the blocks, or `"bottleneck"`.
        kwargs: of `ResNetConfig`, such as `num_labels` (default 10), `num_channels` and `hidden_act`.
    """

    model_type = _MODEL_TYPE

    def __init__(
        self,
        embedding_size=64,
        hidden_sizes=(64, 128, 256, 512),
        depths=(2, 2, 2, 2),
        layer_type="basic",
        **kwargs,
    ):
        if "id2label" not in kwargs and "num_labels" not in kwargs:
            kwargs["num_labels"] = 10
        super().__init__(
            embedding_size=embedding_size,
            hidden_sizes=list(hidden_sizes),
            depths=list(depths),
            layer_type=layer_type,
            **kwargs,
        )

    def to_dict(self):
        """Return all fields, and where the code is that travels with the checkpoint."""
        fields = super().to_dict()
        # The config of a partitioned model is a class made from this one, and this file by itself cannot read its
        # weights.
        if self.model_type == _MODEL_TYPE:
            fields["auto_map"] = {
                "AutoConfig": f"{_FILE.removesuffix('.py')}.CifarResNetConfig",
                "AutoModelForImageClassification": f"{_FILE.removesuffix('.py')}.CifarResNetForImageClassification",
            }
        return fields


class CifarResNetForImageClassification(ResNetForImageClassification):
    """`ResNetForImageClassification` for small images, which saves itself together with its code.

    Takes `pixel_values`, shape `(batch, channels, height, width)`, and gives `logits`, shape `(batch, num_labels)`.
    """

    config_class = CifarResNetConfig
    # transformers 5 lets any keyword through to the stock `forward`, and the Trainer would take that for a loss that
    # is divided by the number of images of the whole step.
    accepts_loss_kwargs = False

    def __init__(self, config):
        super().__init__(config)
        embeddings = self.resnet.embedder
        embeddings.embedder.convolution = nn.Conv2d(
            config.num_channels, config.embedding_size, kernel_size=3, stride=1, padding=1, bias=False
        )
        embeddings.pooler = nn.Identity()
        self._init_weights(embeddings.embedder.convolution)

    def save_pretrained(self, save_directory, **kwargs):
        """Save as any Transformers model; write the file of code too, so that the directory is complete."""
        super().save_pretrained(save_directory, **kwargs)
        Path(save_directory, _FILE).write_bytes(Path(__file__).read_bytes())
