"""A lease on a directory: one holder at a time, and none for ever."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from alray.lease import LEASE, LeaseLost, lease
from alray.lease_file import claim_on
from alray.process import describe, running
from alray.store import Store, StoreError, create

FORK = multiprocessing.get_context("fork")


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
    process = FORK.Process(target=_hold, args=(folder, str(meeting)))
    process.start()
    while not meeting.exists():
        time.sleep(0.01)
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert Store(folder, sums="").read_json(LEASE)["pid"] == process.pid
    began = time.monotonic()
    with lease(Store(folder)):
        assert time.monotonic() - began < 2


@pytest.mark.parametrize("beats", [True, False])
def test_a_holder_elsewhere_counts_as_dead_when_it_beats_no_more(beats: bool, tmp_path: Path) -> None:
    store, over = Store(str(tmp_path), sums=""), threading.Event()
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


def _leave_dead_lease(folder: Path, token: str = "dead") -> None:
    """The lease of a process of this machine that died."""
    process = FORK.Process(target=int)
    process.start()
    about = describe(process.pid or 0)
    process.join()
    Store(str(folder), sums="").write_json(LEASE, {**about, "token": token})


class _Busy(Exception):  # noqa: N818
    pass


def _raise_busy(holder: str) -> None:
    raise _Busy(holder)


def _compete(folder: str, together: threading.Barrier, results: multiprocessing.Queue[str]) -> None:
    together.wait()
    try:
        with lease(Store(folder), busy=_raise_busy):
            results.put("held")
            together.wait()  # the others are refused while this one holds the lease
    except _Busy:
        results.put("busy")
        together.wait()


@pytest.mark.parametrize("dead", [True, False])
def test_of_many_that_claim_at_once_one_gets_the_lease(dead: bool, tmp_path: Path) -> None:
    for attempt in range(8):
        folder = tmp_path / str(attempt)
        if dead:
            _leave_dead_lease(folder)
        together, results = FORK.Barrier(4), FORK.Queue()
        processes = [FORK.Process(target=_compete, args=(str(folder), together, results)) for _ in range(4)]
        for process in processes:
            process.start()
        found = sorted(results.get(timeout=60) for _ in processes)
        for process in processes:
            process.join()
        assert found == ["busy", "busy", "busy", "held"]
        assert Store(str(folder)).names() == []


def _take(folder: str, count: int, together: threading.Barrier, results: multiprocessing.Queue[list[bool]]) -> None:
    taken, replace = [], os.replace

    def late(source: str, target: str) -> None:
        time.sleep(0.02 * random.random())
        replace(source, target)

    os.replace = late  # type: ignore[assignment]  # the processes come between each other's steps
    for number in range(count):
        claim = claim_on(Store(f"{folder}/{number}"), LEASE)
        dead = claim.look()
        together.wait()  # all have seen the dead lease before one of them replaces it
        content = json.dumps({**describe(os.getpid()), "token": f"{os.getpid()}-{number}"})
        taken.append(claim.take(content, dead) and claim.held())
        together.wait()
    results.put(taken)


def test_a_dead_lease_is_replaced_by_one_process_only(tmp_path: Path) -> None:
    count = 60
    for number in range(count):
        Store(str(tmp_path / str(number)), sums="").write_json(LEASE, {"token": str(number)})
    together, results = FORK.Barrier(4), FORK.Queue()
    processes = [FORK.Process(target=_take, args=(str(tmp_path), count, together, results)) for _ in range(4)]
    for process in processes:
        process.start()
    taken = [results.get(timeout=100) for _ in processes]
    for process in processes:
        process.join()
    assert [sum(each) for each in zip(*taken, strict=True)] == [1] * count
    assert all(Store(str(tmp_path / str(number))).names() == [LEASE] for number in range(count))


def test_a_takeover_that_died_halfway_is_finished_by_another(tmp_path: Path) -> None:
    _leave_dead_lease(tmp_path)
    claim = claim_on(Store(str(tmp_path)), LEASE)
    dead = claim.look()
    before = set(tmp_path.iterdir())
    with pytest.MonkeyPatch.context() as patch:  # as a kill before the last step leaves it
        patch.setattr(os, "replace", lambda source, target: None)
        assert not claim.take(json.dumps({**describe(os.getpid()), "start": "0", "token": "half"}), dead)
    assert len(set(tmp_path.iterdir()) - before) == 1
    began = time.monotonic()
    with lease(Store(str(tmp_path))):
        assert time.monotonic() - began < 2
    assert list(tmp_path.iterdir()) == []


def test_a_used_again_process_number_is_not_the_holder(tmp_path: Path) -> None:
    store, me = Store(str(tmp_path), sums=""), describe(os.getpid())
    assert running(me) is True
    assert running({**me, "start": "1"}) is False
    store.write_json(LEASE, {**me, "start": "1", "token": "before"})
    with lease(store, busy=_raise_busy):
        assert store.read_json(LEASE)["token"] != "before"


def test_a_killed_process_whose_parent_has_not_asked_for_it_is_dead() -> None:
    process = FORK.Process(target=time.sleep, args=(60,))
    process.start()
    about = describe(process.pid or 0)
    os.kill(process.pid or 0, signal.SIGKILL)
    ended = time.monotonic() + 10
    while running(about) and time.monotonic() < ended:
        time.sleep(0.01)
    assert running(about) is False
    process.join()


def test_a_container_with_the_same_host_name_is_another_machine(tmp_path: Path) -> None:
    store, told = Store(str(tmp_path), sums=""), []
    store.write_json(LEASE, {**describe(2**22 + 1), "machine": "another", "token": "x"})
    began = time.monotonic()
    with lease(store, told.append, busy=_raise_busy, stale=1.0):
        assert time.monotonic() - began >= 1.0
    assert len(told) == 1


def test_a_beat_from_elsewhere_shows_that_the_holder_lives(tmp_path: Path) -> None:
    store, over = Store(str(tmp_path), sums=""), threading.Event()

    def hold(number: int = 0) -> None:
        while not over.wait(0.1):
            store.write_json(LEASE, {"host": "elsewhere", "pid": 1, "token": "x", "beat": number})
            number += 1

    store.write_json(LEASE, {"host": "elsewhere", "pid": 1, "token": "x", "beat": -1})
    thread = threading.Thread(target=hold)
    thread.start()
    try:
        with pytest.raises(_Busy, match="process 1 on elsewhere"), lease(store, busy=_raise_busy, stale=30):
            pass
    finally:
        over.set()
        thread.join()


def _hold_and_write(folder: str, results: multiprocessing.Queue[str]) -> None:
    store = Store(folder)
    try:
        with lease(store, stale=1.0):
            store.write_json("mine.json", 1)
            results.put("held")
            while not Path(folder, "go").exists():
                time.sleep(0.05)
            time.sleep(0.5)  # some beats
            store.child("deep").write_json("late.json", 1)
            results.put("wrote")
    except LeaseLost as error:
        results.put(str(error))


def test_a_holder_that_was_frozen_and_lost_its_lease_stops_before_it_writes(tmp_path: Path) -> None:
    folder, results = str(tmp_path / "held"), FORK.Queue()
    process = FORK.Process(target=_hold_and_write, args=(folder, results))
    process.start()
    assert results.get(timeout=60) == "held"
    os.kill(process.pid or 0, signal.SIGSTOP)
    with lease(Store(folder), stale=1.0):
        before = (Path(folder) / LEASE).read_bytes()
        os.kill(process.pid or 0, signal.SIGCONT)
        (Path(folder) / "go").touch()
        said = results.get(timeout=60)
        process.join()
        assert f"process {process.pid} on" in said and f"lost it: process {os.getpid()} on" in said
        assert (Path(folder) / LEASE).read_bytes() == before
        assert Store(folder).names() == ["go", LEASE, "mine.json"]
    assert Store(folder).names() == ["go", "mine.json"]


def test_without_hard_links_one_gets_the_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some mounted file systems have no hard links."""

    def refuse(*names: str) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    test_one_at_a_time(tmp_path)
    _leave_dead_lease(tmp_path)
    with lease(Store(str(tmp_path))), pytest.raises(_Busy), lease(Store(str(tmp_path)), busy=_raise_busy):
        pass


def test_a_conditional_put_writes_once() -> None:
    """fsspec's store in memory has one."""
    assert create("memory://alray-lease/a.json", b"1") is True
    assert create("memory://alray-lease/a.json", b"2") is False
    with (
        lease(Store("memory://alray-lease")),
        pytest.raises(_Busy),
        lease(Store("memory://alray-lease"), busy=_raise_busy),
    ):
        pass


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(StoreError, match="cannot write .*file/run/lease.json"),
        lease(Store(str(tmp_path / "file/run"))),
    ):
        pass
