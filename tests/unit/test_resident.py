"""What k-center does on a GPU, run on a CPU: views made on the device, of vectors that stay there or are sent again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_k_center import KINDS, assert_twin, chosen, made, twin

from alray.features.arrays import ArraySource
from alray.selection.kernels import shard_rows
from alray.selection.kernels.distance import Space
from alray.selection.kernels.matrices import forced
from alray.selection.kernels.resident import Resident, limited

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", [*KINDS, "unusable"])
def test_a_view_made_on_the_device_has_the_same_bits(kind: str) -> None:
    x = made("huge" if kind == "unusable" else kind)
    if x.dtype == np.float64:
        x = x.astype(np.float32)
    space = Space.around("l2", x[:50] * (1e-25 if kind == "unusable" else 1))  # most views are too large to be used
    expected, found = space.view(x), space.view_on_device(torch.from_numpy(x))
    np.testing.assert_array_equal(found.x.numpy(), expected.x)
    assert found.x.dtype == torch.float32
    assert found.step == expected.step
    np.testing.assert_allclose(found.squares, expected.squares, rtol=1e-13)
    assert np.isinf(expected.squares).any() == (kind == "unusable")


def test_a_view_made_on_the_device_keeps_the_step_of_small_integers() -> None:
    x = (np.random.default_rng(0).integers(-3, 4, (600, 8)) * 8 + 10_000).astype(np.float16)
    space = Space.around("l2", x)
    found = space.view_on_device(torch.from_numpy(x))
    assert found.step == space.view(x).step > 0


@pytest.mark.parametrize("room", [0, 1 << 40])
@pytest.mark.parametrize("m", [0, 40])
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_picks_with_views_made_on_the_device(
    kind: str, m: int, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_rows, "CHUNK", 300)
    x = made(kind)
    labeled = np.random.default_rng(0).permutation(len(x))[:m]
    with forced(CPU), limited(room):
        for shards in (1, 2, 7, 30):
            assert_twin(chosen(x, labeled, 60, shards), twin(x, labeled, 60))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_vectors_stay_on_the_device_only_where_there_is_room_for_them(dtype: type) -> None:
    x = np.random.default_rng(0).normal(size=(50, 6)).astype(dtype)
    x.flags.writeable = False
    shard = ArraySource(np.arange(100, 150), {"embedding": x}).open()
    there = Resident(shard, "embedding", CPU)
    with limited(x.nbytes):
        for at in (np.arange(50), np.arange(10, 20), np.array([3, 7, 30]), np.empty(0, np.intp)):
            found = there.take(at)
            assert found is not None
            np.testing.assert_array_equal(found.numpy(), x[at])
    with limited(x.nbytes - 1):
        assert Resident(shard, "embedding", CPU).take(np.arange(3)) is None
