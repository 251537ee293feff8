r"""Train an image classifier and its narrow core in one run, and leave both ready for use.

Table 3 of the paper, ResNet-18 on CIFAR-10 with a core of half the width (for a GPU):

    python -m examples.image_classification.train --recipe cifar10 --output_dir runs/cifar10 \
        --train_file data/cifar10/train.parquet --test_file data/cifar10/test.parquet --schedule alternating

The same with a narrower network, which ends in minutes on a CPU, beside slimmable and standard training:

    python -m examples.image_classification.train --recipe cifar10-small --output_dir runs/alternating \
        --train_file data/cifar10/train.parquet --test_file data/cifar10/test.parquet --schedule alternating
    python -m examples.image_classification.train --recipe cifar10-small --output_dir runs/slimmable \
        --train_file data/cifar10/train.parquet --test_file data/cifar10/test.parquet --schedule slimmable
    python -m examples.image_classification.train --recipe cifar10-small --output_dir runs/standard \
        --train_file data/cifar10/train.parquet --test_file data/cifar10/test.parquet --method none --schedule full

From the Hub, where the columns have other names:

    python -m examples.image_classification.train --output_dir runs/hub \
        --dataset_name uoft-cs/cifar10 --image_column img

Without data it trains on generated images of shapes and patterns. OUTPUT_DIR then holds

    core/  full/       the networks, for pipeline("image-classification") with trust_remote_code=True
    results.json       parameters, sizes, accuracy and FLOPs of each, and how they were found
    training.png       losses and accuracies over the steps
    checkpoint-*/      what the Trainer writes; go on from one with --resume_from_checkpoint, True for the last

Every field of transformers' TrainingArguments is a flag as well. With several processes:
accelerate launch -m examples.image_classification.train ...
"""

import hashlib
import shlex
import sys
from dataclasses import asdict
from pathlib import Path

from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import AutoModelForImageClassification, PreTrainedModel, set_seed

from hf_ats.checkpoint import export_level
from hf_ats.evaluation import compute_accuracy
from hf_ats.partition import FlopsLedger, PartitionConfig, partition_
from hf_ats.results import RESULTS, build_results, plot_training, write_report_page, write_results
from hf_ats.run import early_ends, start, user_errors
from hf_ats.trainers import ATSTrainer
from hf_ats.training import refuse_another_model

from .data import (
    AugmentedImages,
    EpochOfImages,
    ImageCollator,
    LabelledImages,
    PlainImages,
    load_images,
    split_validation,
)
from .flags import ImageDataArguments, NetworkArguments, parse_flags
from .generated import generated_images
from .modeling_cifar_resnet import CifarResNetConfig, CifarResNetForImageClassification
from .table import TASK, render_run
from .training import ImageTrainingArguments, count_correct, epoch_forward_flops, image_cross_entropy, sgd

try:
    # The one that needs no torchvision, which transformers 4 has under the other name; both write the same file.
    from transformers import ViTImageProcessorPil as ViTImageProcessor
except ImportError:
    from transformers import ViTImageProcessor


@early_ends()
def main() -> None:
    """Load, build, partition, train, export, report."""
    network_args, data_args, partition_args, args, recipe = parse_flags(description=__doc__)
    with user_errors():  # what fails later is not a user's mistake, and keeps its traceback
        partition = partition_args.config()
        parts, trainer = prepare(network_args, data_args, partition, args)
    arguments = args.changed_fields()
    outcome = trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.save_state()
    model = trainer.whole_model()  # for every process: under FSDP they gather it together
    if not trainer.is_world_process_zero():
        return
    levels = export_and_score(trainer, model, parts["test"])
    log, output_dir = trainer.state.log_history, Path(args.output_dir)
    if any("loss" in entry for entry in log):  # a run shorter than logging_steps has no curve
        plot_training(log, output_dir / "training.png", title=output_dir.name, task=TASK)
    image_shape = tuple(parts["train"].images.shape[1:])
    results = build_results(
        task=TASK,
        command=shlex.join(["python", "-m", "examples.image_classification.train", *sys.argv[1:]]),
        levels=levels,
        seed=args.seed,
        model={"name": "cifar-resnet", "class": type(model).__name__, **vars(network_args)},
        partition=partition and partition.to_dict(),
        data={
            "name": data_args.dataset_name or data_args.train_file or "generated images",
            "test_part": "test",
            "test_fingerprint": images_fingerprint(parts["test"]),
            "image_shape": list(image_shape),
            "split_seed": data_args.split_seed,
            "padding": data_args.padding,
            "mirror": data_args.mirror,
            **{part: len(images) for part, images in parts.items()},
        },
        training={
            "schedule": args.schedule,
            "processes": args.world_size,
            "epochs": trainer.state.epoch,
            "steps": trainer.state.global_step,
            "flops": trainer.state.total_flos,
            "epoch_forward_flops": epoch_forward_flops(trainer, image_shape, len(parts["train"])),
            "seconds": trainer.seconds_before + outcome.metrics["train_runtime"],
            **({"resumed_from": args.resume_from_checkpoint} if args.resume_from_checkpoint else {}),
            **({"recipe": asdict(recipe)} if recipe else {}),
            "arguments": arguments,
        },
    )
    write_results(output_dir / RESULTS, results)
    page = write_report_page(output_dir)
    print(f"\n{render_run(results)}")
    print(f"\nWritten to {output_dir}: {', '.join([*levels, 'results.json', page.name])}")


def prepare(
    network_args: NetworkArguments,
    data_args: ImageDataArguments,
    partition: PartitionConfig | None,
    args: ImageTrainingArguments,
) -> tuple[dict[str, LabelledImages], ATSTrainer]:
    """Load and split the images, build the network, and return the parts and what trains on them.

    Raises:
        OSError, ValueError: flags, files and network do not fit.
    """
    if partition is None and set(args.schedule.split()) != {"full"}:
        raise ValueError(f"--method none has one network only, and --schedule {args.schedule} more; give full.")
    start(args, cores=partition.num_cores if partition else 0)
    with args.main_process_first(desc="loading the images"):
        parts, class_names = load_parts(data_args, progress=not args.disable_tqdm and args.process_index == 0)
    mean, std = parts["train"].channel_statistics()
    channels, height, width = parts["train"].images.shape[1:]
    model = build_network(network_args, class_names, channels, args.seed)
    if partition is not None:
        partition_(model, partition)
    if args.resume_from_checkpoint is not None:
        refuse_another_model(args.resume_from_checkpoint, model)
    train = AugmentedImages(parts["train"], args.seed, data_args.padding, data_args.mirror)
    trainer = ATSTrainer(
        model=model,
        args=args,
        train_dataset=train,
        # Every checkpoint and export holds it, for pipeline("image-classification").
        processing_class=ViTImageProcessor(size={"height": height, "width": width}, image_mean=mean, image_std=std),
        eval_dataset=PlainImages(parts["validation"]) if len(parts["validation"]) else None,
        data_collator=ImageCollator(mean, std),
        compute_metrics=compute_accuracy,
        compute_loss_func=image_cross_entropy(args.label_smoothing_factor),
        callbacks=[EpochOfImages(train)],
        optimizer_cls_and_kwargs=sgd(args),
    )
    return parts, trainer


def load_parts(data_args: ImageDataArguments, progress: bool = True) -> tuple[dict[str, LabelledImages], list[str]]:
    """Return the parts train, validation and test, and the names of the classes."""
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
    """Build a network with random weights, which the seed determines, and the classes' names in its config."""
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


def export_and_score(trainer: ATSTrainer, model: PreTrainedModel, test: LabelledImages) -> dict[str, dict]:
    """Export each network that was trained, and score it from there; return its figures by level."""
    args, levels = trainer.args, {}
    loader = DataLoader(
        PlainImages(test), batch_size=args.per_device_eval_batch_size, collate_fn=trainer.data_collator
    )
    image = {"pixel_values": next(iter(loader))["pixel_values"][:1].to(args.device)}
    for name in [trainer.level_names[level] for level in trainer.trained_levels]:
        directory = Path(args.output_dir, name)
        exported = export_level(model, directory, level=name, tokenizer=trainer.processing_class)
        network = AutoModelForImageClassification.from_pretrained(directory).to(args.device).eval()
        correct = count_correct(network, tqdm(loader, desc=f"scoring {name}", disable=args.disable_tqdm))
        levels[name] = {
            "parameters": exported.parameters,
            "size_bytes": exported.size_bytes,
            "flops_per_image": FlopsLedger(network).forward_flops(image),
            "accuracy": 100 * correct / len(test),
            "parity": exported.parity,
        }
    return levels


def images_fingerprint(data: LabelledImages) -> str:
    """Return 16 hexadecimal digits that tell one set of labelled images from another, wherever its files lie."""
    digest = hashlib.sha256(repr(tuple(data.images.shape)).encode())
    digest.update(data.images.numpy().tobytes())
    digest.update(data.labels.numpy().tobytes())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    main()
