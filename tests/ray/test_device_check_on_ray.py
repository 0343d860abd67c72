"""The sections of the device check that start Ray of their own, at tiny sizes on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CHECK = Path(__file__).resolve().parents[2] / "benchmarks" / "device" / "check.py"


@pytest.mark.slow
def test_extraction_and_a_whole_run(tmp_path: Path) -> None:
    command = [sys.executable, str(CHECK), "--tiny", "--only", "d,e", "--seconds", "500", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=590)
    assert done.returncode == 0, done.stdout + done.stderr
    sections = json.loads((tmp_path / "device.json").read_text())["sections"]
    ways = {row["way"]: row for row in sections["d"]["rows"] if row["table"] == "Extraction"}
    assert ways.keys() == {"alray on Ray Data", "DataLoader"}
    assert all(row["images"] == 96 and row["images_per_second"] > 0 for row in ways.values())
    (compared,) = [row for row in sections["d"]["rows"] if row["table"] == "Embeddings"]
    assert compared["compared"] == 96
    assert compared["largest_difference"] <= 0.02 * compared["largest"]
    rounds = [row for row in sections["e"]["rows"] if row["table"] == "Rounds"]
    assert [row["labels"] for row in rounds] == [40, 100]
    assert all(row["top1"] is not None for row in rounds)
