"""Storage that is away for some seconds is waited for; what waiting does not mend is raised at once."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from image_sources import SOURCES, items
from s3_server import Server

from alray.data.catalog import index
from alray.data.fetch import fetch
from alray.lease import LEASE, lease
from alray.patience import PATIENCE, Away, impatient, may_pass, persistent
from alray.store import Store, StoreError

BUCKET = "away"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    import boto3

    found = Server()
    found.start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in found.settings.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield found
    found.stop()


def test_a_store_that_is_away_for_two_seconds_is_waited_for(server: Server, tmp_path: Path) -> None:
    store = Store(f"s3://{BUCKET}/run")
    store.write_json("a.json", [1, 2])
    for work in (
        lambda: store.read_json("a.json"),
        lambda: store.write_json("b.json", [1, 2]) or store.read_json("b.json"),
        lambda: [1, 2] if store.names() == ["a.json", "b.json"] else store.names(),
        lambda: [1, 2] if store.has("a.json") else None,
    ):
        back = server.away(2)
        assert work() == [1, 2]
        back.join()


@pytest.mark.parametrize("name", ["folder", "tars by sidecar", "parquet"])
def test_images_are_waited_for(name: str, server: Server, tmp_path: Path) -> None:
    write, key = SOURCES[name]
    local = write(items(), tmp_path / "source")
    place = Store(f"s3://{BUCKET}/{name.replace(' ', '-')}", sums="")
    for path in sorted((tmp_path / "source").rglob("*")):
        if path.is_file():
            place.write_bytes(str(path.relative_to(tmp_path)), path.read_bytes())
    catalog = index(local.replace(str(tmp_path), place.uri), str(tmp_path / "catalog"), key=key)
    references = catalog.references(np.arange(len(catalog)))
    before = fetch(references, catalog.source, catalog.image_column)
    back = server.away(2)
    assert fetch(references, catalog.source, catalog.image_column) == before
    back.join()


def test_a_lease_is_kept_over_an_absence(server: Server) -> None:
    store = Store(f"s3://{BUCKET}/held")
    with lease(store, stale=6):
        back = server.away(2)
        store.write_json("a.json", 1)  # it looks at the lease first
        back.join()
        store.write_json("a.json", 2)
    assert store.read_json("a.json") == 2 and not store.has(LEASE)


def test_a_store_that_stays_away_is_a_clear_error(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(f"s3://{BUCKET}/gone")
    store.write_json("a.json", 1)
    monkeypatch.setenv(PATIENCE, "1")
    server.stop()
    try:
        with pytest.raises(StoreError, match=r"s3://away/gone/.*: storage was away for 1 s .*same command again"):
            store.read_json("a.json")
        with pytest.raises(StoreError, match=r"s3://away/gone/.* was away for 1 s"):
            store.write_json("a.json", 2)
    finally:
        server.start()
    assert store.read_json("a.json") == 1


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.ENOSPC, errno.EROFS, errno.EEXIST, errno.EISDIR])
def test_what_waiting_does_not_mend_is_raised_at_once(number: int) -> None:
    calls = []

    def work() -> None:
        calls.append(1)
        raise OSError(number, os.strerror(number))

    with pytest.raises(OSError, match=os.strerror(number)):
        persistent("place", work)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (OSError("When reading information for key 'k': AWS Error NETWORK_CONNECTION during HeadObject"), True),
        (OSError("AWS Error UNKNOWN (HTTP status 503) during GetObject operation"), True),
        (OSError("AWS Error SLOW_DOWN during PutObject operation: reduce your request rate"), True),
        (OSError(errno.ESTALE, "Stale file handle"), True),
        (ConnectionResetError("reset"), True),
        (OSError("AWS Error ACCESS_DENIED during HeadObject operation: No response body."), False),
        (OSError("AWS Error NO_SUCH_BUCKET during PutObject operation"), False),
        (OSError("AWS Error UNKNOWN (HTTP status 400) during HeadObject operation"), False),
        (ValueError("timed out"), False),
    ],
)
def test_which_errors_may_pass(error: Exception, passes: bool) -> None:
    assert may_pass(error) is passes


def test_an_impatient_thread_does_not_wait() -> None:
    def work() -> None:
        raise ConnectionRefusedError("refused")

    begun = time.monotonic()
    with impatient(), pytest.raises(ConnectionRefusedError):
        persistent("place", work)
    assert time.monotonic() - begun < 5


def test_the_pauses_grow_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setenv(PATIENCE, "30")
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0] + sum(pauses))

    def work() -> None:
        raise TimeoutError("no answer")

    with pytest.raises(Away, match="no answer"):
        persistent("place", work)
    assert 20 < sum(pauses) <= 30 and max(pauses) <= 4 and 8 < len(pauses) < 25
