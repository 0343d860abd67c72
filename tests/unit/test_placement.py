"""How the parts of a stage are laid out over nodes: every node that has room gets one. Without Ray."""

from __future__ import annotations

import random

import pytest

from alray.config import ResourceConfig
from alray.demand import Bundle, Demand, extraction, selection, total, training
from alray.placement import Layout, loose, spread

SPREAD = ResourceConfig(train_workers=3, train_placement="spread")


def cpus(*of_nodes: float) -> list[Bundle]:
    return [{"CPU": float(number)} for number in of_nodes]


def laid_out(demand: Demand, nodes: list[Bundle]) -> Layout:
    found = spread(demand.filling(nodes), nodes)
    assert found is not None
    return found


def workers_of(layout: Layout) -> list[int]:
    return sorted((layout.workers.count(bundle) for bundle in set(layout.workers)), reverse=True)


@pytest.mark.parametrize(
    ("demand", "nodes", "workers", "bundles"),
    [
        (selection(3, 1), cpus(4, 4, 4), [1, 1, 1], cpus(1, 1, 1)),
        (selection(3, 1), cpus(1, 64), [2, 1], cpus(1, 2)),
        (selection(5, 1), cpus(4, 4, 4), [2, 2, 1], cpus(2, 2, 1)),
        (selection(5, 1), cpus(1, 4, 1), [3, 1, 1], cpus(1, 3, 1)),
        (selection(2, 1), cpus(0, 4, 4), [1, 1], cpus(1, 1)),  # the head takes no work
        (training(SPREAD, use_gpu=False), cpus(4, 4, 4), [1, 1, 1], cpus(4, 4, 4)),
        (training(SPREAD, use_gpu=False), cpus(2, 2, 8), [1, 1, 1], cpus(2, 2, 8)),
        (extraction(3, 1, use_gpu=False), cpus(3, 3, 3), [1, 1, 1], cpus(3, 3, 3)),
        (extraction(3, 2, use_gpu=False), cpus(3, 3, 3), [1, 1, 1], cpus(3, 3, 3)),  # a decoder for each worker
        (extraction(2, 0.5, use_gpu=False), cpus(2, 2, 2), [1, 1], cpus(1.5, 1.5, 1)),  # decoders on the third, too
    ],
)
def test_every_node_with_room_gets_a_part(
    demand: Demand, nodes: list[Bundle], workers: list[int], bundles: list[Bundle]
) -> None:
    found = laid_out(demand, nodes)
    assert workers_of(found) == workers
    assert list(found.bundles) == bundles
    assert found.apart


@pytest.mark.parametrize(
    ("shards", "share", "nodes", "bundles"),
    [
        (2, 1.0, [{"CPU": 4.0, "GPU": 2.0}], [{"CPU": 2.0, "GPU": 2.0}]),
        (3, 0.25, [{"CPU": 4.0, "GPU": 1.0}], [{"CPU": 3.0, "GPU": 0.75}]),
        (3, 0.3333, [{"CPU": 4.0, "GPU": 1.0}], [{"CPU": 3.0, "GPU": 0.9999}]),
        (3, 0.5, [{"CPU": 4.0, "GPU": 2.0}], [{"CPU": 3.0, "GPU": 2.0}]),
        (6, 0.3333, [{"CPU": 8.0, "GPU": 2.0}], [{"CPU": 6.0, "GPU": 2.0}]),
        (3, 0.5, [{"CPU": 4.0, "GPU": 1.0}] * 2, [{"CPU": 2.0, "GPU": 1.0}, {"CPU": 1.0, "GPU": 0.5}]),
    ],
)
def test_a_bundle_has_whole_gpus_or_a_part_of_one(
    shards: int, share: float, nodes: list[Bundle], bundles: list[Bundle]
) -> None:
    """Of 1.3332 GPUs Ray gives out three times 0.3333, and the fourth actor would wait for ever."""
    assert list(laid_out(selection(shards, 1, share), nodes).bundles) == bundles


def test_gpus_are_where_they_are_and_decoders_on_all_nodes() -> None:
    large: Bundle = {"CPU": 64.0, "GPU": 8.0}
    nodes: list[Bundle] = [large, large, {"CPU": 32.0, "GPU": 4.0}, {"CPU": 96.0}]
    found = laid_out(extraction(20, 1, use_gpu=True), nodes)
    assert workers_of(found) == [8, 8, 4]
    assert list(found.bundles) == nodes  # all of it
    assert found.decoders == 256


def test_a_stage_that_cannot_begin_on_some_nodes_is_not_laid_out_over_them() -> None:
    assert spread(selection(3, 1), cpus(1, 1)) is None
    assert spread(selection(2, 2), cpus(3, 1)) is None
    assert spread(training(SPREAD, use_gpu=False), cpus(1, 1, 1)) is None  # no room for a decoder
    assert spread(training(SPREAD, use_gpu=False), []) is None


def test_bundles_of_their_own_are_what_ray_places_as_it_likes() -> None:
    demand = extraction(2, 0.5, use_gpu=False)
    assert loose(demand, 3) == Layout((*cpus(1, 1), *cpus(0.5, 0.5, 0.5)), "SPREAD", (0, 1), 3)
    assert loose(training(ResourceConfig(), use_gpu=False), 1).strategy == "PACK"


def test_any_layout_fits_its_nodes_and_is_even() -> None:
    rng = random.Random(0)
    seen = 0
    for _ in range(300):
        nodes = cpus(*(rng.choice([0, 1, 2, 4, 7, 16]) for _ in range(rng.randint(1, 6))))
        number, each = rng.randint(1, 8), rng.choice([0.5, 1, 2])
        demand = rng.choice([selection(number, each), extraction(number, each, use_gpu=False)]).filling(nodes)
        found = spread(demand, nodes)
        if found is None:
            assert demand.lacks(nodes) or demand.decoder
            continue
        seen += 1
        left = iter(node["CPU"] for node in nodes if node["CPU"])
        assert all(any(bundle["CPU"] <= room for room in left) for bundle in found.bundles)  # in the order of the nodes
        assert len(found.workers) == number and found.decoders <= max(1, demand.decoders)
        assert total(found.bundles)["CPU"] == pytest.approx(total(demand.bundles(found.decoders))["CPU"])
        worker = demand.workers[0]["CPU"]
        holding = sum(node["CPU"] >= worker for node in nodes)
        assert len(set(found.workers)) == min(number, holding)  # each node that can hold a worker gets one
    assert seen > 150
