"""VAAL's networks: they find what is unlike the labeled images, with one worker or two, and touch no global state."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from objectives import train, train_in_two
from sklearn.metrics import roc_auc_score

import alray
from alray.config import VaalConfig
from alray.models.vaal import Coded, pixels
from alray.store import Store
from alray.train.batches import PairedPlan
from alray.train.objective import Place
from alray.train.vaal import Discriminating, VaalRecipe, fresh

CONFIG = VaalConfig(
    image_size=16, latent=8, width=4, adversary=1.0, epochs=12, batch_size=16, lr=2e-3, lr_discriminator=2e-3
)
LABELED, KNOWN, NOVEL = np.arange(64), np.arange(100, 164), np.arange(1000, 1064)


def picture(row: int, epoch: int) -> np.ndarray:
    """Grey noise; from row 1000 on with a bright bar."""
    image = np.random.default_rng(row).integers(60, 140, (16, 16, 3))
    if row >= 1000:
        image[:, 4:12] += 100
    return image.astype(np.uint8)


def recipe(out: Path, config: VaalConfig = CONFIG) -> VaalRecipe:
    return VaalRecipe(config, 3, 0, LABELED, np.concatenate([KNOWN, NOVEL]), Store(str(out)))


def logits(out: Path, rows: np.ndarray) -> np.ndarray:
    measured = Discriminating(CONFIG, str(out / "model.pt"), "x").load(torch.device("cpu"))
    return measured({"image": np.stack([picture(row, 0) for row in rows])})["discriminator"][:, 0]


def auc(out: Path) -> float:
    looks_unlabeled = -logits(out, np.concatenate([KNOWN, NOVEL]))
    return float(roc_auc_score(np.repeat([0, 1], 64), looks_unlabeled))


def test_it_finds_what_is_unlike_the_labeled(tmp_path: Path) -> None:
    train(recipe(tmp_path), picture)
    assert auc(tmp_path) > 0.9
    rows = np.concatenate([KNOWN, NOVEL])
    picks = alray.select("vaal", 30, discriminator=logits(tmp_path, rows))
    assert (rows[picks.rows] >= 1000).mean() > 0.9
    assert np.array_equal(picks.scores, np.sort(-logits(tmp_path, rows).astype(np.float64))[::-1][:30])


def test_two_workers_train_one_network(tmp_path: Path) -> None:
    first, second = train_in_two(recipe(tmp_path), picture, tmp_path)
    assert [epoch.loss for epoch in first.history] == [epoch.loss for epoch in second.history]
    assert auc(tmp_path) > 0.9


def test_a_step_of_two_workers_is_a_step_of_one(tmp_path: Path) -> None:
    """BatchNorm aside: in evaluation mode the gradients of both halves add up to those of the whole batch."""
    whole = recipe(tmp_path)
    objective = whole.build(Place(), lambda m: m)
    rows = np.concatenate([LABELED[:8], NOVEL[:8]])
    labels = np.repeat([1, 0], 8)
    images = pixels(torch.from_numpy(np.stack([picture(row, 0) for row in rows])))
    network = objective.network.eval()  # type: ignore[attr-defined]
    noise = torch.zeros(16, CONFIG.latent)

    def loss(part: np.ndarray) -> torch.Tensor:
        coded: Coded = network.autoencoder(images[part], noise[part])
        return coded.elbo(images[part]).sum() / 16

    both = [torch.autograd.grad(loss(labels == side), list(network.autoencoder.parameters())) for side in (0, 1)]
    together = torch.autograd.grad(loss(labels >= 0), list(network.autoencoder.parameters()))
    for a, b, c in zip(*both, together, strict=True):
        torch.testing.assert_close(a + b, c, rtol=1e-4, atol=1e-7)


def test_goes_on_after_a_kill_as_if_nothing_had_happened(tmp_path: Path) -> None:
    short = CONFIG.model_copy(update={"epochs": 3})
    _, states = train(recipe(tmp_path / "whole", short), picture)
    train(recipe(tmp_path / "again", short), picture, states[0])
    whole, again = ((tmp_path / name / "model.pt") for name in ("whole", "again"))
    one, two = torch.load(whole, weights_only=True), torch.load(again, weights_only=True)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_leaves_global_random_states_alone(tmp_path: Path) -> None:
    np.random.seed(5)
    torch.manual_seed(5)
    random.seed(5)
    before = (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), random.getstate())
    train(recipe(tmp_path, CONFIG.model_copy(update={"epochs": 1})), picture)
    assert (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), random.getstate()) == before


def test_the_loss_is_the_papers() -> None:
    """KL(N(m, v) || N(0, 1)) by torch's own distributions, and the mean squared error, per image."""
    generator = torch.Generator().manual_seed(0)
    image, target = torch.rand(5, 3, 4, 4, generator=generator), torch.rand(5, 3, 4, 4, generator=generator)
    mean, log_variance = torch.randn(5, 6, generator=generator), torch.randn(5, 6, generator=generator)
    normal = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    kl = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(1)
    expected = ((image - target) ** 2).mean((1, 2, 3)) + kl / 48
    torch.testing.assert_close(Coded(image, mean, log_variance).elbo(target), expected)


@pytest.mark.parametrize("size", [16, 32, 80])
def test_any_image_size(size: int) -> None:
    network = fresh(CONFIG.model_copy(update={"image_size": size}), 0)
    images = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    assert network.autoencoder(pixels(images), torch.zeros(2, 8)).image.shape == (2, 3, size, size)
    assert network(images).shape == (2,)


@pytest.mark.parametrize(("labeled", "unlabeled", "world"), [(40, 23, 1), (40, 23, 3), (9, 100, 2), (16, 16, 2)])
def test_pairs_cover_both_sets(labeled: int, unlabeled: int, world: int) -> None:
    """An epoch has every labeled image once (a too small last batch aside); the unlabeled ones go round evenly."""
    task = replace(recipe(Path("x")), labeled=np.arange(labeled), unlabeled=np.arange(500, 500 + unlabeled))
    plans: list[PairedPlan] = [task.plan(Place(rank, world)) for rank in range(world)]
    seen: list[int] = []
    for epoch in range(6):
        parts = [plan.epoch(epoch) for plan in plans]
        assert [len(part.rows) for part in parts] == [sum(plan.sizes(epoch)) for plan in plans]
        assert sum(len(part.rows) for part in parts) == sum(parts[0].norms)
        rows, labels = np.concatenate([p.rows for p in parts]), np.concatenate([p.labels for p in parts])
        mine = rows[labels == 1]
        assert len(np.unique(mine)) == len(mine) == plans[0].images >= labeled - 2 * world
        assert np.array_equal(labels == 0, rows >= 500)
        seen += rows[labels == 0].tolist()
    counts = np.bincount(np.array(seen) - 500, minlength=unlabeled)
    assert counts.max() - counts.min() <= 2 + 6 * (unlabeled % 16 < 2 * world)
