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
    calm = times.pop("none")
    assert times == {"selection": 1, "node": 1, "driver": 1, "storage": 1}
    assert calm in (1, 2)  # of five rounds; a fault that is late by a moment counts for the round after its own
