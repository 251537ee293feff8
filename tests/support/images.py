"""Tiny image networks and data, and short training runs on them."""

import torch

from examples.image_classification import CifarResNetConfig, CifarResNetForImageClassification
from examples.image_classification.data import ImageCollator, LabelledImages, PlainImages
from examples.image_classification.training import ImageTrainingArguments, image_cross_entropy, sgd
from hf_ats.evaluation import compute_accuracy
from hf_ats.partition import PartitionConfig, partition_
from hf_ats.trainers import ATSTrainer


def tiny_resnet(seed: int = 0, **overrides) -> CifarResNetForImageClassification:
    """4 and 8 channels, one block a stage, 3 classes; biases, norms and running statistics off their neutral start."""
    torch.manual_seed(seed)
    config = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "num_labels": 3}
    model = CifarResNetForImageClassification(CifarResNetConfig(**(config | overrides)))
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.ndim == 1:
                tensor.add_(0.2 * torch.rand_like(tensor))
    return model.eval()


def partitioned_resnet(ratios=(0.5,), seed: int = 0, **overrides) -> CifarResNetForImageClassification:
    """A tiny network with narrower cores; the batch normalizations of its levels differ."""
    model = partition_(tiny_resnet(seed, **overrides), PartitionConfig(method="width", ratios=list(ratios)))
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if ".norms." in name and tensor.ndim:
                tensor.add_(0.1 * torch.rand_like(tensor))
    return model


def labelled_images(number: int = 8, size: int = 8, classes: int = 3, seed: int = 0) -> LabelledImages:
    """Random pixels and labels."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (number, 3, size, size), generator=generator, dtype=torch.uint8)
    return LabelledImages(images, torch.arange(number) % classes)


def image_trainer(model, output_dir, data=None, callbacks=(), **fields) -> ATSTrainer:
    """A trainer as `prepare` makes it: whole batches of 8, a constant rate, no logs and no checkpoints by default."""
    usual = {
        "max_steps": 4,
        "per_device_train_batch_size": 8,
        "learning_rate": 0.05,
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    args = ImageTrainingArguments(output_dir=str(output_dir), **(usual | fields))
    data = PlainImages(labelled_images()) if data is None else data
    return ATSTrainer(
        model=model,
        args=args,
        train_dataset=data,
        eval_dataset=data,
        data_collator=ImageCollator([0.5] * 3, [0.25] * 3),
        compute_metrics=compute_accuracy,
        compute_loss_func=image_cross_entropy(args.label_smoothing_factor),
        callbacks=list(callbacks),
        optimizer_cls_and_kwargs=sgd(args),
    )
