"""ResNet for small images: its shape, and checkpoints that load with this package and without it."""

import json
import sys

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageClassification, ResNetConfig, ResNetForImageClassification

from examples.image_classification import CifarResNetConfig, CifarResNetForImageClassification
from examples.image_classification.train import ViTImageProcessor
from hf_ats import export_core, export_full, load_partitioned
from hf_ats.partition import at_level
from tests.support.checkpoints import TRANSFORMERS_4, run_elsewhere
from tests.support.images import partitioned_resnet, tiny_resnet


def test_the_defaults_are_resnet_18_for_cifar():
    with torch.device("meta"):
        model = CifarResNetForImageClassification(CifarResNetConfig())
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_173_962
    assert [conv.out_channels for conv in convolutions if conv.kernel_size == (3, 3)] == [
        64,
        *[64] * 4,
        *[128] * 4,
        *[256] * 4,
        *[512] * 4,
    ]
    assert model.config.num_labels == 10
    stem = convolutions[0]
    assert (stem.kernel_size, stem.stride, stem.padding, stem.bias) == ((3, 3), (1, 1), (1, 1), None)


def test_the_stem_keeps_the_size_and_each_further_stage_halves_it():
    model = tiny_resnet(hidden_sizes=[4, 8, 16], depths=[1, 1, 1])
    states = model(torch.zeros(2, 3, 32, 32), output_hidden_states=True).hidden_states
    assert [tuple(state.shape) for state in states] == [
        (2, 4, 32, 32),
        (2, 4, 32, 32),
        (2, 8, 16, 16),
        (2, 16, 8, 8),
    ]


def test_it_is_the_stock_network_but_for_the_stem():
    ours = tiny_resnet()
    stock = ResNetForImageClassification(
        ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=3)
    ).eval()
    state = {name: tensor for name, tensor in ours.state_dict().items() if "embedder.embedder.conv" not in name}
    missing, unexpected = stock.load_state_dict(state, strict=False)
    assert missing == ["resnet.embedder.embedder.convolution.weight"] and not unexpected
    stock.resnet.embedder = ours.resnet.embedder
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(stock(images).logits, ours(images).logits)


def test_the_stem_starts_as_the_other_convolutions():
    model = CifarResNetForImageClassification(CifarResNetConfig())
    weight = model.resnet.embedder.embedder.convolution.weight
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)


def test_a_config_keeps_its_classes(tmp_path):
    assert CifarResNetConfig(num_labels=3).num_labels == 3
    names = {0: "cat", 1: "dog"}
    config = CifarResNetConfig(id2label=names, label2id={"cat": 0, "dog": 1})
    config.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).id2label == names


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """The folder of a full, a core and an unpartitioned export, with a batch and the logits of each."""
    folder = tmp_path_factory.mktemp("exports")
    processor = ViTImageProcessor(
        size={"height": 8, "width": 8}, image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4]
    )
    model, plain = partitioned_resnet().eval(), tiny_resnet()
    images = torch.rand(3, 3, 8, 8)
    reports = {
        "full": export_full(model, folder / "full", tokenizer=processor),
        "core": export_core(model, folder / "core", tokenizer=processor),
        "plain": export_full(plain, folder / "plain", tokenizer=processor),
    }
    logits = {"plain": plain(images).logits}
    for level in ("full", "core"):
        with at_level(model, level):
            logits[level] = model(images).logits
    torch.save({"images": images, **logits}, folder / "expected.pt")
    return folder, reports, images, {name: tensor.detach() for name, tensor in logits.items()}


@pytest.mark.law(number=6)
def test_exports_compute_what_the_model_computes(exports):
    folder, reports, images, logits = exports
    assert not torch.equal(logits["full"], logits["core"])
    for name, expected in logits.items():
        network = AutoModelForImageClassification.from_pretrained(folder / name)
        assert type(network) is CifarResNetForImageClassification
        assert network.config.hidden_sizes == ([2, 4] if name == "core" else [4, 8])
        torch.testing.assert_close(network(images).logits, expected, rtol=0, atol=1e-6)
        assert reports[name].parity < 1e-6
        assert reports[name].parameters == sum(parameter.numel() for parameter in network.parameters())


def test_exports_hold_their_code_and_what_prepares_pictures(exports):
    folder = exports[0]
    for name in ("full", "core", "plain"):
        assert sorted(path.name for path in (folder / name).iterdir()) == [
            "config.json",
            "export.json",
            "model.safetensors",
            "modeling_cifar_resnet.py",
            "preprocessor_config.json",
        ]


ALONE = """
    import importlib.util, json, sys
    import numpy, torch, transformers
    from transformers import AutoModelForImageClassification, pipeline

    folder = sys.argv[1]
    try:
        import hf_ats
        sys.exit("hf_ats can be imported, so nothing is tested")
    except ImportError:
        pass
    expected = torch.load(f"{folder}/expected.pt")
    found = {"version": transformers.__version__, "differences": {}, "scores": {}}
    for name in ("full", "core", "plain"):
        model = AutoModelForImageClassification.from_pretrained(f"{folder}/{name}", trust_remote_code=True)
        with torch.no_grad():
            found["differences"][name] = (model(expected["images"]).logits - expected[name]).abs().max().item()
        model.save_pretrained(f"{folder}/again-{found['version']}-{name}")
        if importlib.util.find_spec("PIL") is None:
            continue
        from PIL import Image
        picture = Image.fromarray(numpy.arange(8 * 8 * 3, dtype=numpy.uint8).reshape(8, 8, 3))
        classify = pipeline("image-classification", model=f"{folder}/{name}", trust_remote_code=True, device="cpu")
        found["scores"][name] = {one["label"]: one["score"] for one in classify(picture)}
    print(json.dumps(found))
"""


@pytest.mark.law(number=6)
@pytest.mark.parametrize("interpreter", {"5": sys.executable, "4": TRANSFORMERS_4}.values(), ids=["5", "4"])
def test_exports_work_where_the_package_is_not(exports, interpreter, tmp_path):
    folder, _, _, _ = exports
    found = run_elsewhere(interpreter, ALONE, tmp_path, folder, with_package=False)
    assert all(difference < 1e-6 for difference in found["differences"].values())
    assert found["scores"] or interpreter != sys.executable, "Pillow is missing here, and pictures need it"
    pixels = torch.arange(8 * 8 * 3).view(8, 8, 3).movedim(-1, 0) / 255
    pixels = (pixels - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    for name, scores in found["scores"].items():
        network = AutoModelForImageClassification.from_pretrained(folder / name)
        expected = network(pixels.unsqueeze(0)).logits.softmax(-1)[0].tolist()
        assert [scores[f"LABEL_{index}"] for index in range(3)] == pytest.approx(expected, rel=1e-4)
        again = folder / f"again-{found['version']}-{name}"
        assert (again / "modeling_cifar_resnet.py").read_bytes() == (
            folder / name / "modeling_cifar_resnet.py"
        ).read_bytes()
        assert json.loads((again / "config.json").read_text())["auto_map"]


@pytest.mark.law(number=9)
def test_a_partitioned_checkpoint_is_read_whole(tmp_path):
    model, images = partitioned_resnet((0.25, 0.5)).eval(), torch.rand(2, 3, 8, 8)
    model.save_pretrained(tmp_path)
    again = load_partitioned(tmp_path).eval()
    assert type(again) is CifarResNetForImageClassification
    for level in ("core", "level1", "full"):
        with at_level(model, level), at_level(again, level):
            assert torch.equal(again(images).logits, model(images).logits)


@pytest.mark.law(number=9)
def test_a_partitioned_checkpoint_is_not_taken_for_a_stock_one(tmp_path):
    partitioned_resnet().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "ats_partitioned_ats_cifar_resnet"
    assert "auto_map" not in config
    with pytest.raises(ValueError, match="ats_partitioned_ats_cifar_resnet"):
        AutoModelForImageClassification.from_pretrained(tmp_path, trust_remote_code=True)
