"""Two starts of one run at once, with an oracle that never gives the same labels twice: one is at work, the other one
waits for its turn or is refused, and no label is bought twice."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from multiprocessing.queues import Queue
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from program import _context, start
from test_kill_linear import config_of, write_embeddings

from alray.config import RunConfig
from alray.data.oracle import Answers, Requests
from alray.lease import LEASE, LeaseLost, lease
from alray.rounds import run
from alray.rundir import RunDir, RunError
from alray.store import Store


class RandomOracle:
    """Writes down every label that it sells."""

    def __init__(self, book: str, pause: float = 0.0) -> None:
        self._book, self._pause = book, pause
        self._rng = np.random.default_rng()

    def answer(self, requests: Requests) -> Answers:
        labels = self._rng.integers(0, 5, len(requests))
        lines = "".join(f"{row} {label}\n" for row, label in zip(requests.rows, labels, strict=True))
        with open(self._book, "a") as file:  # one write, at the end of the file
            file.write(lines)
        if requests.round is not None:
            time.sleep(self._pause)
        return Answers.of(labels)


class FreezingOracle(RandomOracle):
    """Stops the process when it is asked in a round."""

    def answer(self, requests: Requests) -> Answers:
        answers = super().answer(requests)
        if requests.round is not None:
            os.kill(os.getpid(), signal.SIGSTOP)
        return answers


def _start(config: str, book: str, together: threading.Barrier, results: Queue[str]) -> None:
    together.wait()
    try:
        run(RunConfig.from_json(config), oracle=RandomOracle(book), quiet=True)
        results.put("finished")
    except RunError as error:
        results.put(str(error))


def _freeze(config: str, book: str, results: Queue[str]) -> None:
    try:
        run(RunConfig.from_json(config), oracle=FreezingOracle(book), quiet=True)
        results.put("finished")
    except LeaseLost as error:
        results.put(f"LeaseLost: {error}")


def check_books(config: RunConfig, book: Path) -> None:
    """Every label was bought once, and the run has exactly the labels that were bought."""
    sold = [tuple(map(int, line.split())) for line in book.read_text().splitlines()]
    bought = (config.rounds - 1) * config.budget
    assert len(sold) == config.split.val_size + config.split.seed_set_size + bought
    (folder,) = Path(config.root).glob("kill-*")
    rows, labels = RunDir(str(folder)).held_out()
    seed_rows, seed_labels = RunDir(str(folder)).seed()
    kept = [*zip(rows, labels, strict=True), *zip(seed_rows, seed_labels, strict=True)]
    for number in range(config.rounds - 1):
        out = folder / f"round_{number:02d}"
        table, picks = pq.read_table(out / "labels.parquet"), pq.read_table(out / "picks.parquet")
        assert table["row"].to_pylist() == picks["row"].to_pylist()
        kept += zip(table["row"].to_pylist(), table["label"].to_pylist(), strict=True)
        metrics = json.loads((folder / f"round_{number + 1:02d}" / "metrics.json").read_text())
        assert metrics["labels_bought"] == (number + 1) * config.budget
    assert sorted(sold) == sorted((int(row), int(label)) for row, label in kept)
    assert not list(folder.glob(f"{LEASE}*"))


@pytest.mark.parametrize("attempt", range(20))
def test_one_of_two_starts_is_at_work(attempt: int, tmp_path: Path) -> None:
    write_embeddings(tmp_path / "data.npz")
    config, book = config_of(tmp_path / "runs", tmp_path / "data.npz"), tmp_path / "book"
    together, results = _context.Barrier(2), _context.Queue()
    arguments = (config.to_json(), str(book), together, results)
    processes = [_context.Process(target=_start, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    said = sorted(results.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
        assert process.exitcode == 0
    check_books(config, book)
    assert said.count("finished") >= 1
    for text in said:  # a start that comes after the end of the other one reads its result
        assert text == "finished" or "another start of this run is at work, process" in text


def test_a_second_start_in_the_same_process_is_refused(tmp_path: Path) -> None:
    write_embeddings(tmp_path / "data.npz")
    config, book = config_of(tmp_path / "runs", tmp_path / "data.npz"), tmp_path / "book"
    refused: list[str] = []

    def again(metrics: dict[str, object]) -> None:
        def second() -> None:
            try:
                run(config, oracle=RandomOracle(str(book)), quiet=True)
            except RunError as error:
                refused.append(str(error))

        if not refused:
            thread = threading.Thread(target=second)
            thread.start()
            thread.join()

    run(config, oracle=RandomOracle(str(book)), quiet=True, on_round=again)
    assert f"another start of this run is at work, process {os.getpid()} on" in refused[0]
    check_books(config, book)


def test_a_killed_start_is_continued_at_once(tmp_path: Path) -> None:
    write_embeddings(tmp_path / "data.npz")
    config = config_of(tmp_path / "runs", tmp_path / "data.npz")
    assert start(config, "round_01/labels.parquet") == -9
    (folder,) = Path(config.root).glob("kill-*")
    assert (folder / LEASE).exists()
    began = time.monotonic()
    with lease(Store(str(folder))):
        assert time.monotonic() - began < 2
    assert start(config) == 0


def test_a_start_that_was_frozen_does_not_write_its_labels(tmp_path: Path) -> None:
    write_embeddings(tmp_path / "data.npz")
    config, book, results = config_of(tmp_path / "runs", tmp_path / "data.npz"), tmp_path / "book", _context.Queue()
    process = _context.Process(target=_freeze, args=(config.to_json(), str(book), results))
    process.start()
    assert process.pid
    while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.05)
    (folder,) = Path(config.root).glob("kill-*")
    with lease(Store(str(folder)), stale=1.0):
        os.kill(process.pid, signal.SIGCONT)
        said = results.get(timeout=60)
        process.join()
    assert said.startswith("LeaseLost: ") and f"lost it: process {os.getpid()} on" in said
    assert not (folder / "round_00" / "labels.parquet").exists()


def test_a_finished_run_is_read_without_a_write(tmp_path: Path) -> None:
    write_embeddings(tmp_path / "data.npz")
    config = config_of(tmp_path / "runs", tmp_path / "data.npz")
    first = run(config, quiet=True)
    (folder,) = Path(config.root).glob("kill-*")
    before = {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}
    (folder / LEASE).write_text("{}")  # even while somebody has the lease
    os.utime(folder, ns=(before[folder], before[folder]))
    told: list[dict[str, object]] = []
    again = run(config, quiet=True, on_round=told.append)
    assert (again.dir, again.rounds) == (first.dir, first.rounds)
    assert told == list(first.rounds)
    (folder / LEASE).unlink()
    os.utime(folder, ns=(before[folder], before[folder]))
    assert {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]} == before
