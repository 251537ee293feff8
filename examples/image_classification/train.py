r"""Train an image classifier and its narrow core in one run, and leave both ready for use.

Table 3 of the paper, ResNet-18 on CIFAR-10 with a core of half the width (for a GPU):

    python examples/image_classification/train.py --recipe cifar10 --output_dir runs/cifar10 \
        --train_file data/cifar10/train.parquet --test_file data/cifar10/test.parquet --schedule alternating

The same with a narrower network, which ends in minutes on a CPU, beside slimmable and standard training:

    python examples/image_classification/train.py --recipe cifar10-small --output_dir runs/alternating \
        --train_file data/cifar10/train.parquet --test_file data/cifar10/test.parquet --schedule alternating
    python examples/image_classification/train.py --recipe cifar10-small --output_dir runs/slimmable \
        --train_file data/cifar10/train.parquet --test_file data/cifar10/test.parquet --schedule slimmable
    python examples/image_classification/train.py --recipe cifar10-small --output_dir runs/standard \
        --train_file data/cifar10/train.parquet --test_file data/cifar10/test.parquet --method none --schedule full

From the Hub, where the columns have other names:

    python examples/image_classification/train.py --output_dir runs/hub \
        --dataset_name uoft-cs/cifar10 --image_column img

Without data it trains on generated images of shapes and patterns. OUTPUT_DIR then holds

    core/  full/       the networks, for pipeline("image-classification") with trust_remote_code=True
    results.json       parameters, sizes, accuracy and FLOPs of each, and how they were found
    training.png       losses and accuracies over the steps
    checkpoint-*/      what the Trainer writes; go on from one with --resume_from_checkpoint, True for the last

Every field of transformers' TrainingArguments is a flag as well.
"""

import sys

from . import parse_flags, prepare, report


def main() -> None:
    """Prepare, train, report."""
    flags = parse_flags(description=__doc__)
    try:
        run = prepare(*flags)
    except (OSError, ValueError) as error:  # a user's mistake; what fails later is not one, and keeps its traceback
        sys.exit(f"train_image_classification.py: {error}")
    trainer = run.trainer
    outcome = trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
    trainer.save_state()
    model = trainer.whole_model()  # for every process: under FSDP they gather it together
    if trainer.is_world_process_zero():
        report(run, model, seconds=outcome.metrics["train_runtime"])


if __name__ == "__main__":
    main()
