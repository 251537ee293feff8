"""Everything before training on images: load, split, build, and find what a user got wrong."""

from dataclasses import dataclass
from pathlib import Path

from transformers import set_seed

from hf_ats.evaluation import compute_accuracy
from hf_ats.partition import PartitionConfig, partition_
from hf_ats.remote_code.modeling_cifar_resnet import CifarResNetConfig, CifarResNetForImageClassification
from hf_ats.run import Recipe, start
from hf_ats.trainers import ATSTrainer
from hf_ats.training import refuse_another_partition

from .augmentation import AugmentedImages, EpochOfImages, ImageCollator, PlainImages
from .data import LabelledImages, load_images, split_validation
from .flags import ImageDataArguments, ImagePartitionArguments, NetworkArguments
from .generated import generated_images
from .training import ImageTrainingArguments, image_cross_entropy, sgd

try:
    # The one that needs no torchvision, which transformers 4 has under the other name; both write the same file.
    from transformers import ViTImageProcessorPil as ViTImageProcessor
except ImportError:
    from transformers import ViTImageProcessor


@dataclass
class ImageRun:
    """What training needs, and the report after it; everything that a user can get wrong has been checked."""

    network_args: NetworkArguments
    data_args: ImageDataArguments
    parts: dict[str, LabelledImages]  # train, validation, test
    collator: ImageCollator
    processor: ViTImageProcessor  # goes along with the exports
    partition: PartitionConfig | None
    trainer: ATSTrainer
    directories: dict[str, Path]  # of the exports, by level
    arguments: dict  # those of the training that differ from their defaults
    recipe: Recipe | None


def prepare(
    network_args: NetworkArguments,
    data_args: ImageDataArguments,
    partition_args: ImagePartitionArguments,
    args: ImageTrainingArguments,
    recipe: Recipe | None = None,
) -> ImageRun:
    """Load, split, build; raises OSError or ValueError where flags, files and network do not fit."""
    if partition_args.method == "none" and args.schedule != "full":
        raise ValueError(f"--method none has one network only, and --schedule {args.schedule} more; give full.")
    partition = partition_args.config()
    start(args, cores=partition.num_cores if partition else 0)

    with args.main_process_first(desc="loading the images"):
        parts, class_names = load_parts(data_args, progress=not args.disable_tqdm and args.process_index == 0)
    mean, std = parts["train"].channel_statistics()
    model = build_network(network_args, class_names, parts["train"].images.shape[1], args.seed)
    if partition is not None:
        partition_(model, partition)
    if args.resume_from_checkpoint is not None:
        refuse_another_partition(args.resume_from_checkpoint, model)

    train = AugmentedImages(parts["train"], args.seed, data_args.padding, data_args.mirror)
    collator = ImageCollator(mean, std)
    processor = image_processor(mean, std, tuple(parts["train"].images.shape[2:]))
    trainer = ATSTrainer(
        model=model,
        args=args,
        train_dataset=train,
        processing_class=processor,  # which every checkpoint holds then
        eval_dataset=PlainImages(parts["validation"]) if len(parts["validation"]) else None,
        data_collator=collator,
        compute_metrics=compute_accuracy,
        compute_loss_func=image_cross_entropy(args.label_smoothing_factor),
        callbacks=[EpochOfImages(train)],
        optimizer_cls_and_kwargs=sgd(args),
    )
    return ImageRun(
        network_args=network_args,
        data_args=data_args,
        parts=parts,
        collator=collator,
        processor=processor,
        partition=partition,
        trainer=trainer,
        directories={
            trainer.level_names[i]: Path(args.output_dir, trainer.level_names[i]) for i in trainer.trained_levels
        },
        arguments=args.changed_fields(),
        recipe=recipe,
    )


def load_parts(data_args: ImageDataArguments, progress: bool = True) -> tuple[dict[str, LabelledImages], list[str]]:
    """The parts train, validation and test, and the names of the classes.

    Raises:
        OSError, ValueError: as `load_images` and `split_validation`.
    """
    if data_args.dataset_name is None and data_args.train_file is None:
        found, class_names = generated_images()
    else:
        found, class_names = load_images(
            dataset_name=data_args.dataset_name,
            dataset_config_name=data_args.dataset_config_name,
            train_file=data_args.train_file,
            test_file=data_args.test_file,
            image_column=data_args.image_column,
            label_column=data_args.label_column,
            progress=progress,
        )
    validation = data_args.validation_images
    if validation is None:
        validation = len(found["train"]) // 10
    train, validation = split_validation(found["train"], validation, data_args.split_seed, data_args.train_images)
    return {"train": train, "validation": validation, "test": found["test"]}, class_names


def build_network(
    network_args: NetworkArguments, class_names: list[str], channels: int, seed: int
) -> CifarResNetForImageClassification:
    """A network with random weights, which the seed determines, and the classes' names in its config."""
    set_seed(seed)
    widths = [network_args.width * 2**stage for stage in range(len(network_args.depths))]
    config = CifarResNetConfig(
        num_channels=channels,
        embedding_size=widths[0],
        hidden_sizes=widths,
        depths=list(network_args.depths),
        id2label=dict(enumerate(class_names)),
        label2id={name: index for index, name in enumerate(class_names)},
    )
    return CifarResNetForImageClassification(config)


def image_processor(mean: list[float], std: list[float], size: tuple[int, int]) -> ViTImageProcessor:
    """What makes `pixel_values` of pictures, for `pipeline("image-classification")` with the exports."""
    height, width = size
    return ViTImageProcessor(size={"height": height, "width": width}, image_mean=mean, image_std=std)
