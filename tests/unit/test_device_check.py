"""The program that checks a GPU, at tiny sizes on the CPU: it must not fail for the first time on a lent machine."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alray import STRATEGIES, keyed

CHECK = Path(__file__).resolve().parents[2] / "benchmarks" / "device" / "check.py"


def check(out: Path, *arguments: str, program: Path = CHECK) -> tuple[int, dict[str, Any], str]:
    """The exit status, device.json and device.md."""
    done = subprocess.run(
        [sys.executable, str(program), "--tiny", "--out", str(out), *arguments],
        capture_output=True, text=True, check=False, timeout=550,
    )  # fmt: skip
    assert (out / "device.json").is_file(), done.stdout + done.stderr
    return done.returncode, json.loads((out / "device.json").read_text()), (out / "device.md").read_text()


def loaded(module: str) -> Any:
    """A module of the check, which is no package."""
    if str(CHECK.parent) not in sys.path:
        sys.path.append(str(CHECK.parent))
    return importlib.import_module(module)


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
        assert row["seconds_at_bus_rate"] > 0
        assert row["times_the_larger"] * max(row["seconds_at_bus_rate"], row["seconds_at_product_rate"]) > 0
        assert row["goal"].startswith("fewer rows; 3 x floor ")
    assert {row["vectors"] for row in found if row["work"] == "k_center"} == {"resident", "streamed"}


def test_a_goal_is_reached_in_both_parts_or_told_to_be_missed() -> None:
    goal = loaded("scale").goal
    assert goal(2.9, 1.0, True) == "3 s reached; 3 x floor reached"
    assert goal(2.9, 0.5, True) == "3 s reached; 3 x floor not reached"
    assert goal(3.1, 2.0, True) == "3 s not reached; 3 x floor reached"
    assert goal(3.1, 1.0, False) == "fewer rows; 3 x floor not reached"


def every_network_is_compared(section: dict[str, Any]) -> None:
    networks = {row["network"]: row for row in rows(section, "Networks")}
    assert len(networks) == 20
    assert all(row["near_the_cpu"] for row in networks.values())
    assert {"vaal", "simclr fp16", "segmentation none", "linear head sgd"} <= networks.keys()
    (speed,) = rows(section, "Fine-tuning, images a second")
    assert speed["alray"] > 0
    assert speed["bare_loop"] > 0


@pytest.mark.slow
def test_tiny_rounds_of_the_published_protocols(tmp_path: Path) -> None:
    """Four processes, on generated images: rows of every protocol, with all rounds."""
    status, result, text = check(tmp_path, "--only", "f", "--seconds", "400")
    assert status == 0, text
    section = result["sections"]["f"]
    (pretext,) = rows(section, "Pretext task")
    assert pretext["epochs"] == 1
    titles = {"PT4AL (Yi et al. 2022)": (4, 8), "BASE (Emam et al. 2021)": (4, 8)}
    for title, labels in {**titles, "Core-Set (Sener & Savarese 2018)": (20, 40)}.items():
        found = rows(section, title)
        assert tuple(row["labels"] for row in found) == labels
        assert all(0 <= row["accuracy"] <= 1 and 0 < row["class_entropy"] <= 1 for row in found)
        assert any("1 epochs in the first to 1 in the last instead of 200" in n for n in section["notes"] if title in n)
    assert {row["strategy"] for row in rows(section, "Selection")} == {"pt4al", "base", "k_center"}


def test_without_cifar10_the_published_protocols_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    protocols, section = loaded("protocols"), loaded("section").Section(False, 100.0, tmp_path / "section.json")
    monkeypatch.setenv("ALRAY_TEST_DATA", str(tmp_path))
    protocols.run(section)
    assert (section.rows, section.failures) == ([], [])
    assert section.notes[0].startswith("Left out: no CIFAR-10 in")


@pytest.mark.parametrize(("rate", "seconds"), [(500.0, 60.0), (3000.0, 150.0), (8000.0, 450.0)])
def test_what_is_planned_fits_and_more_time_gives_more(rate: float, seconds: float) -> None:
    plan = loaded("protocol_plan")
    for protocol in plan.PROTOCOLS.values():
        rounds, last = plan.fitting(protocol, plan.FULL, rate, seconds)
        smallest = (protocol.rounds[-1], 1)
        assert plan.seconds_of(protocol, plan.FULL, rounds, last, rate) <= seconds or (rounds, last) == smallest
        assert plan.seconds_of(protocol, plan.FULL, rounds, last + 1, rate) > seconds
        most = rounds * protocol.step(plan.FULL)
        epochs = [plan.epochs_of(labels, most, last, plan.FULL) for labels in (protocol.step(plan.FULL), most)]
        assert epochs[1] == last <= epochs[0] <= plan.PUBLISHED_EPOCHS
        assert plan.fitting(protocol, plan.FULL, 2 * rate, seconds) >= (rounds, 0)
    whole = plan.fitting(plan.PROTOCOLS["pt4al"], plan.FULL, 1e9, 1e9)
    assert whole == (10, plan.PUBLISHED_EPOCHS)


def test_crops_are_those_of_a_plain_loop_and_depend_on_epoch_and_row_alone() -> None:
    cifar, batches = loaded("cifar"), importlib.import_module("alray.train.batches")
    rng = np.random.default_rng(0)
    padded = rng.integers(0, 256, (50, 40, 40, 3)).astype(np.uint8)
    data = cifar.Cifar(padded, np.zeros(50, np.int64), padded[:2, 4:-4, 4:-4], np.zeros(2, np.int64))
    rows = np.arange(0, 48, 3)
    draws = keyed.priorities(1, "crops", rows)
    for image, row, draw in zip(data.cropped(rows, draws), rows, draws.tolist(), strict=True):
        top, left = draw % 9, draw // 9 % 9
        expected = padded[row, top : top + 32, left : left + 32]
        np.testing.assert_array_equal(image, expected[:, ::-1] if draw >> 63 else expected)

    def seen(batch: int) -> dict[tuple[int, int], bytes]:
        plan = batches.BatchPlan(rows, np.zeros(len(rows), np.int64), np.ones(1, np.float32), 0, 0, batch, 0, 1)
        blocks = cifar.InMemory(data, 3, True, 7).training(plan, 0)
        images = [(int(row), image.tobytes()) for b in blocks for row, image in zip(b["row"], b["image"], strict=True)]
        return {(number // len(rows), row): image for number, (row, image) in enumerate(images)}

    once = seen(4)
    assert once == seen(16)
    assert len(set(once.values())) > 2 * len(rows)  # other crops in other epochs


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
