"""The workers' parts make up the global batches, whatever their number; blocks become batches without loss."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from alray.train import batches
from alray.train.batches import BatchPlan, rebatch

ROWS = np.arange(0, 300, 3)  # 100 labeled rows of a pool
LABELS = (ROWS // 3) % 7
WEIGHTS = np.linspace(0.1, 0.7, 7).astype(np.float32)


def plan(rank: int, world: int, batch_size: int = 16, n: int = 100, seed: int = 0, round: int = 2) -> BatchPlan:
    return BatchPlan(ROWS[:n], LABELS[:n], WEIGHTS, seed, round, batch_size, rank, world)


@pytest.mark.parametrize("world", [1, 2, 3, 16])
@pytest.mark.parametrize("n", [100, 96, 99, 17])
def test_the_parts_of_all_workers_are_the_batches_of_one(world: int, n: int) -> None:
    single = plan(0, 1, n=n)
    whole = single.epoch(4)
    workers = [plan(rank, world, n=n) for rank in range(world)]
    steps = len(workers[0].parts)
    epochs = [worker.epoch(4) for worker in workers]
    edges = [np.cumsum([0, *map(len, worker.parts)]) for worker in workers]
    seen = 0
    for step in range(steps):
        pieces = [epoch.rows[edge[step] : edge[step + 1]] for epoch, edge in zip(epochs, edges, strict=True)]
        assert min(map(len, pieces)) >= 1 and max(map(len, pieces)) - min(map(len, pieces)) <= 1
        together = np.concatenate(pieces)
        np.testing.assert_array_equal(together, whole.rows[seen : seen + len(together)])
        norm = WEIGHTS[(together // 3) % 7].sum()
        assert [epoch.norms[step] for epoch in epochs] == pytest.approx([norm] * world)
        seen += len(together)
    assert seen == workers[0].images
    left_out = n - seen
    assert left_out < min(16, 2 * world) and (left_out == 0 or n % 16 == left_out)


def test_every_row_once_with_its_label_in_an_order_of_its_own() -> None:
    first, again, other = plan(0, 1).epoch(0), plan(0, 1).epoch(0), plan(0, 1).epoch(1)
    np.testing.assert_array_equal(np.sort(first.rows), ROWS)
    np.testing.assert_array_equal(first.labels, (first.rows // 3) % 7)
    np.testing.assert_array_equal(first.rows, again.rows)
    for changed in (other, plan(0, 1, round=3).epoch(0), plan(0, 1, seed=1).epoch(0)):
        assert not np.array_equal(first.rows, changed.rows)


def test_a_last_batch_of_single_images_is_left_out() -> None:
    assert plan(0, 1, 16, n=33).images == 32 and plan(0, 2, 16, n=35).images == 32
    assert plan(0, 1, 16, n=34).images == 34 and plan(0, 2, 16, n=36).images == 36
    assert plan(0, 2, 16, n=3).images == 3  # it is the only one


def test_streams_hold_all_epochs_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = plan(1, 2)
    expected = [worker.epoch(epoch) for epoch in range(2, 9)]
    for pairs, streams in ((10**6, 1), (2 * 50, 4), (1, 7)):
        monkeypatch.setattr(batches, "_PAIRS_PER_STREAM", pairs)
        found = list(worker.streams(2, 9, 30))
        assert len(found) == streams
        tables = list(itertools.chain.from_iterable(found))
        assert max(map(len, tables)) == 30
        rows = np.concatenate([table["row"].to_numpy() for table in tables])
        np.testing.assert_array_equal(rows, np.concatenate([epoch.rows for epoch in expected]))
        labels = np.concatenate([table["label"].to_numpy() for table in tables])
        np.testing.assert_array_equal(labels, (rows // 3) % 7)
        numbers = np.concatenate([table["epoch"].to_numpy() for table in tables])
        np.testing.assert_array_equal(numbers, np.repeat(np.arange(2, 9), len(expected[0].rows)))
    assert tables[0].schema.field("row").type == "int64" and tables[0].schema.field("epoch").type == "int32"


def test_rebatch() -> None:
    values = np.arange(50)
    images = np.arange(50 * 12, dtype=np.uint8).reshape(50, 2, 2, 3)
    images.flags.writeable = False
    cuts = [0, 1, 1, 20, 22, 50]
    source = [{"row": values[a:b], "image": images[a:b]} for a, b in itertools.pairwise(cuts)]
    sizes = [3, 7, 7, 20, 13]
    found = list(rebatch(source, sizes))
    assert [len(batch["row"]) for batch in found] == sizes
    np.testing.assert_array_equal(np.concatenate([batch["row"] for batch in found]), values)
    np.testing.assert_array_equal(np.concatenate([batch["image"] for batch in found]), images)
    assert all(batch["image"].flags.writeable for batch in found)


def test_rebatch_is_lazy_and_refuses_a_short_source() -> None:
    endless = ({"row": np.array([i])} for i in itertools.count())
    assert [batch["row"].tolist() for batch in rebatch(endless, [2, 3])] == [[0, 1], [2, 3, 4]]
    with pytest.raises(ValueError, match="ended 2 before"):
        list(rebatch([{"row": np.arange(5)}], [4, 3]))
