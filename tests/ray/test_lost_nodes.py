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
