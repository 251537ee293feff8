"""Shifted and mirrored images, against the slow and obvious way; what they depend on, and what they do not."""

import torch
from torch.utils.data import DataLoader

from examples.image_classification.data import (
    AugmentedImages,
    EpochOfImages,
    ImageCollator,
    LabelledImages,
    PlainImages,
)
from tests.support.images import labelled_images


def shown(images, indices):
    return torch.stack([row["pixel_values"] for row in images.__getitems__(list(indices))])


def crops_of(image, padding):
    """Every crop of the padded image, mirrored or not."""
    height, width = image.shape[1:]
    padded = torch.zeros(image.shape[0], height + 2 * padding, width + 2 * padding, dtype=image.dtype)
    padded[:, padding : padding + height, padding : padding + width] = image
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            crop = padded[:, top : top + height, left : left + width]
            yield (top, left, False), crop
            yield (top, left, True), crop.flip(2)


def test_each_image_is_a_crop_of_its_padded_self_and_all_crops_come():
    data = labelled_images(400, size=6)
    found = shown(AugmentedImages(data, padding=1), range(400))
    counts = {}
    for image, original in zip(found, data.images, strict=True):
        (crop,) = [name for name, crop in crops_of(original, 1) if torch.equal(crop, image)]
        counts[crop] = counts.get(crop, 0) + 1
    assert len(counts) == 3 * 3 * 2
    assert 150 < sum(count for (_, _, mirrored), count in counts.items() if mirrored) < 250


def test_the_labels_stay_with_their_images():
    data = labelled_images(9)
    rows = AugmentedImages(data).__getitems__([4, 2, 8])
    assert [row["labels"] for row in rows] == data.labels[[4, 2, 8]].tolist()


def test_images_depend_on_seed_epoch_and_index_alone():
    data = labelled_images(40)
    images = AugmentedImages(data, seed=5)
    images.set_epoch(3)
    together = shown(images, range(40))
    torch.manual_seed(99)
    other = AugmentedImages(data, seed=5)
    other.set_epoch(1)
    shown(other, range(40))
    other.set_epoch(3)
    apart = torch.stack([other[index]["pixel_values"] for index in reversed(range(40))]).flip(0)
    assert torch.equal(together, apart)
    for seed, epoch in ((5, 4), (6, 3)):
        other = AugmentedImages(data, seed=seed)
        other.set_epoch(epoch)
        assert not torch.equal(shown(other, range(40)), together)


def test_without_padding_and_mirrors_an_image_is_itself():
    data = labelled_images(9)
    assert torch.equal(shown(AugmentedImages(data, padding=0, mirror=False), range(9)), data.images)
    assert torch.equal(torch.stack([PlainImages(data)[index]["pixel_values"] for index in range(9)]), data.images)


def test_workers_that_outlive_an_epoch_hear_of_the_next():
    data = labelled_images(20)
    images = AugmentedImages(data, seed=1)
    collate = ImageCollator([0.0] * 3, [1.0] * 3)
    loader = DataLoader(images, batch_size=20, num_workers=1, persistent_workers=True, collate_fn=collate)
    for epoch in (0, 1):
        images.set_epoch(epoch)
        (batch,) = loader
        assert torch.equal(batch["pixel_values"], collate(images.__getitems__(list(range(20))))["pixel_values"])


def test_a_batch_is_normalised_by_channel():
    data = labelled_images(50)
    mean, std = data.channel_statistics()
    batch = ImageCollator(mean, std)([PlainImages(data)[index] for index in range(50)])
    assert batch["pixel_values"].shape == (50, 3, 8, 8) and batch["pixel_values"].dtype == torch.float32
    assert torch.equal(batch["labels"], data.labels)
    torch.testing.assert_close(batch["pixel_values"].mean(dim=(0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    deviations = batch["pixel_values"].transpose(0, 1).flatten(1).std(dim=1, correction=0)
    torch.testing.assert_close(deviations, torch.ones(3), rtol=0, atol=1e-4)


def test_a_channel_of_one_shade_stays_finite():
    grey = LabelledImages(torch.full((2, 3, 4, 4), 7, dtype=torch.uint8), torch.tensor([0, 1]))
    batch = ImageCollator(*grey.channel_statistics())([PlainImages(grey)[0]])
    torch.testing.assert_close(batch["pixel_values"], torch.zeros(1, 3, 4, 4), rtol=0, atol=1e-5)


def test_a_callback_tells_the_epoch():
    images = AugmentedImages(labelled_images(20))

    class State:
        epoch = 2.6

    callback = EpochOfImages(images)
    callback.on_epoch_begin(None, State, None)
    third = shown(images, range(20))
    images.set_epoch(2)
    assert torch.equal(shown(images, range(20)), third)
    images.set_epoch(0)
    assert not torch.equal(shown(images, range(20)), third)
