"""Figures 2 and 3 of the paper: the criteria of dropout, measured while a ResNet-18 is trained with it and without.

    python -m experiments.dropout --scale small --output_dir runs/dropout \
        --train_file data/cifar10/train.parquet --test_file data/cifar10/test.parquet

The same command goes on where a run was killed, at its last whole epoch. OUTPUT_DIR then holds results.json and
figures.png. As in Appendix D: SGD with momentum 0.9 and weight decay 5e-4, batch normalization disabled. The paper
does not say the share of neurons that are kept, the layers, the batch size, the learning rate, or the epochs: here the
channels between the two convolutions of each block are the neurons, and the learning rate falls to zero by a cosine.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from examples.image_classification import CifarResNetConfig, CifarResNetForImageClassification
from examples.image_classification.data import (
    AugmentedImages,
    ImageCollator,
    LabelledImages,
    PlainImages,
    load_images,
    split_validation,
)
from hf_ats.partial_sgd import SGD, DropoutOfNeurons, DropoutOfWeights, PartialSGD, Point, criteria, neuron_layer
from hf_ats.run import manual_parser, user_errors
from hf_ats.storage import write_file

from .plots import a_line_each, draw_panels


@dataclass(frozen=True)
class Scale:
    """What a figure is measured on.

    Args:
        width: channels of the first stage, doubled in each of the next three.
        size: height and width of the images.
        images: of the training part.
        epochs: of each run.
        learning_rate: at the start.
        keep: the share of neurons, and of weights, that dropout keeps.
        batch: images a step.
        probes: how often the criteria are measured in a run, evenly, its start and end included.
        probe_images: training images, not augmented, on which a gradient is taken for the criteria.
        masks: how many dropout masks a probe draws of each kind.
    """

    width: int
    size: int
    images: int
    epochs: int
    learning_rate: float = 0.02
    keep: float = 0.8
    batch: int = 128
    probes: int = 41
    probe_images: int = 256
    masks: int = 4


SCALES = {
    "paper": Scale(width=64, size=32, images=50_000, epochs=200),
    "small": Scale(width=8, size=16, images=10_000, epochs=20),
}
RUNS = ("with dropout", "without dropout")
MASKED = ("neurons", "weights")


class Run:
    """The training of one network, and what is measured on the way.

    Args:
        scale: of the run.
        parts: `train` and `test`, images of the scale's size.
        dropout: whether to train with dropout of neurons.
        seed: of the weights, the order of the images, and the masks.
    """

    def __init__(self, scale: Scale, parts: dict[str, LabelledImages], dropout: bool, seed: int = 0):
        self.scale, self.parts, self.seed = scale, parts, seed
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = network(scale, seed).to(self.device)
        layers = inner_channels(self.model)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=scale.learning_rate, momentum=0.9, weight_decay=5e-4
        )
        method = DropoutOfNeurons(layers, scale.keep, seed) if dropout else SGD()
        self.runner = PartialSGD(self.model, self.optimizer, method)
        # Another seed than that of training, the same masks in both runs.
        self.masks = {
            "neurons": DropoutOfNeurons(layers, scale.keep, seed + 1),
            "weights": DropoutOfWeights(scale.keep, seed + 1),
        }
        self.collate = ImageCollator(*parts["train"].channel_statistics())
        self.images = AugmentedImages(parts["train"], seed)
        self.steps = len(parts["train"]) // scale.batch
        last = self.steps * scale.epochs
        self.probed_at = {round(last * probe / (scale.probes - 1)) for probe in range(scale.probes)}
        self.probes: list[dict] = []
        self.epochs_done = 0

    def train_epoch(self) -> None:
        """Train on every image once, but for the rest that fills no batch."""
        scale, last = self.scale, self.steps * self.scale.epochs
        self.images.set_epoch(self.epochs_done)
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(self.epochs_done))
        for indices in order[: self.steps * scale.batch].split(scale.batch):
            if self.runner.steps_done in self.probed_at:
                self.probes.append(self.probe())
            cosine = math.cos(math.pi * self.runner.steps_done / last)
            self.optimizer.param_groups[0]["lr"] = scale.learning_rate * (1 + cosine) / 2
            batch = self._batch(self.images.__getitems__(indices.tolist()))
            self.runner.step(lambda batch=batch: self._loss(batch))
        self.epochs_done += 1
        if self.epochs_done == scale.epochs:
            self.probes.append(self.probe())

    def probe(self) -> dict:
        """Measure the criteria of drawn dropout masks at the present parameters.

        Each is the mean over the masks, and undefined (`None`) if it is so with one of them.
        """
        images = self.parts["train"][torch.arange(self.scale.probe_images)]
        batch = self._batch([PlainImages(images)[index] for index in range(len(images))])
        parameters = dict(self.model.named_parameters())
        loss, gradient = self._gradient(batch, parameters)
        found = {"step": self.runner.steps_done, "loss": round(loss, 5)}
        for kind, method in self.masks.items():
            measured = []
            for number in range(self.scale.masks):
                choice = method.choose(self.runner.steps_done * self.scale.masks + number, Point(parameters, dict))
                moved = {name: p.detach() + choice.perturbation.get(name, 0) for name, p in parameters.items()}
                measured.append(criteria(gradient, self._gradient(batch, moved)[1], choice.mask))
            found[kind] = {
                name: _mean([getattr(one, name) for one in measured])
                for name in ("c_norm_squared", "c_sim", "c_align", "cosine")
            }
        return found

    def _batch(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        return {name: tensor.to(self.device) for name, tensor in self.collate(rows).items()}

    def _loss(self, batch, parameters=None) -> torch.Tensor:
        inputs = {"pixel_values": batch["pixel_values"]}
        logits = torch.func.functional_call(self.model, parameters or {}, (), inputs).logits
        return F.cross_entropy(logits, batch["labels"])

    def _gradient(self, batch, parameters) -> tuple[float, dict[str, torch.Tensor]]:
        at = {name: p.detach().requires_grad_() for name, p in parameters.items()}
        loss = self._loss(batch, at)
        return loss.item(), dict(zip(at, torch.autograd.grad(loss, list(at.values())), strict=True))

    @torch.no_grad()
    def accuracy(self) -> float:
        """Return the accuracy of the full network on the test part, in per cent."""
        plain, correct = PlainImages(self.parts["test"]), 0
        for indices in torch.arange(len(plain)).split(500):
            batch = self._batch([plain[index] for index in indices.tolist()])
            correct += int((self.model(pixel_values=batch["pixel_values"]).logits.argmax(1) == batch["labels"]).sum())
        return 100 * correct / len(plain)

    def state(self) -> dict:
        """Return all that a run goes on from."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "steps": self.runner.steps_done,
            "epochs": self.epochs_done,
            "probes": self.probes,
        }

    def load(self, state: dict) -> None:
        """Go on from what `state` returned."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.runner.steps_done, self.epochs_done, self.probes = state["steps"], state["epochs"], state["probes"]


def network(scale: Scale, seed: int) -> CifarResNetForImageClassification:
    """Build a ResNet-18 of a scale's width with no batch normalization in it."""
    torch.manual_seed(seed)
    widths = [scale.width * 2**stage for stage in range(4)]
    model = CifarResNetForImageClassification(CifarResNetConfig(embedding_size=widths[0], hidden_sizes=widths))
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
    return model.train()


def inner_channels(model: nn.Module) -> list:
    """Return the channels between the two convolutions of each block as layers of neurons."""
    firsts = [name for name, _ in model.named_parameters() if name.endswith("layer.0.convolution.weight")]
    return [
        neuron_layer(model, rows=[name], columns=[name.replace("layer.0.conv", "layer.1.conv")]) for name in firsts
    ]


def reduced_images(train_file: Path, test_file: Path, images: int, size: int) -> dict[str, LabelledImages]:
    """Read so many training images, and test images in proportion, averaged down to a height and width."""
    parts, _ = load_images(train_file=str(train_file), test_file=str(test_file))
    limits = {"train": images, "test": len(parts["test"]) * images // len(parts["train"])}
    drawn = {part: split_validation(found, 0, 0, limits[part])[0] for part, found in parts.items()}
    return {part: LabelledImages(_smaller(found.images, size), found.labels) for part, found in drawn.items()}


def _smaller(images: torch.Tensor, size: int) -> torch.Tensor:
    return F.adaptive_avg_pool2d(images.float(), size).round().to(torch.uint8)


def _mean(values: list[float | None]) -> float | None:
    """Return the mean to five digits; `None` if one of the values is undefined."""
    return None if None in values else float(f"{sum(values) / len(values):.5g}")


def measure(scale_name: str, output_dir: Path, train_file: Path, test_file: Path, seed: int = 0) -> dict:
    """Do what is missing of both runs, and return what was measured.

    Raises:
        ValueError: `output_dir` holds a run of another scale or seed.
    """
    scale = SCALES[scale_name]
    settings = {**asdict(scale), "seed": seed}
    parts = reduced_images(train_file, test_file, scale.images, scale.size)
    results = {"scale": scale_name, "settings": settings, "runs": {}}
    for name in RUNS:
        run, file = Run(scale, parts, name == "with dropout", seed), output_dir / f"{name.replace(' ', '-')}.pt"
        if file.exists():
            saved = torch.load(file)
            if saved["settings"] != settings:
                raise ValueError(
                    f"{file} is of {saved['settings']}, not of {settings}: give another --output_dir, or remove it"
                )
            run.load(saved["run"])
        bar = tqdm(range(scale.epochs), initial=run.epochs_done, desc=name, unit="epoch")
        while run.epochs_done < scale.epochs:
            run.train_epoch()
            draft = file.with_suffix(".draft")
            torch.save({"settings": settings, "run": run.state()}, draft)
            draft.replace(file)
            bar.update()
        bar.close()
        results["runs"][name] = {"accuracy": round(run.accuracy(), 2), "probes": run.probes}
    return results


def draw(results: dict) -> bytes:
    """Return Figure 2 (both criteria while training with dropout) and Figure 3 (the cosine, with and without)."""
    probes = {name: run["probes"] for name, run in results["runs"].items()}

    def curve(run: str, kind: str, name: str) -> list[tuple[int, float | None]]:
        return [(probe["step"], probe[kind][name]) for probe in probes[run]]

    figure_2 = {f"dropout of {kind}": kind for kind in MASKED}
    return draw_panels(
        [
            ("Figure 2: c_sim, with dropout", {k: curve(RUNS[0], v, "c_sim") for k, v in figure_2.items()}),
            ("Figure 2: c_align, where defined", {k: curve(RUNS[0], v, "c_align") for k, v in figure_2.items()}),
            ("Figure 3: cosine, masks of neurons", {run: curve(run, "neurons", "cosine") for run in RUNS}),
            ("The same, masks of weights", {run: curve(run, "weights", "cosine") for run in RUNS}),
        ]
    )


@user_errors()
def main() -> None:
    """Measure, then write both files."""
    parser = manual_parser(__doc__)
    parser.add_argument("--scale", choices=SCALES, required=True, help="the paper's network and data, or small ones")
    parser.add_argument("--train_file", type=Path, required=True, help="a Parquet file of CIFAR-10's training images")
    parser.add_argument("--test_file", type=Path, required=True, help="the same of its test images")
    parser.add_argument("--output_dir", type=Path, required=True, help="where the runs and the figures are written")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and masks (default: %(default)s)")
    arguments = parser.parse_args()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    results = measure(arguments.scale, arguments.output_dir, arguments.train_file, arguments.test_file, arguments.seed)
    write_file(arguments.output_dir / "results.json", a_line_each(results, "step"))
    write_file(arguments.output_dir / "figures.png", draw(results))
    print(f"Written to {arguments.output_dir}: results.json, figures.png")


if __name__ == "__main__":
    main()
