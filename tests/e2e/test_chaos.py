"""`make chaos`, short: an actor, a node, the driver and the storage are lost once each, at random moments."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "benchmarks" / "bench_chaos.py"


@pytest.mark.timeout(900)
def test_a_short_chaos_loses_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCH), "--short", "--rounds", "6", "--longest", "3", "--out", str(tmp_path / "out.json")],
        capture_output=True, text=True, check=False, timeout=880,
    )  # fmt: skip
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    assert not found["not_injected"] and found["faults"] == 4 and found["starts"] == 2
    assert found["labels"] == 20 * 5
    times = {line["fault"].split()[0]: line["times"] for line in found["table"]}
    rounds = {line["fault"].split()[0]: line["rounds"] for line in found["table"]}
    calm = rounds.pop("none")
    hit = [number for numbers in rounds.values() for number in numbers]
    # While something is away, the next fault waits, at most for the last round, which has no selection.
    late = int(5 in hit)
    assert times == {"selection": 1, "node": 1, "driver": 1, "storage": 1, "none": 1 + late}
    assert sorted([*hit, *calm]) == [0, 1, 2, 3, 4, *[5] * late]  # every fault has a round of its own
