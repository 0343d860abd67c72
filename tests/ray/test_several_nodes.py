"""Clusters of several nodes: what a run asks of them before it begins, and where its parts are."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_sharing import program


@pytest.mark.timeout(600)
def test_nodes_are_asked_what_they_have_and_reach_and_share_the_work(tmp_path: Path) -> None:
    found = program("three_nodes.py", tmp_path, seconds=580)
    assert found["several"] is True
    assert found["fits"] == found["again"] == found["in a bucket"] == ""
    assert found["again seconds"] < 0.2, "a process asks the same nodes once"
    assert found["left behind"] == []
    said = found["own memory"]  # every process has a memory:// of its own
    assert said.startswith("run_dir: expected a place that every node of the cluster reaches, on a shared file system")
    assert "got memory://runs/one, which nodes " in said and said.endswith("what was written there for it is not there")
    said = found["no file"]
    assert said.startswith("model.checkpoint: ") and said.endswith("there is no such file or directory")
    said = found["wrong key"]
    assert said.startswith("root: ") and "got s3://alray-test/runs, which node " in said and "ACCESS_DENIED" in said
    assert found["selection"] == {"equal": True, "nodes": 3}
    assert found["trained on"] == {"pack": 1, "spread": 2}
    assert found["one after the other"] == [[3, 6], [3, 6], [3, 0]] * 2
    assert found["measured there"] == [True, True]
    assert found["held up"] == 3
    assert found["drawing"].startswith("run_dir: expected a place that every node of the cluster reaches")
    said = found["other alray"]
    assert said.startswith("resources: expected the same alray, Ray and Python on every node, as here (alray ")
    ours, theirs = said.split("got ")
    assert theirs.partition(" on ")[0] not in ours
    assert "Ray" not in theirs.partition(" on ")[0], "only what differs is named"


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_jobs_run_over_three_nodes_and_pick_as_on_one(tmp_path: Path) -> None:
    found = program("jobs_on_three_nodes.py", tmp_path, seconds=1400)
    assert {name: job["code"] for name, job in found.items()} == dict.fromkeys(found, 0), found
    placed = {name: job["where"] for name, job in found.items() if "where" in job}
    where = {name: {what: set(at) for what, at in parts.items()} for name, parts in placed.items()}
    print(placed)
    every = {"0", "1", "2"}
    for name in ("packed", "spread"):
        decoders = set().union(*(at for what, at in where[name].items() if "MapBatches" in what))
        assert where[name]["Measurer"] == where[name]["_Actor"] == decoders == every
        assert found[name]["picks"] and found[name]["picks"] == found["one node"]["picks"]
    assert where["spread"]["RayTrainWorker"] == every
    assert where["sweep"]["ImplicitFunc"] == every  # a trial on each
    assert len(found["sweep"]["picks"]) == 3
