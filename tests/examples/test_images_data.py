"""Reading labelled images, the split, and the generated ones."""

import io

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from examples.image_classification.data import LabelledImages, load_images, split_validation
from examples.image_classification.generated import CLASS_NAMES, generated_images
from tests.support.images import labelled_images


def picture(pixels) -> dict:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def write(path, pictures, labels, names=("cat", "dog", "frog"), image="image", label="label"):
    """A Parquet file as the Hub has them, with named classes unless `names` is None."""
    kind = datasets.ClassLabel(names=list(names)) if names else datasets.Value("int64")
    features = datasets.Features({image: datasets.Image(), label: kind})
    columns = {image: [picture(one) for one in pictures], label: labels}
    datasets.Dataset.from_dict(columns, features=features).to_parquet(path)
    return str(path)


@pytest.fixture
def files(tmp_path):
    data = labelled_images(7)
    pictures = data.images.movedim(1, -1).numpy()
    return {
        "train_file": write(tmp_path / "train.parquet", pictures[:5], data.labels[:5].tolist()),
        "test_file": write(tmp_path / "test.parquet", pictures[5:], data.labels[5:].tolist()),
    }, data


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_images_and_labels_are_read_as_they_are(files):
    paths, data = files
    parts, names = load_images(**paths, progress=False)
    assert names == ["cat", "dog", "frog"]
    assert torch.equal(parts["train"].images, data.images[:5]) and parts["train"].images.is_contiguous()
    assert torch.equal(parts["test"].images, data.images[5:])
    assert torch.equal(torch.cat([parts["train"].labels, parts["test"].labels]), data.labels)


def test_other_columns_grey_images_and_classes_without_names(tmp_path):
    grey = np.arange(64).reshape(8, 8)
    train = write(tmp_path / "a.parquet", [grey] * 3, [0, 3, 1], names=None, image="img", label="y")
    test = write(tmp_path / "b.parquet", [grey], [2], names=None, image="img", label="y")
    parts, names = load_images(train_file=train, test_file=test, image_column="img", label_column="y", progress=False)
    assert names == ["0", "1", "2", "3"]
    assert torch.equal(parts["train"].images[0], torch.arange(64, dtype=torch.uint8).view(1, 8, 8).expand(3, 8, 8))


def test_a_directory_is_a_data_set_too(files, tmp_path):
    _, data = files
    folder = tmp_path / "set"
    folder.mkdir()
    for part in ("train", "test"):
        (folder / f"{part}.parquet").write_bytes((tmp_path / f"{part}.parquet").read_bytes())
    parts, _ = load_images(dataset_name=str(folder), progress=False)
    assert torch.equal(parts["train"].images, data.images[:5]) and len(parts["test"]) == 2


def test_the_split_takes_every_image_once_and_follows_its_seed():
    data = LabelledImages(torch.arange(50, dtype=torch.uint8).view(50, 1, 1, 1), torch.arange(50) % 10)
    train, validation = split_validation(data, 10, seed=1)
    assert (len(train), len(validation)) == (40, 10)
    assert sorted([*train.images.flatten().tolist(), *validation.images.flatten().tolist()]) == list(range(50))
    assert torch.equal(train.images.flatten() % 10, train.labels), "each image keeps its label"
    again, other = split_validation(data, 10, seed=1)[1], split_validation(data, 10, seed=2)[1]
    assert torch.equal(again.images, validation.images) and not torch.equal(other.images, validation.images)
    few, same = split_validation(data, 10, seed=1, limit=5)
    assert torch.equal(few.images, train.images[:5]) and torch.equal(same.images, validation.images)


@pytest.mark.parametrize(("validation", "limit"), [(8, None), (-1, None), (3, 6), (0, 0)])
def test_a_split_that_does_not_fit_is_refused(validation, limit):
    with pytest.raises(ValueError, match=rf"--validation_images {validation} .* do not fit into the 8 images"):
        split_validation(labelled_images(8), validation, seed=0, limit=limit)


def test_channel_statistics_are_those_of_the_pixels():
    data = labelled_images(5)
    pixels = data.images.double() / 255
    mean, std = data.channel_statistics()
    torch.testing.assert_close(torch.tensor(mean, dtype=torch.float64), pixels.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(
        torch.tensor(std, dtype=torch.float64), pixels.transpose(0, 1).flatten(1).std(dim=1, correction=0)
    )


def test_generated_images_follow_their_seed_and_show_every_class():
    parts, names = generated_images(seed=1, train=40, test=20)
    assert names == CLASS_NAMES and len(set(names)) == 10
    assert parts["train"].images.shape == (40, 3, 32, 32) and parts["train"].images.dtype == torch.uint8
    for part in parts.values():
        assert part.labels.bincount().tolist() == [len(part) // 10] * 10
    again, other = generated_images(seed=1, train=40, test=20)[0], generated_images(seed=2, train=40, test=20)[0]
    assert torch.equal(again["test"].images, parts["test"].images)
    assert not torch.equal(other["train"].images, parts["train"].images)
    assert not torch.equal(parts["train"].images[:20], parts["test"].images)


def test_generated_classes_can_be_told_apart():
    """Averaged over many images, each class has its own look, so that there is something to learn."""
    data = generated_images(train=2000, test=1)[0]["train"]
    deviation = (data.images.double() - data.images.double().mean(dim=(2, 3), keepdim=True)).abs().mean(dim=1)
    looks = torch.stack([deviation[data.labels == label].mean(dim=0).flatten() for label in range(6)])
    distances = torch.cdist(looks, looks) + 1e9 * torch.eye(6)
    assert distances.min() > 30
