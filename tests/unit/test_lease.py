"""A lease on a directory: one holder at a time, and none for ever."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from alray.lease import LEASE, lease
from alray.store import Store


def test_one_at_a_time(tmp_path: Path) -> None:
    """Four threads add to one file, each reading, waiting and writing: without a lease they would lose additions."""
    store, waited = Store(str(tmp_path)), []
    store.write_json("count.json", 0)

    def add() -> None:
        with lease(store, waited.append, stale=30):
            count = store.read_json("count.json")
            time.sleep(0.05)
            store.write_json("count.json", count + 1)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.read_json("count.json") == 4
    assert f"process {os.getpid()}" in waited[0]
    assert store.names() == ["count.json"]


def _hold(folder: str, meeting: str) -> None:
    with lease(Store(folder)):
        Path(meeting).touch()
        time.sleep(60)


def test_a_killed_holder_of_this_machine_is_seen_at_once(tmp_path: Path) -> None:
    folder, meeting = str(tmp_path / "held"), tmp_path / "meeting"
    process = multiprocessing.get_context("fork").Process(target=_hold, args=(folder, str(meeting)))
    process.start()
    while not meeting.exists():
        time.sleep(0.01)
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert Store(folder).read_json(LEASE)["pid"] == process.pid
    began = time.monotonic()
    with lease(Store(folder)):
        assert time.monotonic() - began < 10


@pytest.mark.parametrize("beats", [True, False])
def test_a_holder_elsewhere_counts_as_dead_when_it_beats_no_more(beats: bool, tmp_path: Path) -> None:
    store, over = Store(str(tmp_path)), threading.Event()
    store.write_json(LEASE, {"host": "elsewhere", "pid": 1, "token": "x", "beat": 0})

    def beat() -> None:
        number = 0
        while beats and not over.wait(0.2):
            number += 1
            store.write_json(LEASE, {"host": "elsewhere", "pid": 1, "token": "x", "beat": number})
        store.delete(LEASE)

    thread, got, told = threading.Thread(target=beat), [], []

    def take() -> None:
        with lease(store, told.append, stale=1.5):
            got.append(json.loads((tmp_path / LEASE).read_text())["token"])

    taker = threading.Thread(target=take)
    taker.start()
    if beats:
        thread.start()
        time.sleep(4)
        assert not got  # it lives
        over.set()
        thread.join()
    taker.join()
    assert len(got) == 1 and got[0] != "x"
    assert told == ["process 1 on elsewhere"]
