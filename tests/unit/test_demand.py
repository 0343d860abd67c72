"""What a stage asks of a cluster: bundles, how many decoders, and what a cluster can never give. Without Ray."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from alray.config import ResourceConfig
from alray.demand import (
    at_least,
    covering,
    extraction,
    gpus_per_shard,
    most_workers,
    selection,
    settled,
    spoken,
    stages,
    total,
    training,
    training_on,
)
from alray.placement import spread

ONE = [{"CPU": 4.0}]
BIG = [{"CPU": 64.0, "GPU": 8.0}] * 8
UNEVEN = [{"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0, "GPU": 4.0}]
HEADED = [{"CPU": 0.0, "memory": 9.0}, {"CPU": 8.0}, {"CPU": 8.0}]  # a head that takes no work


def test_a_training_asks_for_its_workers_first_and_for_decoders_in_the_same_breath() -> None:
    demand = training(ResourceConfig(train_workers=2, cpus_per_train_worker=1.5, decode_cpus=0.5), use_gpu=True)
    assert demand.bundles(2) == [{"CPU": 1.5, "GPU": 1}] * 2 + [{"CPU": 0.5}] * 2
    assert demand.least == demand.bundles(1)
    assert total(demand.least) == {"CPU": 3.5, "GPU": 2}
    assert spoken(total(demand.least)) == "3.5 CPUs and 2 GPUs"
    assert selection(3, 0.5).least == [{"CPU": 0.5}] * 3
    assert not demand.spread and training(ResourceConfig(train_placement="spread"), use_gpu=True).spread


@pytest.mark.parametrize(
    ("workers", "use_gpu", "nodes", "decoders"),
    [
        (1, False, ONE, 3),  # one worker of a cluster of one node: all of it
        (2, False, ONE, 2),
        (4, False, ONE, 1),  # at least one, whether there is room or not
        (64, True, BIG, 512 - 64),
        (8, True, BIG, 64 - 8),  # an eighth of the GPUs: an eighth of the CPUs
        (1, False, HEADED, 7),
        (2, False, HEADED, 14),
    ],
)
def test_decoders_fill_the_part_of_the_cluster_that_belongs_to_the_workers(
    workers: int, use_gpu: bool, nodes: list[dict[str, float]], decoders: int
) -> None:
    assert training(ResourceConfig(train_workers=workers), use_gpu).filling(nodes).decoders == decoders


@pytest.mark.parametrize(
    ("least", "nodes", "workers"),
    [
        (0, 1, 4),  # never with fewer: it waits, or is refused
        (1, 5, 4),
        (1, 4, 3),
        (1, 2, 1),
        (2, 2, 2),  # no room for two, either, but it asks for no fewer
        (9, 1, 4),
    ],
)
def test_a_training_goes_on_with_as_many_workers_as_there_is_room_for(least: int, nodes: int, workers: int) -> None:
    resources = ResourceConfig(train_workers=4, train_min_workers=least)
    demand = training_on([{"CPU": 1.0}] * nodes, resources, use_gpu=False)
    assert len(demand.workers) == workers and f"train_workers={workers}," in demand.told
    assert at_least(resources).train_workers == min(least or 4, 4)


def test_what_is_free_is_taken_where_a_stage_can_begin_with_it() -> None:
    demand = extraction(2, 1, use_gpu=False).filling([{"CPU": 16.0}] * 2)
    assert demand.decoders == 30
    assert [demand.fitting({"CPU": float(free)}) for free in (0, 2, 3, 7, 32, 99)] == [None, None, 1, 5, 30, 30]
    assert extraction(2, 1, use_gpu=True).fitting({"CPU": 9.0, "GPU": 1.0}) is None
    assert selection(2, 1).fitting({"CPU": 2.0}) == 0


@pytest.mark.parametrize(
    ("resources", "nodes", "says"),
    [
        ({"train_workers": 2}, [{"CPU": 2.0}], "needs 3 CPUs, the cluster has 2 CPUs"),
        ({"train_workers": 2, "cpus_per_train_worker": 2}, [{"CPU": 3.0}] * 2, ""),
        (
            {"train_workers": 2, "cpus_per_train_worker": 2},
            [{"CPU": 3.0}, {"CPU": 1.0}, {"CPU": 1.0}],
            "2 times 2 CPUs",
        ),
        ({"select_shards": 9}, [{"CPU": 8.0}], "needs 9 CPUs"),
        ({"select_shards": 9, "select_workers": "process"}, [{"CPU": 8.0}], ""),
        ({"select_shards": 9, "cpus_per_shard": 0.1}, [{"CPU": 1.0}, {"CPU": 1.0}], ""),
    ],
)
def test_what_a_cluster_can_never_give_is_known_without_asking(
    resources: dict[str, Any], nodes: list[dict[str, float]], says: str
) -> None:
    lacking = [text for stage in stages(ResourceConfig(**resources), False) if (text := stage.lacks(nodes))]
    assert bool(lacking) == bool(says)
    assert says in "".join(lacking)


def test_gpus_are_counted_too() -> None:
    demand = training(ResourceConfig(train_workers=2), use_gpu=True)
    assert demand.lacks([{"CPU": 8.0, "GPU": 1.0}]) == "needs 3 CPUs and 2 GPUs, the cluster has 8 CPUs and 1 GPU"
    assert not demand.lacks([{"CPU": 1.0, "GPU": 1.0}, {"CPU": 8.0, "GPU": 1.0}])


@pytest.mark.parametrize(
    ("shards", "cpus", "nodes", "share"),
    [
        (64, 1, BIG, 1.0),
        (65, 0.5, BIG, 0.5),
        (1, 1, [{"CPU": 4.0, "GPU": 1.0}], 1.0),
        (4, 1, [{"CPU": 4.0, "GPU": 1.0}], 0.25),
        (3, 1, [{"CPU": 4.0, "GPU": 2.0}], 0.5),
        (6, 0.5, [{"CPU": 4.0, "GPU": 2.0}], 0.3333),
        (5, 1, UNEVEN, 1.0),
        (6, 1, UNEVEN, 0.5),
        (2, 1, [{"CPU": 8.0}, {"CPU": 8.0, "GPU": 1.0}], 0.5),
        (4, 1, [{"CPU": 8.0}, {"CPU": 2.0, "GPU": 8.0}], 0.0),  # the GPUs are on a node with two CPUs
        (2, 2, [{"CPU": 3.0, "GPU": 1.0}, {"CPU": 1.0, "GPU": 7.0}], 0.0),
        (16, 0.1, [{"CPU": 4.0, "GPU": 1.0}], 0.0625),
        (17, 0.1, [{"CPU": 4.0, "GPU": 1.0}], 0.0),  # too many for one
        (2, 1, ONE, 0.0),
        (2, 1, [], 0.0),
    ],
)
def test_all_shards_have_the_same_share_of_a_gpu_or_none_has_any(
    shards: int, cpus: float, nodes: list[dict[str, float]], share: float
) -> None:
    assert gpus_per_shard(nodes, shards, cpus) == share


def test_a_share_of_a_gpu_can_always_be_met() -> None:
    """On the nodes as they are laid out, and GPU by GPU: an actor's share is of one GPU."""
    rng, met = random.Random(1), 0
    for _ in range(500):
        nodes = [{"CPU": float(rng.randint(0, 9)), "GPU": float(rng.randint(0, 8))} for _ in range(rng.randint(1, 4))]
        shards, cpus = rng.randint(1, 40), rng.choice([0.1, 0.5, 1, 2])
        share = gpus_per_shard(nodes, shards, cpus)
        wanted = selection(shards, cpus, share)
        if not share:
            assert wanted == selection(shards, cpus)
            continue
        met += 1
        assert not wanted.lacks(nodes)
        layout = spread(wanted, nodes)
        assert layout is not None
        for number, bundle in enumerate(layout.bundles):
            on_one, actors = int(1 / share), layout.workers.count(number)
            assert bundle["GPU"] <= 1 or bundle["GPU"].is_integer()
            assert math.ceil(bundle["GPU"]) * on_one >= actors and bundle["GPU"] >= actors * share - 1e-4
        assert all(sum(b["GPU"] <= node["GPU"] for node in nodes) for b in layout.bundles)
    assert met > 100


def test_a_selection_needs_no_gpu() -> None:
    """So that no run is refused for want of one, and a trial reserves none for its selection alone."""
    resources = ResourceConfig(select_shards=3)
    assert stages(resources, use_gpu=True)[-1] == selection(3, 1)
    assert covering(stages(resources, use_gpu=True)) == [{"CPU": 1.0, "GPU": 1.0}, {"CPU": 1.0}, {"CPU": 1.0}]
    assert spoken(total(selection(3, 1, 0.3333).least)) == "3 CPUs and 1 GPU"


def test_a_trial_covers_every_stage_with_the_first_of_its_bundles() -> None:
    rng = random.Random(0)
    for _ in range(50):
        resources = ResourceConfig(
            train_workers=rng.randint(1, 4), extract_actors=rng.randint(1, 4), select_shards=rng.randint(1, 6),
            cpus_per_train_worker=rng.choice([0.5, 1, 3]), cpus_per_shard=rng.choice([0.2, 1, 2]),
        )  # fmt: skip
        demands = stages(resources, use_gpu=rng.random() < 0.5)
        bundles = covering(demands)
        assert len(bundles) == max(len(demand.least) for demand in demands)
        for demand in demands:
            for needed, bundle in zip(demand.least, bundles, strict=False):
                assert all(bundle[kind] >= amount for kind, amount in needed.items())


@pytest.mark.parametrize(
    ("told", "nodes", "use_gpu", "most", "expected"),
    [
        ({}, BIG, True, 64, (64, 64, 64)),
        ({}, BIG, True, most_workers([128, 256]), (4, 64, 64)),
        ({}, BIG, False, 64, (8, 8, 8)),
        ({"train_workers": 2, "select_shards": 5}, BIG, True, 64, (2, 64, 5)),
        ({}, ONE, False, 64, (1, 1, 1)),
        ({}, HEADED, False, 64, (2, 2, 2)),
        ({}, [{"CPU": 4.0, "GPU": 4.0}], True, 64, (3, 3, 3)),  # a CPU is left for the decoders
    ],
)
def test_auto_follows_the_cluster_unless_told(
    told: dict[str, int], nodes: list[dict[str, float]], use_gpu: bool, most: int, expected: tuple[int, int, int]
) -> None:
    found = settled(ResourceConfig(**told), nodes, use_gpu, most)
    assert (found.train_workers, found.extract_actors, found.select_shards) == expected
    assert found.decode_cpus == ResourceConfig().decode_cpus


def test_a_batch_of_which_a_worker_would_get_too_little_limits_the_workers() -> None:
    assert [most_workers(sizes) for sizes in ([], [16], [128], [1024, 256])] == [1, 1, 4, 8]
