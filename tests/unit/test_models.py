"""The classifier: right pixels in, deterministic weights, clear refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from alray.config import ModelConfig
from alray.models.backbone import ModelError, autocast, create, embed_images, set_training
from alray.models.head import Head, HeadError, initial_head
from alray.store import Store

SMALL = ModelConfig(backbone="test_resnet")


def images(n: int, size: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def test_forward_is_the_head_on_the_normalised_backbone() -> None:
    model = create(ModelConfig(backbone="test_resnet", mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)), 7, 0).eval()
    x = images(3)
    embedding, logits = model(torch.from_numpy(x))
    pixels = (x / 255.0 - np.array([0.1, 0.2, 0.3])) / np.array([0.5, 0.6, 0.7])
    expected = model.backbone(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()).float())
    assert embedding.dtype == logits.dtype == torch.float32
    assert embedding.shape == (3, 96) and logits.shape == (3, 7)
    torch.testing.assert_close(embedding, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits, embedding @ model.head.weight.T + model.head.bias)


def test_normalisation_is_the_models_own_unless_given() -> None:
    assert create(SMALL, 3, 0).mean.flatten().tolist() == [0.5, 0.5, 0.5]
    resnet = create(ModelConfig(backbone="resnet18"), 3, 0)
    assert resnet.std.flatten().tolist() == pytest.approx([0.229, 0.224, 0.225])
    assert create(ModelConfig(backbone="resnet18", std=(1.0, 1.0, 1.0)), 3, 0).std.flatten().tolist() == [1, 1, 1]


def test_weights_are_a_function_of_the_seed_and_leave_the_global_state_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = create(SMALL, 4, 0)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(10)
    second, other = create(SMALL, 4, 0), create(SMALL, 4, 1)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    assert not torch.equal(first.backbone.conv1[0].weight, other.backbone.conv1[0].weight)
    assert not torch.equal(first.head.weight, other.head.weight)


def test_initial_head() -> None:
    head = initial_head(50, 200, 0)
    assert head.weight.shape == (50, 200) and head.weight.dtype == np.float32
    assert head.weight.std() == pytest.approx(1e-3, rel=0.05) and not head.bias.any()
    assert np.array_equal(create(SMALL, 4, 3).head.weight.detach().numpy(), initial_head(4, 96, 3).weight)


def test_small_stem_keeps_the_resolution() -> None:
    stem = create(ModelConfig(backbone="resnet18", small_stem=True), 10, 0, 32).backbone
    assert stem.conv1.kernel_size == (3, 3) and stem.conv1.stride == (1, 1)
    with torch.no_grad():
        assert stem.forward_features(torch.zeros(1, 3, 32, 32)).shape == (1, 512, 4, 4)


def test_fixed_input_size_follows_the_images() -> None:
    model = create(ModelConfig(backbone="vit_tiny_patch16_224"), 5, 0, 64)
    assert embed_images(model, images(2, 64), 2, torch.device("cpu"))[1].shape == (2, 5)


@pytest.mark.parametrize(
    ("config", "size", "words"),
    [
        (ModelConfig(backbone="resnet81"), 0, "resnet18"),
        (ModelConfig(backbone="test_vit", small_stem=True), 0, "small_stem"),
        (ModelConfig(backbone="test_resnet", small_stem=True), 0, "small_stem"),  # three convolutions in its stem
        (ModelConfig(backbone="test_resnet", options={"no_such": 1}), 0, "no_such"),
        (ModelConfig(backbone="test_resnet", options={"num_classes": 5}), 0, "num_classes"),
        (ModelConfig(backbone="test_resnet", options={"global_pool": ""}), 0, "pooled"),
        (ModelConfig(backbone="test_vit"), 13, "13"),
    ],
)
def test_refusals_name_the_field(config: ModelConfig, size: int, words: str) -> None:
    with pytest.raises(ModelError, match=rf"model\..*{words}|{words}"):
        create(config, 3, 0, size)


def test_embed_images_does_not_depend_on_the_batches_nor_change_the_model() -> None:
    model = create(SMALL, 4, 0)
    set_training(model, freeze_bn=False)
    next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    x = images(7)
    x.flags.writeable = False
    one, many = embed_images(model, x, 7, torch.device("cpu")), embed_images(model, x, 3, torch.device("cpu"))
    np.testing.assert_allclose(one[0], many[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(one[1], many[1], rtol=1e-3, atol=1e-6)
    assert one[0].dtype == one[1].dtype == np.float32 and len(one[0]) == 7
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_freeze_bn_keeps_the_statistics_and_trains_the_rest() -> None:
    model = create(SMALL, 4, 0)
    batch = torch.from_numpy(images(4))
    norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    for freeze in (True, False):
        set_training(model, freeze_bn=freeze)
        before = norm.running_mean.clone()
        model(batch)[1].sum().backward()
        assert torch.equal(before, norm.running_mean) == freeze
    assert norm.weight.grad is not None and model.training


def test_mixed_precision_gives_float32() -> None:
    model = create(SMALL, 4, 0).eval()
    with autocast(torch.device("cpu"), "bf16"):
        embedding, logits = model(torch.from_numpy(images(2)))
        features = model.backbone(torch.zeros(1, 3, 32, 32))
    assert features.dtype == torch.bfloat16  # or nothing was tested
    assert embedding.dtype == logits.dtype == torch.float32
    torch.testing.assert_close(logits, embedding @ model.head.weight.T + model.head.bias)


def test_head_file(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    head = initial_head(3, 5, 1)
    head.save(store)
    loaded = Head.load(store)
    assert np.array_equal(loaded.weight, head.weight) and np.array_equal(loaded.bias, head.bias)
    with pytest.raises(HeadError, match="weight"):
        Head(np.zeros((3, 5), np.float32), np.zeros(4, np.float32))
    store.write_bytes("head.npz", b"nonsense")
    with pytest.raises(HeadError, match=r"head\.npz"):
        Head.load(store)
    with pytest.raises(FileNotFoundError):
        Head.load(store.child("nothing"))
