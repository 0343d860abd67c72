"""Selection on a processor needs no PyTorch: NumPy's products give the same picks, to the last bit. PyTorch is imported
where there may be a GPU, and where so many multiplications are to come that bfloat16 makes up for the import."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_k_center import KINDS, made

from alray.models import pytorch
from alray.process import processors
from alray.selection.kernels import coarse, matrices, shard_rows
from alray.selection.kernels.compared import two_nearest
from alray.selection.protocol import Picks
from alray.selection.select import select

WIDTHS = [2, 12, 100, 300]  # each is picked in another way


def both(choose: Callable[[], Picks], monkeypatch: pytest.MonkeyPatch) -> tuple[Picks, Picks]:
    """Chosen with PyTorch's float32 products, and by NumPy where PyTorch cannot be imported."""
    with coarse.forced(False):
        first = choose()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch", None)
        return first, choose()


def assert_same(first: Picks, second: Picks) -> None:
    for name in ("rows", "scores", "radius"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


@pytest.mark.parametrize("m", [0, 40])
@pytest.mark.parametrize("d", WIDTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_k_center_picks_the_same_with_numpy_alone(kind: str, d: int, m: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_rows, "CHUNK", 5000)
    x = made(kind, n=400, d=d)
    assert_same(*both(lambda: select("k_center", 60, embedding=x, labeled=np.arange(m), num_shards=2), monkeypatch))


@pytest.mark.parametrize("strategy", ["badge", "k_means", "partitioned_k_center", "robust_k_center"])
def test_other_strategies_pick_the_same_with_numpy_alone(strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = made("random", n=400, d=40)
    given = {"logits": x[:, :10]} if strategy == "badge" else {}
    assert_same(*both(lambda: select(strategy, 30, embedding=x, labeled=[], **given), monkeypatch))


@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 300, 5), (300, 7, 5), (70, 90, 0), (5000, 64, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products_of_numpy_and_pytorch_are_those_of_integers(
    dtype: type, shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    m, p, d = shape
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-50, 51, (size, d)).astype(dtype) for size in (m, p))
    by_row, by_column = rng.integers(-50, 51, (m, 1)).astype(float), rng.integers(-50, 51, (1, p)).astype(float)
    for absent in (False, True):
        if absent:
            monkeypatch.setitem(sys.modules, "torch", None)
        out = np.empty((m, p), dtype)
        assert matrices.product(a, b.T, out) is out
        for found in (out, matrices.product(a, b.T)):
            np.testing.assert_array_equal(found, a @ b.T)
        for bias in (by_row, by_column):
            found = matrices.twice_less(bias, a, b)
            assert found.dtype == dtype
            np.testing.assert_array_equal(found, bias - 2 * (a @ b.T))


def test_a_product_in_parts_is_the_whole_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """With PyTorch and without it; the numbers are exact."""
    monkeypatch.setattr(matrices, "_CACHED", 20)
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-9, 9, (m, 5)).astype(np.float32) for m in (23, 7))
    bias = rng.integers(-9, 9, (1, 7)).astype(np.float64)
    for torch in (matrices.pytorch.imported_torch(), None):
        monkeypatch.setattr(matrices.pytorch, "imported_torch", lambda torch=torch: torch)
        parts = [(part, g.copy()) for part, g in matrices.twice_less_parts(bias, a, b)]
        assert max(len(g) for _, g in parts) == 2
        assert [at for part, _ in parts for at in range(part.start, part.stop)] == list(range(23))
        np.testing.assert_array_equal(np.concatenate([g for _, g in parts]), bias - 2 * (a @ b.T))


def test_the_two_nearest_of_equal_ones_are_both_found() -> None:
    where, second = two_nearest(np.array([[3, 1, 1], [2, 5, 4]], np.float32))
    assert where.tolist() == [1, 0]
    assert second.tolist() == [1, 4]


@pytest.mark.parametrize(
    ("visible", "driver", "expected"), [(None, True, True), (None, False, False), ("", True, False), ("0", True, True)]
)
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere PyTorch is asked")
def test_pytorch_is_asked_for_a_gpu_only_where_there_is_a_driver(
    visible: str | None, driver: bool, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ALRAY_NO_GPU", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr(pytorch, "_DRIVERS", (tmp_path / ("nvidiactl" if driver else "none"),))
    assert pytorch.gpu_possible() is expected


PROGRAM = """
import sys
import numpy as np
from alray.models import pytorch
from alray.selection.kernels import rounding, shard_rows
from alray.selection.select import select

shard_rows.CHUNK = 32 * 500  # several parts
rounding._WORTH, pytorch.bfloat16_possible = {worth}, lambda: {possible}
x = np.random.default_rng(0).normal(size=(9000, 32)).astype(np.float32)
threads = []
begin = rounding._available


def available():
    threads.append(sys.modules["torch"].get_num_threads())
    return begin()


rounding._available = available
picks = select("k_center", 50, embedding=x, labeled=range(500), num_shards={shards})
torch = sys.modules.get("torch")
print(picks.rows.tolist())
print("torch" in sys.modules, len(threads) >= {shards}, max(threads, default=1), not torch or torch.get_num_threads())
"""


@pytest.mark.parametrize(
    ("worth", "possible", "imports"), [(2**60, True, False), (1_000_000, True, True), (1_000_000, False, False)]
)
def test_pytorch_is_imported_where_bfloat16_makes_up_for_it(
    worth: int, possible: bool, imports: bool, tmp_path: Path
) -> None:
    """Each shard decides by its own count, and computes alone afterwards, too."""
    shards = min(2, processors())
    program = PROGRAM.format(worth=worth, possible=possible, shards=shards)
    two = {**os.environ, "OMP_NUM_THREADS": "2"}  # PyTorch's, and they come back
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120, env=two
    )
    assert done.returncode == 0, done.stderr
    rows, told = done.stdout.splitlines()
    assert told == (f"True True 1 {shards}" if imports else "False False 1 True")
    x = np.random.default_rng(0).normal(size=(9000, 32)).astype(np.float32)
    with coarse.forced(False):
        expected = select("k_center", 50, embedding=x, labeled=range(500), num_shards=2)
    assert rows == str(expected.rows.tolist())
