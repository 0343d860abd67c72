"""A selection compares, reads and ships what it always did: counters of fixed inputs, exactly (see `tests/guard.py`).

Seconds depend on the machine and are measured in benchmarks; here a change that makes a selection dearer is seen in
what it counts.
"""

from __future__ import annotations

import json

import pytest
import torch
from guard import CASES, COSTS, MEASURED, counted, differences

RECORDED = json.loads(COSTS.read_text())


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_a_selection_costs_what_it_did(name: str, threads: int) -> None:
    assert name in RECORDED, "a new input: `python tests/guard.py` records what it costs"
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = counted(name)
    finally:
        torch.set_num_threads(before)
    changed = differences(name, found, RECORDED[name])
    assert not changed, "\n".join([*changed, "where that is meant: `python tests/guard.py` records the new numbers"])


def test_the_message_says_which_counter_has_grown_and_how_much() -> None:
    recorded = {"pairs": 1000, "exchanges": 3, "picks": "abc"}
    assert differences("k_center", recorded, recorded) == []
    assert differences("k_center", {**recorded, "pairs": 1001}, recorded) == [
        "k_center: pairs was 1,000 and is 1,001, 1.001 times as many"
    ]
    assert differences("k_center", {**recorded, "picks": "abd"}, recorded) == ["k_center: picks was abc and is abd"]


def test_only_counters_that_rounding_can_move_may_differ_and_those_by_little() -> None:
    recorded = {"pairs": 1000, "exchanges": 3}
    assert differences("badge", {"pairs": 1050, "exchanges": 3}, recorded) == []
    assert differences("badge", {"pairs": 1051, "exchanges": 3}, recorded)
    assert differences("badge", {"pairs": 900, "exchanges": 3}, recorded)
    assert differences("badge", {"pairs": 1000, "exchanges": 4}, recorded)


def test_nothing_that_a_clock_decides_is_recorded() -> None:
    assert all(not set(MEASURED) & set(one) for one in RECORDED.values())
    assert all(one["processes"] == 0 for one in RECORDED.values())
    assert all({"rows_read", "bytes_read", "exchanges", "picks"} <= set(one) for one in RECORDED.values())
