"""Shards on threads: the settings that they share with the rest of the process are as before afterwards."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

from alray.features.arrays import ArraySource, Shard
from alray.models.device import full_float32
from alray.process import processors
from alray.selection.in_process import InProcess, usual_shards
from alray.selection.one_thread import OneThread
from alray.selection.protocol import Context, Picks, Shards, Strategy
from alray.selection.registry import build
from alray.selection.select import select

needs_two = pytest.mark.skipif(processors() < 2, reason="this machine lets the process use one CPU")


@pytest.fixture
def three_threads() -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(before)


class Asked(Strategy):
    """Its shards say how many threads a product would use."""

    needs = frozenset({"embedding"})

    def open(self, shard: Shard, context: Context) -> Asked:
        return self

    def threads(self) -> tuple[str, int, list[int]]:
        torch.ones(2, 2) @ torch.ones(2, 2)
        blas = [found["num_threads"] for found in threadpool_info() if found["user_api"] == "blas"]
        return threading.current_thread().name, torch.get_num_threads(), blas

    def select(self, shards: Shards, budget: int, context: Context) -> Picks:
        raise NotImplementedError


def sources(count: int) -> list[ArraySource]:
    return [ArraySource(np.arange(n, n + 1), {"embedding": np.ones((1, 4), np.float32)}) for n in range(count)]


@needs_two
def test_every_shard_computes_alone_and_all_settings_come_back(three_threads: int) -> None:
    before = blas()
    with InProcess(sources(5), Asked(), Context()) as shards:
        answers = shards.map("threads")
    assert all(name.startswith("alray-shard") for name, _, _ in answers)
    assert all(torch_threads == 1 and set(blas_threads) <= {1} for _, torch_threads, blas_threads in answers)
    assert torch.get_num_threads() == three_threads
    assert blas() == before
    with ThreadPoolExecutor(1) as other:
        assert other.submit(torch.get_num_threads).result() == three_threads


def test_one_shard_and_the_strategy_itself_use_one_thread(three_threads: int) -> None:
    with InProcess(sources(1), Asked(), Context()) as shards:
        ((name, torch_threads, blas_threads),) = shards.map("threads")
        here = torch.get_num_threads()
    assert name == threading.current_thread().name
    assert (torch_threads, here) == (1, 1) and set(blas_threads) <= {1}
    assert torch.get_num_threads() == three_threads


def blas() -> list[int]:
    return [found["num_threads"] for found in threadpool_info() if found["user_api"] == "blas"]


def test_selections_in_threads_of_the_user_that_overlap_leave_all_as_before(three_threads: int) -> None:
    before, first, second = blas(), OneThread(), OneThread()
    inside, left, found = threading.Event(), threading.Event(), []

    def earlier() -> None:
        with first:
            inside.set()
            left.wait(30)
        found.append(torch.get_num_threads())

    def later() -> None:
        assert inside.wait(30)
        with second:
            left.set()
            one.join(30)
            found.append(torch.get_num_threads())
        found.append(torch.get_num_threads())

    one, two = threading.Thread(target=earlier), threading.Thread(target=later)
    one.start()
    two.start()
    two.join(30)
    assert found == [three_threads, 1, three_threads]
    assert blas() == before
    with ThreadPoolExecutor(1) as other:
        assert other.submit(torch.get_num_threads).result() == three_threads


@pytest.mark.parametrize("asked_before", [True, False])
def test_a_thread_of_the_user_has_its_threads_back(asked_before: bool, three_threads: int) -> None:
    def work() -> tuple[int, int]:
        if asked_before:
            torch.get_num_threads()
        with OneThread():
            inside = torch.get_num_threads()
        return inside, torch.get_num_threads()

    with ThreadPoolExecutor(1) as other:
        assert other.submit(work).result() == (1, three_threads)


def test_an_error_in_a_thread_is_the_callers() -> None:
    logits = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32)
    logits[150] = np.nan
    with pytest.raises(ValueError, match="row 150 has NaN"):
        select("margin", 10, logits=logits, num_shards=4)


@pytest.mark.parametrize(("rows", "expected"), [(0, 1), (99_999, 1), (100_000, 2), (10**9, 10**9)])
def test_as_many_shards_as_cpus_unless_there_are_few_rows(rows: int, expected: int) -> None:
    assert usual_shards(rows, 10, build("k_center")) == min(expected, processors())


@pytest.mark.parametrize(
    ("rows", "classes", "expected"), [(10**6, 2, 1), (1 << 21, 2, 2), (800_000, 10, 1), (16_800, 1000, 2)]
)
@pytest.mark.parametrize("strategy", ["margin", "confidence", "entropy"])
def test_logits_that_are_read_in_an_instant_are_not_worth_a_thread(
    strategy: str, rows: int, classes: int, expected: int
) -> None:
    assert usual_shards(rows, classes, build(strategy)) == min(expected, processors())


@pytest.mark.parametrize(("width", "expected"), [(512, 1), (2048, 2)])
def test_fewer_rows_are_worth_a_shard_where_they_are_wide(width: int, expected: int) -> None:
    assert usual_shards(20_000, width, build("k_center")) == min(expected, processors())


def test_products_are_exact_as_long_as_any_thread_needs_it() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    inside, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with full_float32():
            inside.set()
            leave.wait(30)

    other = threading.Thread(target=stay)
    try:
        with full_float32():
            other.start()
            assert inside.wait(30)
        assert torch.get_float32_matmul_precision() == "highest", "the other thread still needs it"
        leave.set()
        other.join(30)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        leave.set()
        torch.set_float32_matmul_precision(before)


def test_base_is_cut_into_larger_shards() -> None:
    assert usual_shards(499_999, 64, build("base")) == 1
    assert usual_shards(100_000, 1000, build("base")) == 1


@pytest.mark.parametrize(
    ("strategy", "classes", "n", "most"),
    [
        ("badge", 10, 100_000, 300),
        ("margin", 2, 1_000_000, 5),
        ("margin", 10, 1_000_000, 7),
        ("margin", 200, 100_000, 65),
        ("entropy", 2, 1_000_000, 4.2),
        ("confidence", 2, 1_000_000, 4),
    ],
)
def test_rows_are_worked_on_in_long_calls(strategy: str, classes: int, n: int, most: float) -> None:
    """Threads that make many short calls wait for Python's lock. Counted: calls per 1,000 rows."""
    rng = np.random.default_rng(0)
    logits = 3 * rng.standard_normal((n, classes), np.float32)
    given = {"logits": logits} if strategy != "badge" else {"logits": logits, "embedding": logits[:, :8]}
    select(strategy, 50, **given)  # imports

    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        select(strategy, 50, num_shards=1, **given)
    finally:
        sys.setprofile(before)
    assert calls / (n / 1000) <= most
