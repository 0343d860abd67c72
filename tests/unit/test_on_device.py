"""Strategies that a GPU helps, run here on PyTorch's device "cpu" and on a GPU that is none: the picks and scores are
those of NumPy alone, to the last bit."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import numpy as np
import pytest
import reference
import torch
from pretend_gpu import CUDA, PretendGpu, marked
from torch.overrides import TorchFunctionMode

from alray import STRATEGIES as EVERY
from alray.features.arrays import ArraySource, Block, cut
from alray.models import device as devices
from alray.models import pytorch
from alray.models.device import out_of_memory
from alray.process import processors
from alray.selection.in_process import usual_shards
from alray.selection.kernels import gradients, matrices, resident, weights
from alray.selection.kernels.boundary import Boundaries
from alray.selection.kernels.gap_scorer import GapScorer
from alray.selection.kernels.gradients import Factors
from alray.selection.kernels.logits import DENSE, Logits, columns_of, logits_of, row_width, sent_to_gpu
from alray.selection.kernels.matrices import Place, best_device, fetched, forced
from alray.selection.kernels.near_on_device import NearOnDevice
from alray.selection.kernels.screen import ENTROPY, MARGIN, ODDS
from alray.selection.kernels.softmax import Gaps
from alray.selection.kernels.weights import WeightBounds
from alray.selection.protocol import Context, Picks, SelectionError
from alray.selection.registry import build
from alray.selection.select import select
from alray.selection.strategies import badge
from alray.selection.strategies.badge import Badge

CPU = torch.device("cpu")
STRATEGIES = ["margin", "confidence", "entropy", "base", "badge"]
KINDS = ["random", "tied", "duplicates", "certain", "float16", "twins", "float64"]
M, K = 20, 60


def made(kind: str, n: int = 2600, c: int = 6, d: int = 12) -> dict[str, Any]:
    """What the strategies are given: n rows, of which the first M are labeled."""
    rng = np.random.default_rng(KINDS.index(kind) if kind in KINDS else 99)
    x, z, w = rng.normal(size=(n, d)), 2 * rng.normal(size=(n, c)), rng.normal(size=(c, d))
    if kind == "tied":
        x, z, w = (rng.integers(-2, 3, one.shape).astype(float) for one in (x, z, w))
    elif kind == "duplicates":
        at = rng.integers(0, n // 6, n)
        x, z = x[at], z[at]
    elif kind == "certain":
        z *= 15
    elif kind == "twins":
        w[1] = w[0]  # no boundary between two classes
    dtype = {"float16": np.float16, "float64": np.float64}.get(kind, np.float32)
    return {"embedding": x.astype(dtype), "logits": z.astype(dtype), "head": (w, np.zeros(c))}


def chosen(name: str, data: dict[str, Any], shards: int = 1, k: int = K) -> Picks:
    given = {column: data[column] for column in ("embedding", "logits") if column in build(name).needs}
    head = {"head": data["head"]} if name == "base" else {}
    return select(name, k, **given, **head, labeled=np.arange(M), seed=3, round=1, num_shards=shards)


def twin(name: str, data: dict[str, Any]) -> reference.Picked:
    x, z = (data[column].astype(np.float64) for column in ("embedding", "logits"))
    rows = np.arange(M, len(z))
    if name == "badge":
        known = {"labeled": x[:M], "labeled_logits": z[:M], "labeled_rows": np.arange(M)}
        return reference.badge(x[M:], z[M:], rows, K, seed=3, round=1, **known)
    if name == "base":
        return reference.base(z[M:], data["head"][0], rows, K, seed=3, round=1)
    return getattr(reference, name)(z[M:], rows, K, 3, 1)


def assert_same(found: Picks, expected: Picks) -> None:
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_array_equal(found.scores, expected.scores)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks of rows and of centers, although there are few."""
    monkeypatch.setattr(matrices, "_SENT", 1)
    monkeypatch.setattr(weights, "_ROWS_ON_GPU", 64)
    monkeypatch.setattr(weights, "_CENTERS_ON_GPU", (8, 16))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", STRATEGIES)
def test_the_picks_are_those_of_the_processor_and_of_the_twin(name: str, kind: str) -> None:
    data = made(kind, n=900 if name == "badge" else 2600)
    with forced(None):
        expected = chosen(name, data)
    for shards in (1, 2, 7, 30):
        with forced(CPU):
            assert_same(chosen(name, data, shards), expected)
    rows, scores = twin(name, data)
    np.testing.assert_array_equal(expected.rows, rows)
    np.testing.assert_allclose(expected.scores, scores, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", ["random", "tied", "certain", "float16", "twins"])
@pytest.mark.parametrize("name", STRATEGIES)
def test_nothing_that_is_on_the_gpu_meets_what_is_not(name: str, kind: str) -> None:
    data = made(kind)
    with forced(None):
        expected = chosen(name, data)
    with forced(CUDA), PretendGpu() as gpu:
        assert_same(chosen(name, data), expected)
    assert gpu.calls > 20


@pytest.mark.parametrize("name", [name for name in EVERY if name not in STRATEGIES])
def test_every_other_strategy_picks_the_same_where_there_is_a_gpu(name: str) -> None:
    data, rng = made("random", n=600), np.random.default_rng(1)
    numbers = {"pretext_loss": rng.random(600), "discriminator": rng.random(600)}
    given = {column: numbers[column] for column in numbers if column in EVERY[name].needs}
    given |= {**data, "labels": rng.integers(0, 6, 600), "labeled": np.arange(M), "seed": 3, "num_shards": 1}
    with forced(None):
        expected = select(name, 20, **given)
    with forced(CUDA), resident.limited(1 << 30), PretendGpu():
        assert_same(select(name, 20, **given), expected)


@pytest.mark.parametrize("room", [0, 1 << 40])
def test_nothing_of_k_center_that_is_on_the_gpu_meets_what_is_not(room: int) -> None:
    data = made("random")
    with forced(None):
        expected = chosen("k_center", data)
    with forced(CUDA), resident.limited(room), PretendGpu() as gpu:
        assert_same(chosen("k_center", data), expected)
    assert gpu.calls > 20


@pytest.mark.parametrize("name", ["k_center", *STRATEGIES])
def test_every_tensor_is_made_on_a_device_that_is_named(name: str) -> None:
    data = made("random")
    with forced(None):
        expected = chosen(name, data)
    with forced(CPU), torch.device("meta"):  # which computes nothing
        assert_same(chosen(name, data), expected)


@pytest.mark.parametrize("name", STRATEGIES)
def test_steps_on_the_gpu_are_few_and_large(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With blocks of the usual size, the rows are one: no operation and no wait is made for few of them."""
    for module, constant in ((matrices, "_SENT"), (weights, "_ROWS_ON_GPU"), (weights, "_CENTERS_ON_GPU")):
        monkeypatch.setattr(module, constant, {"_SENT": 1 << 24, "_ROWS_ON_GPU": 4096}.get(constant, (256, 1024)))
    with forced(CUDA), PretendGpu() as gpu:
        chosen(name, made("random", n=4000))
    assert 10 < gpu.calls < 800
    assert 2 <= gpu.waits < 60


@pytest.mark.parametrize("memory", [0, 1, 7, 20])
@pytest.mark.parametrize("name", STRATEGIES)
def test_without_memory_on_the_gpu_the_processor_goes_on_and_it_is_said(
    name: str, memory: int, caplog: pytest.LogCaptureFixture
) -> None:
    data = made("random")
    with forced(None):
        expected = chosen(name, data)
    with forced(CUDA), PretendGpu(memory), caplog.at_level(logging.WARNING, "alray"):
        assert_same(chosen(name, data), expected)
    assert "goes on without the GPU" in caplog.text


@pytest.mark.parametrize("memory", [0, 1, 7, 30])
def test_a_shard_of_k_center_begins_anew_without_memory_on_the_gpu(
    memory: int, caplog: pytest.LogCaptureFixture
) -> None:
    data = made("random", d=40)
    with forced(None):
        expected = chosen("k_center", data)
    with forced(CUDA), resident.limited(0), PretendGpu(memory, 1) as gpu, caplog.at_level(logging.WARNING, "alray"):
        assert_same(chosen("k_center", data), expected)
    assert gpu.calls > memory
    assert "goes on without the GPU" in caplog.text


def test_only_errors_of_memory_make_the_processor_go_on() -> None:
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))

    def wrong(device: torch.device) -> torch.Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with forced(CPU), pytest.raises(RuntimeError, match="cannot be multiplied"):
        Place(1).attempt(wrong)


@pytest.mark.parametrize(("name", "column"), [*((name, "logits") for name in STRATEGIES), ("badge", "embedding")])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_named_as_without_a_gpu(name: str, column: str, value: float) -> None:
    data = made("random")
    data[column][1234, 2] = value
    for device in (CPU, None):
        with forced(device), pytest.raises(SelectionError, match=f"^{column}: .*row 1234"):
            chosen(name, data)


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("column", ["logits", "embedding"])
def test_numbers_beyond_the_range_of_products_are_left_to_the_processor(name: str, column: str) -> None:
    data = made("random")
    data[column] *= 1e17 if column == "embedding" else 1.0
    data[column][500:510] *= 1e12 if column == "embedding" else 1e25
    with forced(None):
        expected = chosen(name, data)
    with forced(CUDA), PretendGpu():
        assert_same(chosen(name, data), expected)


@pytest.mark.parametrize("kind", ["random", "tied", "certain", "float16", "twins"])
def test_the_device_tells_the_pairs_of_the_processor(kind: str) -> None:
    data, rng = made(kind), np.random.default_rng(5)
    block = Block(np.arange(len(data["logits"])), {"logits": data["logits"]})
    boundaries = Boundaries(Logits(), Context(head=data["head"]))
    approximate = boundaries.logits.approximate(block)
    y = boundaries.predicted(block, approximate)
    found = NearOnDevice(boundaries, CPU)
    for size in (0.0, 1e-3, 0.03):
        limits = size * rng.random(boundaries.classes)
        limits[rng.integers(0, len(limits), 2)] = -np.inf  # classes that are not asked for
        allowed = boundaries.allowances(np.arange(len(limits)), limits)[y]
        expected = np.nonzero(boundaries.within(approximate, y, allowed))
        pairs = found.pairs(data["logits"], limits)
        assert (pairs is None) == (DENSE * len(expected[0]) > data["logits"].size)
        if pairs is not None:
            for one, other in zip(pairs, (y, *expected), strict=True):
                np.testing.assert_array_equal(one, other)


def test_logits_that_are_made_of_embeddings_stay_on_the_processor() -> None:
    data = made("random", c=3)
    data["embedding"] = data["embedding"] * 0.1
    del data["logits"]
    given = {"embedding": data["embedding"], "head": data["head"], "labeled": np.arange(M)}
    for name in STRATEGIES:
        with forced(None):
            expected = select(name, K, **given)
        with forced(CUDA), PretendGpu() as gpu:
            assert_same(select(name, K, **given), expected)
        assert gpu.calls == 0 or name == "badge"  # whose products are those of gradients


@pytest.mark.parametrize("spread", [0.01, 1.0, 30.0, 1000.0])
@pytest.mark.parametrize("classes", [1, 2, 40, 1000])
def test_intervals_that_the_device_tells_hold_the_scores(classes: int, spread: float) -> None:
    z = (spread * np.random.default_rng(0).normal(size=(300, classes))).astype(np.float32)
    block = Block(np.arange(300), {"logits": z})
    with forced(CPU):
        for value, screen, more in (
            (Gaps.odds, ODDS, {}), (Gaps.margin, MARGIN, {"gapped": True}), (Gaps.entropy, ENTROPY, {"weighted": True})
        ):  # fmt: skip
            scorer = GapScorer(Logits(place=Place(1)), value, screen, **more)
            low, high = scorer.bounds(block)
            exact = scorer.exact(block)
            assert ((low <= exact) & (exact <= high)).all()
            known = np.isfinite(exact)
            assert (high[known] - low[known]).max(initial=0) < 1e-3


@pytest.mark.parametrize("kind", ["random", "tied", "certain", "float16"])
def test_gradients_made_on_the_device_are_as_near_to_the_canonical_ones_as_they_say(kind: str) -> None:
    data = made(kind, n=200, c=200, d=600)  # wide, so that rounding moves some products beyond narrower bounds
    data["embedding"][100:] = data["embedding"][:100]  # products as large as the norms
    data["logits"][100:] = data["logits"][:100]
    data["embedding"][::3] /= 1024  # the rounding of a product with a larger one is beyond that of their own squares
    block = Block(np.arange(200), {name: data[name] for name in ("embedding", "logits")})
    factors = Factors(Logits())
    exact = factors.of(block)
    rough = factors.rough_on_device(block, CPU)
    assert rough is not None
    at, center = (index.ravel() for index in np.indices((200, 200)))
    canonical = exact.pairs(exact, at, center).reshape(200, 200)
    low, high = (bound.numpy() for bound in rough.bounds(exact.rough.to(CPU)))
    assert ((low <= canonical) & (canonical <= high)).all()
    for rows in (rough, exact.rough.to(CPU)):
        low, high = (bound.numpy() for bound in rows.differences(exact.rough.to(CPU)))
        added = canonical - exact.squares[:, None]
        assert ((low <= added) & ((added <= high) | (canonical == 0))).all()
    low, high = (bound.numpy() for bound in rough.bounds(exact.rough.to(CPU)))
    other = factors.rough(block).bounds(exact.rough)
    assert (high - low).sum() < 1.01 * (other[1] - other[0]).sum()


def test_one_shard_uses_the_gpu_and_as_many_as_there_are_processors_do_without() -> None:
    for name in STRATEGIES:
        with forced(CPU):
            assert usual_shards(10_000_000, 1000, build(name)) == 1
            assert usual_shards(10_000_000, 1000, build(name), stored=False) == processors()
        with forced(None):
            assert usual_shards(10_000_000, 1000, build(name)) == processors()


def test_a_gpu_is_started_only_for_many_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrices, "best_device", lambda: CPU)
    assert Place(1 << 28).device == CPU
    assert Place((1 << 28) - 1).device is None
    assert Place().device is None


def test_the_gpu_that_is_none_refuses_what_a_gpu_refuses() -> None:
    with PretendGpu():
        there, here = torch.ones(3, device=CUDA), torch.ones(3)
        assert there.device == CUDA
        assert marked(there[1:] + 1)
        assert marked(torch.from_numpy(np.ones(3)).to(CUDA))
        assert not marked(there.cpu())
        assert (there + torch.tensor(1.0)).cpu().tolist() == [2, 2, 2]
        for wrong in (lambda: there + here, lambda: there.numpy(), lambda: there[np.array([0])]):
            with pytest.raises(AssertionError, match="on the GPU"):
                wrong()
        source = torch.zeros(3)
        sent = source.to(CUDA, non_blocking=True)
        source += 1  # before the copy was made
        early = sent.to("cpu", non_blocking=True)
        assert early.tolist() != [1, 1, 1]
        assert sent.cpu().tolist() == [1, 1, 1]
        assert early.tolist() == [1, 1, 1]
        with pytest.raises(AssertionError, match="outside `full_float32`"):
            torch.ones(2, 2, device=CUDA) @ torch.ones(2, 2, device=CUDA)


def test_what_is_sent_may_be_read_only() -> None:
    x = np.ones((5, 3), np.float16)
    x.flags.writeable = False
    shard = ArraySource(np.arange(5), {"logits": x}).open()
    with forced(CPU):
        found = resident.usable_logits(next(shard.blocks(5))["logits"], CPU)
    assert found is not None
    assert found.dtype == torch.float32


@pytest.fixture
def seen_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch sees a GPU, and nobody has tried yet whether it computes."""
    monkeypatch.setattr(pytorch, "gpu_possible", lambda: True)
    for name, found in (("best_device", CUDA), ("device_in_use", CPU)):
        monkeypatch.setattr(devices, name, lambda found=found: found)
    devices._computes.cache_clear()


@pytest.mark.usefixtures("seen_gpu")
@pytest.mark.parametrize(
    ("worth", "dtype", "used"),
    [(2600 * 6, "f4", True), (2600 * 18, "f4", True), (2600 * 18 + 1, "f4", False), (1, "f8", False)],
)
def test_where_a_gpu_is_the_reason_for_one_shard_it_is_used(
    worth: int, dtype: str, used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All numbers of a row count for both, and those that no GPU takes for neither."""
    data = made("random")
    data["embedding"] = data["embedding"].astype(dtype)
    monkeypatch.setattr(matrices, "_WORTH", worth)
    monkeypatch.setattr(Badge, "shard_size", (100, 100))
    shard = ArraySource(np.arange(2600), {"embedding": data["embedding"], "logits": data["logits"]}).open()
    columns = columns_of(shard)
    with PretendGpu() as gpu:
        shards = usual_shards(len(shard), row_width(columns), build("badge"), sent_to_gpu(columns))
        assert (logits_of(shard, Context()).place.device == CUDA) is used
        assert shards == (1 if used else processors())
        before = gpu.calls
        given = {name: data[name] for name in ("embedding", "logits")}
        select("badge", 10, **given, num_shards=0 if used else 1)
        assert (gpu.calls > before) is used


class Refusing(TorchFunctionMode):
    """A GPU that PyTorch sees and that computes nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.device((kwargs or {}).get("device") or "cpu") == CUDA:
            raise RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable")
        return func(*args, **(kwargs or {}))


@pytest.mark.usefixtures("seen_gpu")
@pytest.mark.parametrize("name", ["k_center", *STRATEGIES])
def test_a_gpu_that_cannot_be_used_is_told_once_and_the_processor_selects(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(matrices, "_WORTH", 1)
    monkeypatch.setattr(devices, "device_in_use", lambda: CUDA)
    data = made("random")
    with forced(None):
        expected = chosen(name, data)
    with Refusing(), caplog.at_level(logging.WARNING, "alray"):
        for _ in range(2):
            assert_same(chosen(name, data), expected)
    assert caplog.text.count("busy or unavailable") == 1


@pytest.mark.usefixtures("seen_gpu")
def test_whether_a_gpu_computes_is_asked_again_where_that_may_have_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forked process cannot use the GPU of its parent, and deterministic products need an environment variable."""
    forked, deterministic = partial(monkeypatch.setattr, "os.getpid", lambda: 1), torch.use_deterministic_algorithms
    for change in (partial(deterministic, True), forked):
        with PretendGpu():
            assert best_device() == CUDA
        try:
            change()
            with Refusing():
                assert best_device() is None
        finally:
            torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("seen_gpu")
def test_a_gpu_without_memory_is_not_given_up_for_ever() -> None:
    with PretendGpu(memory=0):
        assert best_device() == CUDA


def test_autocasting_takes_no_bits_of_products() -> None:
    rng = np.random.default_rng(0)
    x, z = np.abs(rng.normal(size=(200, 512))) + 1, rng.normal(size=(200, 100))
    x[100:], z[100:] = x[:100] + 1e-3 * rng.normal(size=(100, 512)), z[:100]
    block = Block(np.arange(200), {"embedding": x.astype(np.float32), "logits": z.astype(np.float32)})
    factors = Factors(Logits())
    exact, (at, center) = factors.of(block), (index.ravel() for index in np.indices((200, 200)))
    canonical = exact.pairs(exact, at, center).reshape(200, 200)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for rough in (factors.rough(block), factors.rough_on_device(block, CPU)):
            assert rough is not None
            device = None if isinstance(rough.u, np.ndarray) else CPU
            low, high = (fetched(bound) for bound in rough.bounds(exact.rough.to(device)))
            assert ((low <= canonical) & (canonical <= high)).all()
        assert torch.is_autocast_enabled("cpu")


def test_products_that_a_gpu_may_take_for_zero_are_left_to_the_processor() -> None:
    """Those of embeddings that are tiny, of which float32 holds the squared norms."""
    data = made("random")
    data["embedding"] *= np.float32(2.0**-40)
    with forced(None):
        expected = chosen("badge", data)
    with forced(CUDA), PretendGpu() as gpu:
        assert_same(chosen("badge", data), expected)
    assert gpu.products == 0


@pytest.mark.parametrize("threads", [2, 5, 200])
def test_several_threads_make_the_gradients_that_one_makes(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradients, "processors", lambda: threads)
    monkeypatch.setattr(gradients, "_APIECE", 7)
    data = made("random", n=500)
    block = Block(np.arange(500), {name: data[name] for name in ("embedding", "logits")})
    one, several = Factors(Logits()).of(block), Factors(Logits(place=Place(1)))
    with forced(CPU):
        found = several.of(block)
    for name in ("rows", "u", "h"):
        np.testing.assert_array_equal(getattr(found, name), getattr(one, name))


@pytest.mark.parametrize(("classes", "width", "rows"), [(6, 12, 4096), (100, 2048, 1952), (1000, 20_000, 512)])
def test_wide_rows_are_compared_in_smaller_blocks(
    classes: int, width: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "_ROWS_ON_GPU", 4096)
    columns = {"embedding": np.ones((3, width), np.float16), "logits": np.ones((3, classes), np.float16)}
    shard = ArraySource(np.arange(3), columns).open()
    with forced(CPU):
        assert WeightBounds(shard, Factors(Logits(place=Place(1))), {}).rows == rows
    assert WeightBounds(shard, Factors(Logits()), {}).rows == weights.ROWS


@pytest.mark.parametrize("kind", ["random", "duplicates"])
def test_rows_with_many_pairs_are_compared_in_halves(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "ROWS", 16)
    monkeypatch.setattr(weights, "_ROWS_ON_GPU", 256)
    data = made(kind)
    with forced(CPU):
        expected = chosen("badge", data)
    monkeypatch.setattr(weights, "_PAIRS", 40)
    with forced(CPU):
        found = chosen("badge", data)
    assert_same(found, expected)
    assert found.account["pairs"] > expected.account["pairs"]  # some were compared twice
    assert found.account["rescored"] <= expected.account["rescored"]


def test_what_was_begun_on_the_gpu_is_counted_once_and_forgotten() -> None:
    data = made("random", n=64)
    shard = ArraySource(np.arange(64), {name: data[name] for name in ("embedding", "logits")}).open()
    block = next(shard.blocks(64))
    whole = Factors(Logits()).of(block)
    centers, least = [whole[part] for part in cut(64, 5)], np.full(64, -np.inf)
    for missing in (np.inf, 5):  # of all operations; the fewer, the more centers are on the GPU then
        counters = {"pairs": 0}
        with forced(CUDA), PretendGpu() as gpu:
            WeightBounds(shard, Factors(Logits(place=Place(1))), {"pairs": 0}).nearest(block, centers, least)
        with forced(CUDA), PretendGpu(memory=max(0, gpu.calls - missing)):
            bounds = WeightBounds(shard, Factors(Logits(place=Place(1))), counters)
            assert bounds.nearest(block, centers, least) is not None
            assert bounds._place.device is None
            assert not bounds._on_device
        assert counters["pairs"] == 64 * 64


def test_windows_of_badge_try_the_gpu_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(badge, "_WINDOW", 32)
    data = made("random")
    with forced(None):
        expected = chosen("badge", data)
    with forced(CUDA), PretendGpu(memory=0), caplog.at_level(logging.WARNING, "alray"):
        assert_same(chosen("badge", data), expected)
    assert caplog.text.count("goes on without the GPU") == 2  # the shard and the driver
