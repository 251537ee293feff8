"""Everything after training on images: export, score, and write it down."""

import hashlib
import logging
from dataclasses import asdict
from pathlib import Path

from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import AutoModelForImageClassification, PreTrainedModel

from hf_ats.checkpoint import export_level
from hf_ats.partition import FlopsLedger
from hf_ats.results import build_results, plot_training, write_report_page, write_results

from .augmentation import PlainImages
from .data import LabelledImages
from .preparation import ImageRun
from .table import TASK, render_run
from .training import count_correct, epoch_forward_flops

logger = logging.getLogger(__name__)


def report(run: ImageRun, model: PreTrainedModel, seconds: float) -> None:
    """Export what was trained, then score it from there; for the main process.

    Args:
        run: what was prepared.
        model: what `trainer.whole_model()` gave.
        seconds: of the training.
    """
    trainer, args = run.trainer, run.trainer.args
    output_dir = Path(args.output_dir)
    test = run.parts["test"]
    levels = {}
    for name, directory in run.directories.items():
        logger.info("Exporting %s", directory)
        exported = export_level(model, directory, level=name, tokenizer=run.processor)
        network = AutoModelForImageClassification.from_pretrained(directory).to(args.device).eval()
        loader = DataLoader(PlainImages(test), batch_size=args.per_device_eval_batch_size, collate_fn=run.collator)
        correct = count_correct(network, tqdm(loader, desc=f"scoring {name}", disable=args.disable_tqdm))
        image = {"pixel_values": next(iter(loader))["pixel_values"][:1].to(args.device)}
        levels[name] = {
            "parameters": exported.parameters,
            "size_bytes": exported.size_bytes,
            "flops_per_image": FlopsLedger(network).forward_flops(image),
            "accuracy": 100 * correct / len(test),
            "parity": exported.parity,
        }
    if any("loss" in entry for entry in trainer.state.log_history):  # a run shorter than logging_steps has no curve
        plot_training(trainer.state.log_history, output_dir / "training.png", title=output_dir.name, task=TASK)

    train = run.parts["train"]
    results = build_results(
        task=TASK,
        levels=levels,
        seed=args.seed,
        model={"name": "cifar-resnet", "class": type(model).__name__, **vars(run.network_args)},
        partition=run.partition and run.partition.to_dict(),
        data={
            "name": run.data_args.dataset_name or run.data_args.train_file or "generated images",
            "test_part": "test",
            "test_fingerprint": images_fingerprint(test),
            "image_shape": list(train.images.shape[1:]),
            "split_seed": run.data_args.split_seed,
            "padding": run.data_args.padding,
            "mirror": run.data_args.mirror,
            **{part: len(images) for part, images in run.parts.items()},
        },
        training={
            "schedule": args.schedule,
            "processes": args.world_size,
            "epochs": trainer.state.epoch,
            "steps": trainer.state.global_step,
            "flops": trainer.state.total_flos,
            "epoch_forward_flops": epoch_forward_flops(trainer, tuple(train.images.shape[1:]), len(train)),
            "seconds": seconds,
            **({"resumed_from": args.resume_from_checkpoint} if args.resume_from_checkpoint else {}),
            **({"recipe": asdict(run.recipe)} if run.recipe else {}),
            "arguments": run.arguments,
        },
    )
    write_results(output_dir / "results.json", results)
    page = write_report_page(output_dir)
    print(f"\n{render_run(results)}")
    print(f"\nWritten to {output_dir}: {', '.join([*run.directories, 'results.json', page.name])}")


def images_fingerprint(data: LabelledImages) -> str:
    """16 hexadecimal digits that tell one set of labelled images from another, wherever its files lie."""
    digest = hashlib.sha256(repr(tuple(data.images.shape)).encode())
    digest.update(data.images.numpy().tobytes())
    digest.update(data.labels.numpy().tobytes())
    return digest.hexdigest()[:16]
