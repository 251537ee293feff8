"""Images made on the spot, so that everything runs without data: shapes and patterns of random colours and places."""

import math

import torch

from .data import LabelledImages

CLASS_NAMES = [
    *("disc", "ring", "square", "frame", "triangle", "cross"),
    *("horizontal stripes", "vertical stripes", "diagonal stripes", "checkerboard"),
]


def generated_images(
    seed: int = 0, train: int = 2000, test: int = 500, size: int = 32
) -> tuple[dict[str, LabelledImages], list[str]]:
    """Make the default data of the example; the same arguments always make the same images.

    Each image shows one of ten shapes and patterns: place, size, colours and noise are random, and the contrast is low
    enough that a few epochs tell networks apart. All classes look the same in a mirror.

    Args:
        seed: of the images.
        train: how many training images, the classes in turn.
        test: how many test images.
        size: height and width.

    Returns:
        As `load_images`.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = {"train": _draw(train, size, generator), "test": _draw(test, size, generator)}
    return parts, list(CLASS_NAMES)


def _draw(number: int, size: int, generator: torch.Generator) -> LabelledImages:
    labels = torch.arange(number) % len(CLASS_NAMES)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(number, *shape, generator=generator)

    radius = uniform(0.2, 0.38, 1, 1) * size
    centers = [uniform(0.38, 0.62, 1, 1) * size for _ in range(2)]
    places = torch.arange(size, dtype=torch.float32)
    y, x = places.view(1, size, 1) - centers[0], places.view(1, 1, size) - centers[1]
    flat, steep = y.expand(number, size, size), x.expand(number, size, size)
    mirrored = (uniform(0, 1, 1, 1) < 0.5).float() * 2 - 1
    masks = torch.stack(_masks(flat, steep, radius, mirrored), dim=1)  # (number, classes, size, size)
    mask = masks[torch.arange(number), labels].unsqueeze(1).float()

    background = uniform(0.1, 0.9, 3, 1, 1)
    contrast = uniform(0.12, 0.3, 3, 1, 1) * torch.where(background > 0.5, -1.0, 1.0)
    noise = 0.1 * torch.randn(number, 3, size, size, generator=generator)
    images = (background + contrast * mask + noise).clamp(0, 1)
    return LabelledImages((255 * images).round().to(torch.uint8), labels)


def _masks(y, x, radius, mirrored) -> list[torch.Tensor]:
    """Return where each class of `CLASS_NAMES` is drawn; `y` and `x`, `(number, size, size)`, from the centre."""
    distance = (y * y + x * x).sqrt()
    edge = torch.maximum(y.abs(), x.abs())
    inner = 0.55 * radius
    wave = 2 * math.pi / (0.8 * radius)
    return [
        distance < radius,
        (distance < radius) & (distance > inner),
        edge < radius,
        (edge < radius) & (edge > inner),
        (y < radius * 0.8) & (y > 2 * x.abs() - radius),
        (edge < radius) & (torch.minimum(y.abs(), x.abs()) < 0.3 * radius),
        (wave * y).sin() > 0,
        (wave * x).sin() > 0,
        (wave * (y + mirrored * x) / math.sqrt(2)).sin() > 0,
        ((wave * y).sin() > 0) ^ ((wave * x).sin() > 0),
    ]
