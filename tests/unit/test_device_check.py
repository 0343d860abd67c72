"""The program that checks a GPU, at tiny sizes on the CPU: it must not fail for the first time on a lent machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from alray import STRATEGIES

CHECK = Path(__file__).resolve().parents[2] / "benchmarks" / "device" / "check.py"


def check(out: Path, *arguments: str, program: Path = CHECK) -> tuple[int, dict[str, Any], str]:
    """The exit status, device.json and device.md."""
    done = subprocess.run(
        [sys.executable, str(program), "--tiny", "--out", str(out), *arguments],
        capture_output=True, text=True, check=False, timeout=550,
    )  # fmt: skip
    assert (out / "device.json").is_file(), done.stdout + done.stderr
    return done.returncode, json.loads((out / "device.json").read_text()), (out / "device.md").read_text()


def rows(section: dict[str, Any], table: str) -> list[dict[str, Any]]:
    return [row for row in section["rows"] if row["table"] == table]


@pytest.mark.slow
def test_a_tiny_check(tmp_path: Path) -> None:
    """One test, because it takes a minute: sections a, b and c with everything that they must hold."""
    status, result, text = check(tmp_path, "--only", "a,b,c", "--seconds", "400", "--commit", "abc")
    every_section_ends_well_and_says_where(status, result, text)
    every_strategy_has_equal_hashes(result["sections"]["a"])
    selection_stands_beside_a_copy_and_a_product(result["sections"]["b"])
    every_network_is_compared(result["sections"]["c"])


def every_section_ends_well_and_says_where(status: int, result: dict[str, Any], text: str) -> None:
    assert status == 0, text
    assert list(result["sections"]) == ["a", "b", "c"]
    assert all(section["finished"] and not section["error"] for section in result["sections"].values())
    assert result["about"]["commit"] == "abc"
    assert {"card", "driver", "cuda", "versions", "date"} <= result["about"].keys()
    for title in ("Picks:", "Rates of the machine:", "Selection:", "Networks:", "Fine-tuning, images a second:"):
        assert title in text


def every_strategy_has_equal_hashes(section: dict[str, Any]) -> None:
    assert [row["strategy"] for row in rows(section, "Picks")] == list(STRATEGIES)
    assert all(row["equal"] and row["cases"] == 6 for row in rows(section, "Picks"))
    assert {case.split("/")[0] for case in section["hashes"]} == set(STRATEGIES)
    kinds = {case.split("/")[2] for case in section["hashes"]}
    assert {"tied", "shifted"} <= kinds
    for case, (gpu, cpu) in section["hashes"].items():
        assert gpu == cpu
        assert len(gpu) == 1 + int(case.split("/")[3])  # all picks, then those in each shard
    assert len({gpu[0] for gpu, _ in section["hashes"].values()}) > 40  # and not the hash of nothing


def selection_stands_beside_a_copy_and_a_product(section: dict[str, Any]) -> None:
    found = rows(section, "Selection")
    assert {row["work"] for row in found} == {"k_center", "margin", "base", "badge"}
    for row in found:
        assert row["seconds"] > 0
        assert row["input_bytes"] > 0
        assert row["seconds_at_copy_rate"] > 0
        assert row["seconds_at_product_rate"] > 0


def every_network_is_compared(section: dict[str, Any]) -> None:
    networks = {row["network"]: row for row in rows(section, "Networks")}
    assert len(networks) == 20
    assert all(row["near_the_cpu"] for row in networks.values())
    assert {"vaal", "simclr fp16", "segmentation none", "linear head sgd"} <= networks.keys()
    (speed,) = rows(section, "Fine-tuning, images a second")
    assert speed["alray"] > 0
    assert speed["bare_loop"] > 0


def test_a_section_that_crashes_is_told_and_the_next_one_runs(tmp_path: Path) -> None:
    folder = tmp_path / "benchmarks" / "device"
    folder.mkdir(parents=True)
    for path in CHECK.parent.glob("*.py"):
        (folder / path.name).write_text(path.read_text())
    (folder / "picks.py").write_text("import os\nos.abort()\n")
    (tmp_path / "alray").symlink_to(CHECK.parents[2] / "alray")
    status, result, text = check(tmp_path / "out", "--only", "a,b", "--seconds", "100", program=folder / "check.py")
    assert status == 1
    assert "left with status -6" in result["sections"]["a"]["error"]
    assert "**Failed**" in text
    assert result["sections"]["b"]["finished"]
    assert rows(result["sections"]["b"], "Selection")
