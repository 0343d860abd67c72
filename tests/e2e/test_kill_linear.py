"""kill -9 of the driver at every stage of a round, on brought-in embeddings: the same picks and labels after a
restart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from program import facts, start

from alray.config import DataConfig, ResourceConfig, RunConfig, SplitConfig, TrainConfig, replace
from alray.verify import verify

ROUNDS = 3


def write_embeddings(path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(600) % 5
    features = rng.normal(size=(600, 8)) + 2 * rng.normal(size=(5, 8))[labels]
    np.savez(path, features=features.astype(np.float16), label=labels, is_test=np.arange(600) % 6 == 0)


def config_of(root: Path, data: Path) -> RunConfig:
    return RunConfig(
        name="kill",
        root=str(root),
        rounds=ROUNDS,
        budget=20,
        top_k=(2,),
        data=DataConfig(root=str(data)),
        split=SplitConfig(val_size=25, seed_set_size=20),
        train=TrainConfig(mode="linear", epochs=5, patience=2, lr=1.0),
        resources=ResourceConfig(select_workers="process", select_shards=2),
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    write_embeddings(folder / "data.npz")
    assert start(config_of(folder / "runs", folder / "data.npz")) == 0
    return folder / "data.npz", facts(folder / "runs")


STAGES = {
    "index": "meta.json",
    "split": "splits.parquet",
    "open": "run.json",
    "extract": "manifest.json",
    "train": "round_01/checkpoint/head.npz",
    "train's end": "round_01/checkpoint/train.json",
    "evaluate": "round_01/timings.json",
    "select": "round_01/picks.parquet",
    "label": "round_01/labels.parquet",
    "commit": "round_01/metrics.json",
    "scalars": "metrics.csv",
    "checksums of a head": "round_01/checkpoint/alray-checksums.json",
    "checksums of a round": "round_01/alray-checksums.json",
}


@pytest.mark.parametrize("when", ["before", "during", "after"])
@pytest.mark.parametrize("stage", STAGES)
def test_killed_in_a_stage(stage: str, when: str, undisturbed: tuple[Path, dict[str, object]], tmp_path: Path) -> None:
    data, expected = undisturbed
    config = config_of(tmp_path / "runs", data)
    assert start(config, STAGES[stage], when) == -9
    assert start(config) == 0
    assert facts(tmp_path / "runs") == expected
    assert verify(str(tmp_path / "runs")).problems == []


@pytest.fixture(scope="module")
def ahead(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """An undisturbed run that chooses each batch while the one before is out."""
    folder = tmp_path_factory.mktemp("ahead")
    write_embeddings(folder / "data.npz")
    assert start(with_overlap(folder / "runs", folder / "data.npz")) == 0
    return folder / "data.npz", facts(folder / "runs")


def with_overlap(root: Path, data: Path) -> RunConfig:
    return replace(config_of(root, data), {"labels.overlap": 1, "rounds": 4})


@pytest.mark.parametrize(
    "file",
    [
        "round_00/batch/requests.parquet", "round_01/selection.json", "round_01/picks.parquet",
        "round_01/batch/requests.parquet", "round_00/labels.parquet", "round_02/picks.parquet", "round_01/begun.json",
    ],
)  # fmt: skip
def test_killed_while_two_batches_are_out(file: str, ahead: tuple[Path, dict[str, object]], tmp_path: Path) -> None:
    data, expected = ahead
    config = with_overlap(tmp_path / "runs", data)
    assert start(config, file) == -9
    assert start(config) == 0
    assert facts(tmp_path / "runs") == expected
    assert verify(str(tmp_path / "runs")).problems == []


def test_killed_again_and_again(undisturbed: tuple[Path, dict[str, object]], tmp_path: Path) -> None:
    """Each start lives for nine writes: every round is taken up again many times."""
    data, expected = undisturbed
    config = config_of(tmp_path / "runs", data)
    starts = 1
    while start(config, kill_after_writes=9) != 0:
        starts += 1
        assert starts < 40, "the run makes no progress"
    assert starts > 3
    assert facts(tmp_path / "runs") == expected
    assert verify(str(tmp_path / "runs")).problems == []


def test_a_finished_run_started_again_changes_nothing_and_more_rounds_go_on(
    undisturbed: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    data, expected = undisturbed
    short = config_of(tmp_path / "runs", data).model_copy(update={"rounds": 1})
    assert start(short) == 0
    full = config_of(tmp_path / "runs", data)
    assert start(full) == 0
    assert facts(tmp_path / "runs") == expected
    (run,) = (tmp_path / "runs").glob("kill-*")
    before = {path: path.stat().st_mtime_ns for path in run.glob("round_*/**/*")}
    assert start(full) == 0
    assert {path: path.stat().st_mtime_ns for path in run.glob("round_*/**/*")} == before
