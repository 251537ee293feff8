"""Independent subnet training: split again by Assumption 3, beside fixed rounds of as many exchanges.

    python -m experiments.subnets --results experiments/figures/subnets.json \
        --train_file data/cifar10/train.parquet --test_file data/cifar10/test.parquet

The same command does what RESULTS lacks. Two layers of neurons between reduced images of CIFAR-10 (generated ones
without --train_file) and their classes; all workers are in one process, which is the same (docs/theory.md). For each
tolerance and seed one run splits by the rule, and one makes as many exchanges in as many steps, evenly.
"""

import hashlib
import itertools
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from examples.image_classification.data import LabelledImages
from examples.image_classification.generated import generated_images
from hf_ats.partial_sgd import IndependentSubnets, SubnetTraining, neuron_layer
from hf_ats.run import manual_parser, user_errors
from hf_ats.storage import write_file

from .dropout import reduced_images
from .plots import a_line_each


@dataclass(frozen=True)
class Settings:
    """What is trained: `steps` of each worker, the learning rate to zero within them."""

    workers: int = 2
    hidden: int = 128
    size: int = 16
    images: int = 10_000
    steps: int = 400
    batch: int = 64
    learning_rate: float = 0.05
    momentum: float = 0.9
    most_steps: int = 100  # of a round
    tolerances: tuple[float, ...] = (1.0, 1.1, 1.25, 1.5)
    seeds: tuple[int, ...] = (0, 1, 2)


def train(settings: Settings, parts: dict[str, LabelledImages], seed: int, tolerance=None, lengths=None) -> dict:
    """Train one network, by a tolerance or with rounds of given lengths, and return what it came to."""
    torch.manual_seed(seed)
    inputs, hidden = 3 * settings.size**2, settings.hidden
    model = nn.Sequential(
        nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 10)
    )
    layers = [
        neuron_layer(model, rows=["0.weight", "0.bias"], columns=["2.weight"]),
        neuron_layer(model, rows=["2.weight", "2.bias"], columns=["4.weight"]),
    ]
    optimizer = torch.optim.SGD(model.parameters(), lr=settings.learning_rate, momentum=settings.momentum)
    subnets = IndependentSubnets(layers, settings.workers, settings.most_steps, seed)
    training = SubnetTraining(model, optimizer, subnets, tolerance)
    images, labels = tensors(parts["train"], parts["train"])
    generator = torch.Generator().manual_seed(seed)
    margins, ends = [], []
    for step in range(settings.steps):
        optimizer.param_groups[0]["lr"] = settings.learning_rate * (1 + math.cos(math.pi * step / settings.steps)) / 2
        if lengths and training.steps_in_round == 0:
            subnets.local_steps = lengths[training.rounds_done]
        if step == settings.steps - 1:
            subnets.local_steps = 1  # the last step ends its round
        drawn = torch.randint(len(labels), (settings.workers, settings.batch), generator=generator)
        is_first = training.steps_in_round == 0
        done = training.step(lambda worker, of=drawn: F.cross_entropy(model(images[of[worker]]), labels[of[worker]]))
        if tolerance is not None and is_first:
            margins.append(max(local.margin for local in done.values()))
        if training.steps_in_round == 0:
            ends.append(step + 1)
    with torch.no_grad():
        test_images, test_labels = tensors(parts["test"], parts["train"])
        logits = model(test_images)
    found = {
        "exchanges": training.rounds_done,
        "lengths": [end - start for start, end in itertools.pairwise([0, *ends])],
        "accuracy": round(100 * float((logits.argmax(1) == test_labels).double().mean()), 2),
        "loss": round(float(F.cross_entropy(logits, test_labels)), 4),
    }
    if tolerance is not None:
        found["smallest_margin"] = float(f"{min(margins):.4g}")
        found["smoothness"] = float(f"{max(one.value for one in training.smoothness.values()):.4g}")
    return found


def tensors(data: LabelledImages, like: LabelledImages) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images as vectors, each channel with the mean 0 and deviation 1 of `like`, and their labels."""
    mean, deviation = (torch.tensor(values).view(-1, 1, 1) for values in like.channel_statistics())
    return ((data.images / 255 - mean) / deviation).flatten(1), data.labels


def evenly(steps: int, rounds: int) -> list[int]:
    """Return the lengths of rounds that are as equal as they can be."""
    ends = [steps * number // rounds for number in range(rounds + 1)]
    return [end - start for start, end in itertools.pairwise(ends)]


def measure(settings: Settings, parts: dict[str, LabelledImages], results: Path) -> None:
    """Do what the file of results lacks.

    Raises:
        ValueError: it is of other settings or images.
    """
    digest = hashlib.sha256(b"".join(part.images.numpy().tobytes() for part in parts.values())).hexdigest()[:16]
    # Through JSON, as what was read is.
    facts = json.loads(json.dumps({**asdict(settings), "test_images": len(parts["test"]), "fingerprint": digest}))
    written = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {"settings": facts, "runs": []}
    if written["settings"] != facts:
        raise ValueError(f"{results} is of {written['settings']}, not of {facts}: give another --results")
    runs = {(run["tolerance"], run["seed"]): run for run in written["runs"]}
    for seed in tqdm(settings.seeds, desc="seeds"):
        for tolerance in settings.tolerances:
            if (tolerance, seed) in runs:
                continue
            by_rule = train(settings, parts, seed, tolerance)
            fixed = train(settings, parts, seed, lengths=evenly(settings.steps, by_rule["exchanges"]))
            assert fixed["exchanges"] == by_rule["exchanges"]
            written["runs"].append({"tolerance": tolerance, "seed": seed, "by_rule": by_rule, "fixed": fixed})
            write_file(results, a_line_each(written, "tolerance"))


@user_errors()
def main() -> None:
    """Read the images, and measure."""
    parser = manual_parser(__doc__)
    parser.add_argument("--results", type=Path, required=True, help="the JSON file that is written, or gone on with")
    parser.add_argument("--train_file", type=Path, help="a Parquet file of CIFAR-10's training images")
    parser.add_argument("--test_file", type=Path, help="the same of its test images")
    arguments = parser.parse_args()
    settings = Settings()
    if arguments.train_file is None:
        parts = generated_images(size=settings.size)[0]
    else:
        parts = reduced_images(arguments.train_file, arguments.test_file, settings.images, settings.size)
    measure(settings, parts, arguments.results)


if __name__ == "__main__":
    main()
