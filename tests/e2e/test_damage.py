"""A finished run: every flipped bit is noticed, it is made again after what is damaged was removed, and it can be read
where nothing may be written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from program import facts
from test_kill_linear import config_of, write_embeddings

from alray import RunConfig
from alray.cli import main
from alray.config import SplitConfig
from alray.lease import lease
from alray.report import report
from alray.rounds import run
from alray.rundir import RunDir
from alray.store import Damaged, StoreError
from alray.verify import record, verify

BLOCK = 4096


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunConfig]:
    """The folder of a finished run with its catalog, features and report, and its configuration."""
    folder = tmp_path_factory.mktemp("finished")
    write_embeddings(folder / "data.npz")
    split = SplitConfig(val_size=25, seed_set_size=20, seed_set_how="k_means")
    config = config_of(folder / "runs", folder / "data.npz").model_copy(update={"split": split})
    report([run(config, quiet=True).dir])
    return folder, config


@pytest.fixture
def copy(finished: tuple[Path, RunConfig], tmp_path: Path) -> Iterator[tuple[Path, RunConfig]]:
    """The same in its own place, which a test may damage."""
    folder, config = finished
    kept = tmp_path / "kept"
    shutil.copytree(folder / "runs", kept)
    yield folder, config
    shutil.rmtree(folder / "runs")
    shutil.copytree(kept, folder / "runs")


def run_dir(folder: Path) -> Path:
    (found,) = folder.glob("runs/kill-*")
    return found


def flip(path: Path, start: int = 0) -> bytes:
    """Flip one bit, seeded by the file's name, in the block that begins at `start`; returns the file as it was."""
    data = path.read_bytes()
    block = min(BLOCK, len(data) - start)
    bit = int(np.random.default_rng([start, *path.name.encode()]).integers(0, 8 * block))
    changed = bytearray(data)
    changed[start + bit // 8] ^= 1 << bit % 8
    path.write_bytes(changed)
    return data


def test_a_flip_in_any_block_of_any_file_is_noticed(finished: tuple[Path, RunConfig]) -> None:
    folder, _ = finished
    place, flips = str(folder / "runs"), 0
    files = [path for path in sorted((folder / "runs").rglob("*")) if path.is_file()]
    assert verify(place).problems == [] and verify(place).exempt == []
    assert {path.name for path in files} >= {
        "config.json", "run.json", "splits.parquet", "pool.parquet", "seed_set.parquet", "picks.parquet",
        "selection.json", "labels.parquet", "timings.json", "metrics.json", "metrics.csv", "metrics.jsonl",
        "train.json", "head.npz", "part-00000.arrow", "index.parquet", "manifest.json", "catalog.parquet",
        "problems.parquet", "meta.json", "report.html", "alray-checksums.json",
    }  # fmt: skip
    for path in files:
        for start in range(0, path.stat().st_size, BLOCK):
            data = flip(path, start)
            assert [line.partition(": ")[0] for line in verify(place).problems] == [str(path)], path
            path.write_bytes(data)
            flips += 1
    assert flips > 90
    assert verify(place).problems == []


def test_a_missing_file_is_noticed(finished: tuple[Path, RunConfig]) -> None:
    folder, _ = finished
    place = str(folder / "runs")
    for path in sorted((folder / "runs").rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            path.unlink()
            problems = [line.split(": ")[:2] for line in verify(place).problems]
            if path.name.startswith("alray-checksums"):
                assert problems and all(words[1] == "not listed" for words in problems)
            else:
                assert problems == [[str(path), "missing"]]
            path.write_bytes(data)
    assert verify(place).problems == []


def more_rounds(folder: Path, config: RunConfig) -> None:
    run(config.model_copy(update={"rounds": config.rounds + 1}), quiet=True)


def again(folder: Path, config: RunConfig) -> None:
    run(config, quiet=True)


def reported(folder: Path, config: RunConfig) -> None:
    report([str(run_dir(folder))], str(folder / "report"))


def from_its_configuration(folder: Path, config: RunConfig) -> None:
    from alray.recipes import presets

    presets(str(run_dir(folder) / "config.json"))


def read_by(read: Callable[[RunDir], Any]) -> Callable[[Path, RunConfig], None]:
    return lambda folder, config: read(RunDir(str(run_dir(folder))))


NOTICED: list[tuple[str, Callable[[Path, RunConfig], None]]] = [
    *((name, more_rounds) for name in (
        "kill-*/run.json", "kill-*/pool.parquet", "kill-*/splits.parquet", "kill-*/seed_set.parquet",
        "kill-*/round_01/labels.parquet", "kill-*/round_01/metrics.json", "kill-*/round_02/timings.json",
        "kill-*/round_02/checkpoint/train.json", "kill-*/round_02/checkpoint/head.npz", "features/*/part-*",
        "features/*/index.parquet", "features/*/manifest.json", "catalogs/*/catalog.parquet", "catalogs/*/meta.json",
        "kill-*/alray-checksums.json", "kill-*/round_01/alray-checksums.json",
    ) if name != "kill-*/pool.parquet"),
    *((name, again) for name in ("kill-*/run.json", "kill-*/round_01/metrics.json", "catalogs/*/catalog.parquet")),
    *((name, reported) for name in (
        "kill-*/run.json", "kill-*/pool.parquet", "kill-*/splits.parquet", "kill-*/seed_set.parquet",
        "kill-*/round_01/labels.parquet", "kill-*/round_01/picks.parquet", "kill-*/round_01/metrics.json",
        "kill-*/round_00/selection.json", "features/*/part-*", "features/*/index.parquet", "catalogs/*/meta.json",
    )),
    ("kill-*/config.json", from_its_configuration),
    ("kill-*/config.json", read_by(lambda run: run.config())),
    ("kill-*/pool.parquet", read_by(lambda run: run.pool())),
    ("kill-*/seed_set.parquet", read_by(lambda run: run.cold_start())),
    ("kill-*/round_01/head.npz".replace("head", "checkpoint/head"), read_by(lambda run: run.round(1).head())),
    ("kill-*/round_01/timings.json", read_by(lambda run: run.round(1).timings())),
    ("catalogs/*/problems.parquet", read_by(lambda run: run.catalog().problems())),
]  # fmt: skip


@pytest.mark.parametrize(("name", "read"), NOTICED)
def test_whoever_reads_a_damaged_file_notices_it(
    name: str, read: Callable[[Path, RunConfig], None], copy: tuple[Path, RunConfig]
) -> None:
    folder, config = copy
    (path,) = (folder / "runs").glob(name)
    flip(path)
    with pytest.raises(Damaged, match=f"{path.name}: (damaged|{'' if 'checksums' in name else 'damaged'})"):
        read(folder, config)


def test_what_was_removed_because_it_was_damaged_is_made_again(copy: tuple[Path, RunConfig]) -> None:
    folder, config = copy
    expected = facts(folder / "runs")
    for name in ("kill-*/round_01", "kill-*/round_02", "features", "catalogs"):
        (path,) = (folder / "runs").glob(name)
        shutil.rmtree(path)
    run(config, quiet=True)
    assert facts(folder / "runs") == expected
    shutil.rmtree(run_dir(folder))
    run(config, quiet=True)
    assert facts(folder / "runs") == expected
    assert verify(str(folder / "runs")).problems == []


def test_labels_that_are_gone_are_not_bought_again_silently(copy: tuple[Path, RunConfig]) -> None:
    folder, config = copy
    (run_dir(folder) / "round_01" / "labels.parquet").unlink()
    with pytest.raises(Damaged, match=r"labels.parquet: missing"):
        run(config, quiet=True)


def test_what_a_user_sees(
    copy: tuple[Path, RunConfig], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = copy
    place = run_dir(folder)
    main(["verify", str(place)])
    assert "all as alray wrote them" in capsys.readouterr().out
    flip(place / "round_01" / "labels.parquet")
    (place / "round_00" / "picks.parquet").unlink()
    (place / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit) as stop:
        main(["verify", str(place)])
    printed = capsys.readouterr()
    assert stop.value.code == 2
    assert "3 problems" in printed.out
    for words in ("labels.parquet: damaged", "picks.parquet: missing", "notes.txt: not listed", "--record"):
        assert words in printed.err
    main(["verify", str(place), "--record", "True"])
    main(["verify", str(place)])
    assert "all as alray wrote them" in capsys.readouterr().out


def test_a_run_without_checksums_is_read_and_continued_after_they_were_recorded(
    copy: tuple[Path, RunConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    """Such as one of alray 0.1."""
    folder, config = copy
    place, more = run_dir(folder), config.model_copy(update={"rounds": config.rounds + 1})
    for path in folder.rglob("alray-checksums*.json"):
        path.unlink()
    report([str(place)], str(folder / "report"))
    with pytest.raises(Damaged, match="not listed: .* --record True"):
        run(more, quiet=True)
    with lease(RunDir(str(place))), pytest.raises(StoreError, match="expected a run that nobody works on"):
        record(str(folder / "runs"))
    main(["verify", str(folder / "runs"), "--record", "True"])
    run(more, quiet=True)
    report([str(place)])
    capsys.readouterr()
    main(["verify", str(place)])
    assert "all as alray wrote them" in capsys.readouterr().out


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Time and size of all files and directories: any write, even one that is taken back, changes a time."""
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_size if path.is_file() else 0)
        for path in (folder, *folder.rglob("*"))
    }


def test_a_finished_run_is_only_read(finished: tuple[Path, RunConfig], tmp_path: Path) -> None:
    folder, config = finished
    before = state(folder / "runs")
    run(config, quiet=True)
    run(config.model_copy(update={"run_dir": str(run_dir(folder))}), quiet=True)
    report([str(run_dir(folder))], str(tmp_path / "report"))
    verify(str(run_dir(folder)))
    found = RunDir(str(run_dir(folder)))
    assert found.committed() == [0, 1, 2] and len(found.catalog()) == 600
    assert state(folder / "runs") == before


READ = """
import json, sys
from pathlib import Path
from alray.cli import main
folder = Path(sys.argv[1])
try:
    (folder / "runs" / "x").write_text("")
    raise SystemExit("the folder can be written")
except OSError:
    pass
main(["run", str(folder / "c.json")])
main(["report", *map(str, (folder / "runs").glob("kill-*")), "--out", sys.argv[2]])
main(["verify", *map(str, (folder / "runs").glob("kill-*"))])
"""


MOUNT = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" || exit 77; exec "$@"'


def test_a_finished_run_can_be_read_where_nothing_may_be_written(tmp_path: Path) -> None:
    """Permissions forbid a process to write, and for root, whom they do not bind, a read-only mount does."""
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    write_embeddings(folder / "data.npz")
    config = config_of(folder / "runs", folder / "data.npz")
    run(config, quiet=True)
    (folder / "c.json").write_text(config.to_json())
    command = [sys.executable, "-c", READ, str(folder), str(out / "report")]
    if os.getuid() == 0:
        if not shutil.which("unshare"):
            pytest.skip("root needs unshare for a read-only mount")
        command = ["unshare", "--mount", "sh", "-c", MOUNT, str(folder), *command]
    _allow(folder, 0o555, 0o444)
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        _allow(folder, 0o755, 0o644)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"no read-only mount here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    assert "no report: cannot write" in done.stdout and "--out DIRECTORY" in done.stdout
    assert "all as alray wrote them" in done.stdout
    assert str(out / "report" / "report.html") in done.stdout


def _allow(folder: Path, directories: int, files: int) -> None:
    for path in (folder, *folder.rglob("*")):
        path.chmod(directories if path.is_dir() else files)
