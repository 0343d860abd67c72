"""VAAL and the pretext tasks, checked against the papers alone.

Every expected value here was written from Sinha et al. 2019 (VAAL), Zhang et al. 2016 (colorization, with the
regression of chroma that alray documents), Chen & He 2021 (SimSiam) and Chen et al. 2020 (SimCLR), and not from
alray's code. The other checks of this kind are in `test_from_the_papers.py`.
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from objectives import train, train_in_two
from PIL import Image
from scipy.stats import rankdata

from alray import select
from alray.config import ModelConfig, PretextConfig, TransformConfig, VaalConfig
from alray.models.backbone import create
from alray.models.vaal import Coded, VaalNetworks
from alray.pretext import build
from alray.pretext.simclr import SimClr, nt_xent
from alray.store import Store
from alray.train.pretext import PretextLosses, fresh, transform
from alray.train.vaal import Discriminating, VaalRecipe

# A weak adversary: under a strong one the autoencoder learns to hide any shift, which is what it is trained for.
SMALL = VaalConfig(
    image_size=16, latent=8, width=8, adversary=0.1, lr=1e-3, lr_discriminator=1e-3, epochs=12, batch_size=32
)
LABELED, UNLABELED = np.arange(0, 128), np.arange(128, 384)
SHIFTED = UNLABELED[128:]  # the planted shift: half of the unlabeled images are of another kind
RESNET = ModelConfig(backbone="test_resnet")
TASKS = ("colorization", "simsiam", "simclr")


def picture(row: int, epoch: int) -> np.ndarray:
    """Noise around grey; the images of the planted shift have a brighter left half and a darker right half."""
    noise = np.random.default_rng(row).normal(128, 25, (16, 16, 3))
    if row in SHIFTED:
        noise += np.where(np.arange(16) < 8, 40, -40)[None, :, None]
    return noise.clip(0, 255).astype(np.uint8)


def recipe(folder: Path) -> VaalRecipe:
    return VaalRecipe(SMALL, 3, 1, LABELED, UNLABELED, Store(str(folder), ""))


def discriminated(folder: Path, at_once: int = 384) -> np.ndarray:
    """The logits of being labeled of all images by the weights that a training wrote."""
    measure = Discriminating(SMALL, str(folder / "model.pt"), "").load(torch.device("cpu"))
    images = np.stack([picture(row, 0) for row in range(384)])
    parts = [measure({"image": images[at : at + at_once]})["discriminator"] for at in range(0, 384, at_once)]
    return np.concatenate(parts).ravel().astype(np.float64)


def auc(lower: np.ndarray, higher: np.ndarray) -> float:
    """The probability that a number of `higher` is larger than one of `lower` (Mann and Whitney)."""
    ranks = rankdata(np.concatenate([lower, higher]))[len(lower) :]
    return float((ranks.sum() - len(higher) * (len(higher) + 1) / 2) / (len(lower) * len(higher)))


def global_states() -> tuple[Any, ...]:
    return random.getstate(), str(np.random.get_state(legacy=False)), torch.get_rng_state().tolist()


def test_vaal_separates_a_planted_shift_and_leaves_the_global_random_states_alone(tmp_path: Path) -> None:
    """The published code reseeds NumPy's global state with every batch. The labels of being labeled are noise for half
    of the unlabeled images, which come from the same source as the labeled ones."""
    before = global_states()
    train(recipe(tmp_path), picture)
    logits = discriminated(tmp_path)
    assert global_states() == before
    assert np.isfinite(logits).all()
    assert auc(logits[SHIFTED], logits[LABELED]) > 0.9
    assert auc(logits[SHIFTED], logits[UNLABELED[:128]]) > 0.9
    picks = select("vaal", 60, discriminator=logits, labeled=LABELED)
    assert picks.rows.tolist() == [row for row in np.argsort(logits) if row not in LABELED][:60]
    assert np.isin(picks.rows, SHIFTED).mean() > 0.9
    for at_once in (50, 131):  # the logit of an image depends on that image alone
        assert (discriminated(tmp_path, at_once) == logits).all()


def test_vaal_does_not_depend_on_the_global_random_states(tmp_path: Path) -> None:
    logits, short = [], SMALL.model_copy(update={"epochs": 2})
    for seed in (1, 2):
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        train(replace(recipe(tmp_path / str(seed)), config=short), picture)
        logits.append(discriminated(tmp_path / str(seed)))
    assert (logits[0] == logits[1]).all()


@pytest.mark.slow
def test_vaal_learns_in_two_workers_what_it_learns_in_one(tmp_path: Path) -> None:
    """What the workers of the published code learn is lost. Here they write weights that separate the shift."""
    train_in_two(recipe(tmp_path), picture, tmp_path)
    logits = discriminated(tmp_path)
    assert auc(logits[SHIFTED], logits[LABELED]) > 0.9
    untrained = VaalNetworks(16, 8, 8).eval()
    with torch.no_grad():
        images = torch.from_numpy(np.stack([picture(row, 0) for row in range(384)]))
        assert not np.allclose(untrained(images).numpy(), logits, atol=1e-2)


def test_the_networks_of_vaal_have_the_published_layers() -> None:
    """Four convolutions of kernel 4 and stride 2 with 128 to 1024 channels, and a discriminator z-512-512-1."""
    networks = VaalNetworks(64, 64, 128)
    convolutions = [m for m in networks.autoencoder.encoder if isinstance(m, torch.nn.Conv2d)]
    assert [(m.in_channels, m.out_channels) for m in convolutions] == [(3, 128), (128, 256), (256, 512), (512, 1024)]
    assert {(m.kernel_size, m.stride, m.padding) for m in convolutions} == {((4, 4), (2, 2), (1, 1))}
    linear = [m for m in networks.discriminator.modules() if isinstance(m, torch.nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(64, 512), (512, 512), (512, 1)]
    images = torch.zeros(2, 3, 64, 64)
    coded = networks.autoencoder(images, torch.zeros(2, 64))
    assert coded.image.shape == images.shape and coded.mean.shape == coded.log_variance.shape == (2, 64)


def test_the_autoencoder_of_vaal_minimises_squared_error_plus_divergence_of_every_image() -> None:
    """alray adds both per image and divides by the pixel values, where the published code adds the divergence summed
    over the batch to the squared error averaged over the pixels."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 5, 3, 16, 16))
    mean, log_variance = rng.normal(size=(2, 5, 4))
    divergence = [
        sum((m**2 + np.exp(v) - v - 1) / 2 for m, v in zip(*pair, strict=True))
        for pair in zip(mean, log_variance, strict=True)
    ]
    expected = [(((x[i] - y[i]) ** 2).sum() + divergence[i]) / (3 * 16 * 16) for i in range(5)]
    coded = Coded(*(torch.from_numpy(array) for array in (y, mean, log_variance)))
    np.testing.assert_allclose(coded.elbo(torch.from_numpy(x)).numpy(), expected, rtol=1e-10)


def outputs(module: torch.nn.Module) -> list[torch.Tensor]:
    seen: list[torch.Tensor] = []
    module.register_forward_hook(lambda module, given, out: seen.append(out))
    return seen


def source(row: int) -> Image.Image:
    """A smooth picture with colours of its own."""
    return Image.fromarray(np.random.default_rng(row).integers(0, 256, (6, 6, 3), np.uint8)).resize((40, 40))


@pytest.mark.parametrize("task", TASKS)
def test_a_pretext_loss_is_finite_and_depends_on_its_image_alone(task: str, tmp_path: Path) -> None:
    config, image = PretextConfig(task=task, batch_size=16), TransformConfig(size=16, resize=0)
    network = fresh(config, RESNET, image, 5)
    network.train()
    change = transform(config, image, 5, fixed=True)
    with torch.no_grad():  # BatchNorm statistics that are not those of fresh weights
        network(torch.from_numpy(np.stack([change(source(row), row) for row in range(1000, 1032)])))
    torch.save(network.state_dict(), tmp_path / "model.pt")
    measure = PretextLosses(config, RESNET, image, 5, str(tmp_path / "model.pt"), "")
    loss_of = measure.load(torch.device("cpu"))

    def losses(rows: list[int]) -> dict[int, float]:
        images = np.stack([measure.transform(source(row), row) for row in rows])
        values = loss_of({"image": images})["pretext_loss"].ravel()
        return dict(zip(rows, values.tolist(), strict=True))

    before = global_states()
    together = losses(list(range(100)))
    assert global_states() == before
    assert np.isfinite(list(together.values())).all() and len(set(together.values())) > 90
    assert losses(list(range(100))) == together
    shuffled = np.random.default_rng(0).permutation(100).tolist()
    assert losses(shuffled) == together
    for size in (9, 64):
        parts = [losses(shuffled[at : at + size]) for at in range(0, 100, size)]
        assert {row: loss for part in parts for row, loss in part.items()} == together
    assert losses([3])[3] == losses([3, 200, 201, 202])[3] == together[3]
    assert (measure.transform(source(3), 3, epoch=4) == measure.transform(source(3), 3, epoch=0)).all()


def chroma(images: np.ndarray) -> np.ndarray:
    """ITU-R BT.601: (b, s, s, 3) from 0 to 255 -> Cb, Cr (b, 2, s, s), from -0.5 to 0.5."""
    r, g, b = np.moveaxis(images / 255.0, -1, 0)
    return np.stack([-0.168736 * r - 0.331264 * g + 0.5 * b, 0.5 * r - 0.418688 * g - 0.081312 * b], axis=1)


@pytest.mark.parametrize("size", [16, 32, 64])
def test_colorization_is_the_mean_squared_error_of_chroma_predicted_from_luma(size: int) -> None:
    task = build(PretextConfig(task="colorization"), RESNET, 0, size).eval()
    head, seen = task.get_submodule("head"), outputs(task.get_submodule("head"))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, size, size, 3)).astype(np.uint8)
    images[0] = rng.integers(0, 256, 3)  # one colour alone
    with torch.no_grad():
        losses = task(torch.from_numpy(images)).numpy()
    planes = seen[0].numpy().astype(float)
    side = size // planes.shape[-1]  # each cell of the feature map gets the mean chroma of its pixels
    target = chroma(images).reshape(6, 2, size // side, side, size // side, side).mean(axis=(3, 5))
    np.testing.assert_allclose(losses, ((planes - target) ** 2).mean(axis=(1, 2, 3)), rtol=1e-4)

    grey = np.repeat(rng.integers(0, 256, (2, size, size, 1)), 3, axis=3).astype(np.uint8)
    with torch.no_grad():
        head.get_parameter("weight").zero_()
        head.get_parameter("bias").copy_(torch.tensor([0.1, -0.2]))
        assert np.allclose(task(torch.from_numpy(grey)), (0.1**2 + 0.2**2) / 2, atol=1e-6)


def test_colorization_does_not_see_the_colours() -> None:
    """Two images of equal luma and different chroma get one prediction."""
    task = build(PretextConfig(task="colorization"), RESNET, 0, 32).eval()
    seen = outputs(task.get_submodule("head"))
    luma = np.random.default_rng(0).integers(80, 160, (1, 32, 32, 1))
    # 0.299 r + 0.587 g + 0.114 b does not change by (587, -299, 0) / 587 * 50, up to the rounding of 8 bits
    pair = np.concatenate([luma + np.zeros(3), luma + np.array([50, -25.468, 0])]).round().astype(np.uint8)
    with torch.no_grad():
        losses = task(torch.from_numpy(pair))
    first, second = seen[0].numpy()
    assert np.abs(first - second).max() < 0.02 * np.abs(first).max()
    assert losses[0] != losses[1]


def views(count: int, size: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).integers(0, 256, (count, 2, size, size, 3)).astype(np.uint8))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def by_view(seen: list[torch.Tensor], count: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The outputs for the views (count, 2), in whichever order the two views went through the network."""
    everything = torch.cat(seen).detach().numpy().astype(float)
    return [everything[:count], everything[count:]], [everything[0::2], everything[1::2]]


@pytest.mark.parametrize("mode", ["train", "measure"])
def test_simsiam_is_the_negative_cosine_of_prediction_and_projection_both_ways(mode: str) -> None:
    """L = D(p1, z2) / 2 + D(p2, z1) / 2 with D(p, z) = -cos(p, z)."""
    task = build(PretextConfig(task="simsiam"), RESNET, 0, 32).train(mode == "train")
    z, p = outputs(task.get_submodule("projector")), outputs(task.get_submodule("predictor"))
    losses = (task if mode == "train" else task.measure)(views(6, 32)).detach().numpy()
    expected = [
        [-(cosine(p1[i], z2[i]) + cosine(p2[i], z1[i])) / 2 for i in range(6)]
        for (z1, z2), (p1, p2) in zip(by_view(z, 6), by_view(p, 6), strict=True)
    ]
    assert any(np.allclose(losses, one, atol=1e-5) for one in expected)
    assert (losses >= -1).all() and (losses <= 1).all()


def test_simsiam_stops_the_gradient_at_the_projection_that_is_predicted() -> None:
    task = build(PretextConfig(task="simsiam"), RESNET, 0, 32).train()
    z, p = outputs(task.get_submodule("projector")), outputs(task.get_submodule("predictor"))
    parameters = list(task.parameters())
    loss = task(views(6, 32)).mean()
    got = torch.autograd.grad(loss, parameters, retain_graph=True)
    z_all, p_all, matches = torch.cat(z), torch.cat(p), []
    for first, second in (((slice(0, 6)), slice(6, 12)), (slice(0, 12, 2), slice(1, 12, 2))):
        same = torch.nn.functional.cosine_similarity
        ways = [same(p_all[a], z_all[b].detach()) for a, b in ((first, second), (second, first))]
        wanted = torch.autograd.grad(-(ways[0] + ways[1]).mean() / 2, parameters, retain_graph=True)
        matches.append(all(torch.allclose(a, b, atol=1e-6, rtol=1e-3) for a, b in zip(got, wanted, strict=True)))
    assert any(matches)


def brute_nt_xent(z: np.ndarray, temperature: float) -> np.ndarray:
    """Chen et al. 2020, equation 1, over 2 n views; of every image the mean over its two views."""
    flat = z.reshape(-1, z.shape[-1])
    losses = []
    for a in range(len(flat)):
        terms = {k: np.exp(cosine(flat[a], flat[k]) / temperature) for k in range(len(flat)) if k != a}
        losses.append(-np.log(terms[a ^ 1] / sum(terms.values())))
    return np.array([(losses[at] + losses[at + 1]) / 2 for at in range(0, len(losses), 2)])


@pytest.mark.parametrize("temperature", [0.5, 0.07])
def test_simclr_is_nt_xent_over_the_global_batch(temperature: float) -> None:
    z = np.random.default_rng(0).normal(size=(9, 2, 5))
    z /= np.linalg.norm(z, axis=2, keepdims=True)
    everybody, expected = torch.from_numpy(z), brute_nt_xent(z, temperature)
    for first, count in ((0, 9), (0, 4), (4, 5)):
        got = nt_xent(everybody[first : first + count], everybody, first, temperature)
        np.testing.assert_allclose(got.numpy(), expected[first : first + count], rtol=1e-6)

    task = SimClr(create(RESNET, 2, 0, 32), PretextConfig(task="simclr", temperature=temperature), 32).train()
    images = views(6, 32)
    projections = task.project(images).detach().numpy().astype(float)
    np.testing.assert_allclose(np.linalg.norm(projections, axis=2), 1, atol=1e-5)
    np.testing.assert_allclose(task(images).detach().numpy(), brute_nt_xent(projections, temperature), rtol=1e-4)


def test_simclr_measures_the_similarity_of_the_two_views() -> None:
    """The loss that orders the pool leaves out the negatives, which change with the batch."""
    task = SimClr(create(RESNET, 2, 0, 32), PretextConfig(task="simclr", temperature=0.2), 32).eval()
    with torch.no_grad():
        z = task.project(views(6, 32)).numpy().astype(float)
        got = task.measure(views(6, 32)).numpy()
    np.testing.assert_allclose(got, [-cosine(*pair) / 0.2 for pair in z], rtol=1e-5)
