"""Selection actors get the GPUs that they use, and no others. The GPUs are pretended: Ray gives them out, and the work
is done by the CPU. `gpus_of_shards.py` is the program."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).parent / "gpus_of_shards.py"
NONE = {"held": 0.0, "allowed": False}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Everything that the program has seen: its Ray is started once."""
    command = [sys.executable, str(PROGRAM), str(tmp_path_factory.mktemp("gpus"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    read: dict[str, Any] = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    return read


def without_gpus(actors: list[dict[str, Any]]) -> bool:
    return all(actor.items() >= NONE.items() for actor in actors)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("shards", "share", "on_each"),
    [("1", 1.0, [1]), ("2", 1.0, [1, 1]), ("3", 0.5, [2, 1]), ("4", 0.5, [2, 2]), ("6", 0.3333, [3, 3])],
)
def test_each_actor_holds_its_share_of_a_gpu_and_sees_that_one_only(
    shards: str, share: float, on_each: list[int], found: dict[str, Any]
) -> None:
    actors = found["shards"][shards]
    assert [actor["held"] for actor in actors] == [share] * int(shards)
    assert all(actor["allowed"] for actor in actors)
    gpus = Counter(actor["shown"] for actor in actors)
    assert gpus.keys() <= {"0", "1"} and sorted(gpus.values(), reverse=True) == on_each


@pytest.mark.parametrize("case", ["strategy without", "run without", "no"])
def test_actors_without_a_gpu_use_none(case: str, found: dict[str, Any]) -> None:
    assert found[case] and without_gpus(found[case])


def test_a_run_gives_its_actors_gpus(found: dict[str, Any]) -> None:
    assert [(actor["held"], actor["allowed"]) for actor in found["auto"]] == [(1.0, True)] * 2  # auto: a shard for each
    assert {actor["shown"] for actor in found["auto"]} == {"0", "1"}
    assert found["same picks"] is True


def test_a_lost_actor_comes_back_with_its_gpu(found: dict[str, Any]) -> None:
    before, after = found["lost"]
    assert before == after and {actor["shown"] for actor in after} == {"0", "1"}


def test_a_selection_waits_for_gpus_that_another_holds_and_all_are_given_back(found: dict[str, Any]) -> None:
    waited = found["waited"]
    assert waited["said"].startswith("select · waiting for 0.5 CPUs and 2 GPUs: ")
    assert "by first (select)" in waited["said"]
    assert waited["early"] == [] and {actor["shown"] for actor in waited["got"]} == {"0", "1"}
    assert found["free"] == 2


def test_a_trial_selects_on_the_gpus_of_its_training_workers_and_asks_for_no_others(found: dict[str, Any]) -> None:
    training, linear, own = (found[case] for case in ("training trial", "linear trial", "trial with a GPU"))
    assert {actor["shown"] for actor in training["actors"]} == {"0", "1"}
    assert without_gpus(linear["actors"]) and without_gpus(own["actors"])
    for trial in (training, linear, own):
        assert {actor["group"] for actor in trial["actors"]} == {trial["own"]["group"]} != {""}
    assert [trial["driver"] for trial in (training, linear, own)] == [True, True, False]
    assert [trial["own"]["shown"] for trial in (training, linear)] == ["", ""]
    assert own["own"].items() >= {"held": 1.0, "allowed": True}.items() and own["own"]["shown"] in ("0", "1")


def test_the_driver_uses_gpus_of_its_own_ray_only(found: dict[str, Any]) -> None:
    assert found["own driver"] is False and found["own driver of a run without"] is True
    assert found["other driver"] == "True"
