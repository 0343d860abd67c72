"""Pretext tasks: their losses by hand, one loss per image whatever comes with it, training by one worker and by two."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from objectives import train, train_in_two
from PIL import Image
from torch.nn import functional as F
from two_workers import in_two

from alray import pretext
from alray.config import ModelConfig, PretextConfig, TransformConfig
from alray.data.views import Views
from alray.models.backbone import ModelError
from alray.pretext.rotation import Rotation
from alray.pretext.simclr import _Gather, nt_xent
from alray.store import Store
from alray.train.pretext import ENCODER, PretextLosses, PretextRecipe, fresh
from alray.train.summary import TrainSummary

SIZE = 16
MODEL = ModelConfig(backbone="resnet18", options={"channels": [16, 16, 16, 16]}, small_stem=True)
IMAGE = TransformConfig(size=SIZE, resize=0)
TASKS = list(pretext.TASKS)


def picture(row: int, epoch: int = 0) -> np.ndarray:
    """A bright bar in the upper third on coloured noise: which way is up can be seen."""
    image = np.random.default_rng(row).integers(0, 120, (SIZE, SIZE, 3))
    image[1 + row % 3 : 5, 2:14, row % 2] += 120
    return image.astype(np.uint8)


def viewed(row: int, epoch: int) -> np.ndarray:
    return Views(IMAGE, 5)(Image.fromarray(picture(row)), row, epoch)


def config(task: str, **fields: Any) -> PretextConfig:
    return PretextConfig(task=task, **({"epochs": 3, "batch_size": 32, "lr": 0.05} | fields))


def recipe(out: Path, task: str, **fields: Any) -> PretextRecipe:
    return PretextRecipe(config(task, **fields), MODEL, IMAGE, 3, np.arange(129), Store(str(out)))


def losses(out: Path, task: str, rows: np.ndarray) -> np.ndarray:
    images = np.stack([(viewed(row, 0) if pretext.TASKS[task].views else picture(row)) for row in rows])
    return measured(out, task)({"image": images})["pretext_loss"][:, 0]


def measured(out: Path, task: str) -> Any:
    measure = PretextLosses(config(task), MODEL, IMAGE, 3, str(out / "model.pt"), "x")
    return measure.load(torch.device("cpu"))


def learned(task: str, summary: TrainSummary) -> bool:
    """Whether the loss fell. Twelve steps of SimCLR on pictures of noise leave it at chance, log(2 * 32 - 1) = 4.14:
    that it learns from real images is measured in benchmarks/bench_pretext.py, and its gradients are checked below."""
    first, last = summary.history[0].loss, summary.history[-1].loss
    return abs(last - math.log(63)) < 0.4 if task == "simclr" else last < first


@pytest.mark.parametrize("task", TASKS)
def test_trains_goes_on_after_a_kill_and_measures_an_image_alone(task: str, tmp_path: Path) -> None:
    show = viewed if pretext.TASKS[task].views else picture
    whole, again = recipe(tmp_path / "whole", task), recipe(tmp_path / "again", task)
    summary, states = train(whole, show)
    assert learned(task, summary)
    train(again, show, states[1])
    one, two = (torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("whole", "again"))
    assert all(torch.equal(one[name], two[name]) for name in one)

    rows = np.arange(150)
    together = losses(tmp_path / "whole", task, rows)
    assert np.isfinite(together).all() and np.ptp(together) > 0
    shuffled = np.random.default_rng(0).permutation(150)
    np.testing.assert_array_equal(losses(tmp_path / "whole", task, shuffled), together[shuffled])
    alone = np.concatenate([losses(tmp_path / "whole", task, rows[i : i + 7]) for i in range(0, 150, 7)])
    np.testing.assert_array_equal(alone, together)


@pytest.mark.parametrize("task", TASKS)
def test_two_workers_learn_one_network(task: str, tmp_path: Path) -> None:
    show = viewed if pretext.TASKS[task].views else picture
    first, second = train_in_two(recipe(tmp_path, task), show, tmp_path)
    assert [epoch.loss for epoch in first.history] == [epoch.loss for epoch in second.history]
    assert learned(task, first)
    # Of 129 images in batches of 32: a last one is too few for two workers' BatchNorm.
    assert first.history[0].images == 128
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert one and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("task", TASKS)
def test_losses_are_computed_in_full_precision(task: str) -> None:
    """Under mixed precision, too: they order a pool, and bfloat16 has three digits."""
    built = fresh(config(task), MODEL, IMAGE, 3)
    show = viewed if pretext.TASKS[task].views else picture
    images = torch.from_numpy(np.stack([show(row, 0) if built.views else picture(row) for row in range(8)]))
    with torch.autocast("cpu", torch.bfloat16):
        found = built(images)
    assert found.dtype == torch.float32
    # bfloat16 keeps 8 bits: of 8 losses computed in it, the lower 16 of 32 bits would all be zero
    assert (found.detach().view(torch.int32) & 0xFFFF).any()


@pytest.mark.parametrize(
    ("task", "backbone", "changes", "message"),
    [
        ("colorization", "vit_tiny_patch16_224", {}, "expected a backbone with a feature map"),
        (
            "colorization",
            "mobilenetv3_small_100",
            {"as_backbone": True},
            r"all weights of mobilenetv3_small_100, got colorization, which does not train conv_head.weight ...",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused(task: str, backbone: str, changes: dict[str, Any], message: str) -> None:
    size = 224 if "224" in backbone else 32
    with pytest.raises(ModelError, match=message):
        pretext.check(config(task, **changes), ModelConfig(backbone=backbone), size)
    pretext.check(config("rotation", as_backbone=True), ModelConfig(backbone=backbone), size)


def test_colours_of_a_backbone_that_keeps_channels_last() -> None:
    task = fresh(
        config("colorization"), ModelConfig(backbone="swin_tiny_patch4_window7_224"), TransformConfig(size=224), 0
    )
    assert task.head.in_channels == 768  # type: ignore[union-attr]
    assert task.eval().measure(torch.zeros(2, 224, 224, 3, dtype=torch.uint8)).shape == (2,)


def test_rotation_learns_which_way_is_up(tmp_path: Path) -> None:
    train(recipe(tmp_path, "rotation", epochs=20), picture)
    task = fresh(config("rotation"), MODEL, IMAGE, 3)
    assert isinstance(task, Rotation)
    task.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    images = torch.from_numpy(np.stack([picture(row) for row in range(500, 560)]))
    with torch.no_grad():
        logits = task.eval().logits(images)
    angle = torch.arange(4).repeat_interleave(60)
    assert (logits.argmax(1) == angle).float().mean() > 0.9


def test_rotation_loss_is_the_mean_of_four_cross_entropies(tmp_path: Path) -> None:
    train(recipe(tmp_path, "rotation", epochs=1), picture)
    task = fresh(config("rotation"), MODEL, IMAGE, 3).eval()
    task.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert isinstance(task, Rotation)
    images, expected = [picture(row) for row in range(5)], []
    for image in images:
        entropies = []
        for quarter in range(4):
            turned = torch.from_numpy(np.rot90(image, quarter).copy())[None]
            pixels = (turned.permute(0, 3, 1, 2).float() / 255 - task.mean) / task.std
            with torch.no_grad():
                logits = task.head(task.backbone(pixels))
            entropies.append(float(F.cross_entropy(logits, torch.tensor([quarter]))))
        expected.append(np.mean(entropies))
    np.testing.assert_allclose(losses(tmp_path, "rotation", np.arange(5)), expected, rtol=1e-4)


def test_colours_are_those_of_jpeg() -> None:
    """The target against Pillow's YCbCr: a network that predicts no colour has the mean squared chroma as loss."""
    task = fresh(config("colorization"), MODEL, IMAGE, 3).eval()
    for parameter in task.head.parameters():  # type: ignore[union-attr]
        torch.nn.init.zeros_(parameter)
    rng = np.random.default_rng(0)
    images = np.kron(rng.integers(0, 256, (4, 4, 4, 3)), np.ones((1, 4, 4, 1), int)).astype(np.uint8)
    with torch.no_grad():
        got = task(torch.from_numpy(images)).numpy()
        side = task.backbone.forward_features(torch.zeros(1, 3, SIZE, SIZE)).shape[-1]  # type: ignore[operator]
    for image, loss in zip(images, got, strict=True):
        chroma = np.asarray(Image.fromarray(image).convert("YCbCr"), float)[..., 1:] / 255 - 128 / 255
        pooled = chroma.reshape(side, SIZE // side, side, SIZE // side, 2).mean((1, 3))
        assert loss == pytest.approx((pooled**2).mean(), rel=0.05)  # of 8 bits


def test_simsiam_loss_by_hand() -> None:
    task = fresh(config("simsiam"), MODEL, IMAGE, 3).eval()
    images = torch.from_numpy(np.stack([viewed(row, 0) for row in range(3)]))
    with torch.no_grad():
        z = [task.projector(task.backbone(task.normalised(images[:, v]))) for v in (0, 1)]  # type: ignore[operator]
        p = [task.predictor(one) for one in z]  # type: ignore[operator]
        unit = [[one / one.norm(dim=1, keepdim=True) for one in side] for side in (z, p)]
        expected = -0.5 * ((unit[1][0] * unit[0][1]).sum(1) + (unit[1][1] * unit[0][0]).sum(1))
        torch.testing.assert_close(task(images), expected)


def naive_nt_xent(z: np.ndarray, temperature: float) -> np.ndarray:
    """Chen et al. 2020, equation 1, pair by pair; z (n, 2, d) normalised."""
    flat = z.reshape(-1, z.shape[-1])
    losses = np.empty(len(flat))
    for a in range(len(flat)):
        similar = np.exp([float(flat[a] @ flat[k]) / temperature if k != a else -np.inf for k in range(len(flat))])
        losses[a] = -np.log(similar[a ^ 1] / similar.sum())
    return losses.reshape(-1, 2).mean(1)


def test_nt_xent_against_the_equation() -> None:
    z = F.normalize(torch.randn(6, 2, 5, generator=torch.Generator().manual_seed(0)), dim=2)
    expected = naive_nt_xent(z.double().numpy(), 0.3)
    np.testing.assert_allclose(nt_xent(z, z, 0, 0.3).numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(nt_xent(z[2:5], z, 2, 0.3).numpy(), expected[2:5], rtol=1e-5)


def half(rank: int, z: torch.Tensor, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    mine = z[3 * rank : 3 * rank + 3].clone().requires_grad_()
    loss = nt_xent(mine, _Gather.apply(mine), 3 * rank, 0.3)
    loss.sum().backward()
    torch.save((loss.detach(), mine.grad), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_nt_xent_of_two_workers_is_that_of_one(tmp_path: Path) -> None:
    z = F.normalize(torch.randn(6, 2, 5, generator=torch.Generator().manual_seed(0)), dim=2)
    alone = z.clone().requires_grad_()
    loss = nt_xent(alone, alone, 0, 0.3)
    loss.sum().backward()
    in_two(half, z, str(tmp_path))
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    torch.testing.assert_close(torch.cat([part[0] for part in parts]), loss.detach())
    assert alone.grad is not None
    torch.testing.assert_close(torch.cat([part[1] for part in parts]), alone.grad)


def test_views_depend_on_seed_epoch_and_row_alone() -> None:
    image = Image.fromarray(np.kron(picture(3), np.ones((5, 5, 1), np.uint8)))  # 80 pixels: blurred, too
    config = TransformConfig(size=64)
    views = Views(config, 1)
    assert np.array_equal(views(image, 3, 0), views(image, 3, 0))
    for other in (views(image, 3, 1), views(image, 4, 0), Views(config, 2)(image, 3, 0)):
        assert not np.array_equal(other, views(image, 3, 0))
    assert views(image, 3).shape == views.shape == (2, 64, 64, 3)
    assert not np.array_equal(*views(image, 3))
    fixed = replace(views, fixed=True)
    assert np.array_equal(fixed(image, 3, 0), fixed(image, 3, 9))


def test_the_encoder_alone_is_a_checkpoint_of_the_backbone(tmp_path: Path) -> None:
    train(recipe(tmp_path, "rotation", epochs=1), picture)
    from alray.models.backbone import create

    model = create(MODEL.model_copy(update={"checkpoint": str(tmp_path / ENCODER)}), 3, 0, SIZE)
    trained = torch.load(tmp_path / "model.pt", weights_only=True)
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensor, trained[f"backbone.{name}"])


def test_a_backbone_without_a_feature_map_cannot_colour() -> None:
    vit = ModelConfig(backbone="vit_tiny_patch16_224")
    with pytest.raises(ModelError, match="colorization: expected a backbone with a feature map"):
        pretext.build(config("colorization"), vit, 0, 32)
