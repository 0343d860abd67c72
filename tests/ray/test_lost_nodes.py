"""A node is killed while a stage works on it: the same result as without, or an error that says what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_sharing import program

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_training_goes_on_without_a_node(tmp_path: Path) -> None:
    found = program("losing_nodes.py", "training", tmp_path, seconds=500)
    print(found)
    assert found["same"]
    (restart,) = found["restarts"]
    assert restart["cause"].startswith("worker ") and restart["epoch"] >= 2


def test_an_extraction_goes_on_without_a_node(tmp_path: Path) -> None:
    found = program("losing_nodes.py", "extraction", tmp_path, seconds=500)
    print(found)
    assert found["same"] and found["killed"] and found["parts"] == 20


def test_a_selection_goes_on_without_a_node(tmp_path: Path) -> None:
    found = program("losing_nodes.py", "selection", tmp_path, seconds=500)
    print(found)
    assert found["same"] and found["killed"]


def test_a_selection_without_room_for_its_shards_ends_with_an_error(tmp_path: Path) -> None:
    found = program("losing_nodes.py", "too_few", tmp_path, seconds=500)
    print(found)
    assert found["exit_code"] == 1
    assert found["error"].startswith("a node was lost, and the others are too few: resources: select needs 6 CPUs, the")


def test_a_stage_that_waits_for_room_ends_when_a_node_of_it_is_lost(tmp_path: Path) -> None:
    """It would wait as long as resources.wait_minutes says, which is a day."""
    found = program("losing_nodes.py", "while_it_waits", tmp_path, seconds=500)
    print(found)
    assert found["error"].startswith("a node was lost, and the others are too few: resources: train needs 6 CPUs, the")
    assert found["exit_code"] == 1 and found["seconds"] < 90


def test_a_training_goes_on_with_fewer_workers_where_the_cluster_has_no_room_for_all(tmp_path: Path) -> None:
    """The same steps: their losses differ by rounding, and by what BatchNorm sees."""
    found = program("losing_nodes.py", "fewer", tmp_path, seconds=500)
    print(found)
    (restart,) = found["restarts"]
    calm, lost = found["losses"]
    assert len(lost) == len(calm) == 6 and lost[: restart["epoch"]] == calm[: restart["epoch"]]
    assert lost[restart["epoch"] :] == pytest.approx(calm[restart["epoch"] :], rel=0.3) and not found["same"]


def test_a_selection_on_a_node_that_is_announced_to_go(tmp_path: Path) -> None:
    found = program("losing_nodes.py", "drained", tmp_path, seconds=500)
    print(found)
    assert found["accepted"] and found["avoided"] and found["same"] and found["killed"]


def test_a_selection_that_sends_more_than_the_object_stores_hold(tmp_path: Path) -> None:
    found = program("losing_nodes.py", "small_store", tmp_path, seconds=500)
    print(found)
    assert found["same"] and found["sent"] > 2 * 4 * 80 * 2**20
