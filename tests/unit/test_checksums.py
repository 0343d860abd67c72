"""A damaged file is noticed when it is read; a kill between a list of checksums and its file is not damage."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from alray import checksums
from alray.atomic import filesystem, is_file, read_bytes, write_unguarded
from alray.checksums import ABSENT, LIST, REPORT_LIST, load, sum_at, sum_of
from alray.data.catalog import index
from alray.features.table import FeatureTable, part_name, write_arrays
from alray.models.checkpoint import CheckpointError, load_backbone
from alray.models.head import Head
from alray.rundir import RUN, RunDir
from alray.scalars import SECTIONS, write_scalars
from alray.store import Damaged, Store, StoreError, read_checked, weights_fingerprint
from alray.train.objective import write_weights
from alray.verify import record, verify

ROWS = np.arange(0, 600, 2)


def embeddings() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)


def write_features(store: Store) -> None:
    write_arrays(store, ROWS, embeddings(), "float32", "mark", part_rows=100)


Kind = tuple[Callable[[Store], Any], Callable[[Store], Any]]
KINDS: dict[str, Kind] = {
    "x.json": (lambda s: s.write_json("x.json", {"k": [1, 2]}), lambda s: s.read_json("x.json")),
    "t.parquet": (
        lambda s: s.write_table("t.parquet", pa.table({"row": range(300), "key": list(map(str, range(300)))})),
        lambda s: s.read_table("t.parquet", ["row"]),
    ),
    "head.npz": (lambda s: Head(np.ones((3, 4), np.float32), np.zeros(3, np.float32)).save(s), Head.load),
    "model.pt": (
        lambda s: write_weights({"w": torch.ones(9)}, s),
        lambda s: read_checked(s.at("model.pt")),
    ),
    "manifest.json": (write_features, lambda s: FeatureTable.open(s.uri)),
    "index.parquet": (write_features, lambda s: FeatureTable.open(s.uri).rows),
    part_name(1): (write_features, lambda s: FeatureTable.open(s.uri).read(ROWS, "embedding")),
}


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(str(tmp_path / "d") if request.param == "local" else f"memory://sums{tmp_path}")


def put(store: Store, name: str, data: bytes) -> None:
    """Change a file behind alray's back."""
    write_unguarded(store.at(name), data)


def remove(store: Store, name: str) -> None:
    fs, path = filesystem(store.at(name))
    fs.delete_file(path)


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("name", KINDS)
def test_damage_is_noticed_in_every_kind_of_file(name: str, store: Store) -> None:
    write, read = KINDS[name]
    write(store)
    read(store)
    data = read_bytes(store.at(name))
    generator = np.random.default_rng(0)
    changes = [flipped(data, bit) for bit in generator.integers(0, 8 * len(data), 20).tolist()]
    for changed in [*changes, data[:-1], data + b"\0", b"", bytes(len(data))]:
        put(store, name, changed)
        with pytest.raises(Damaged, match=rf"{name}: damaged: expected {len(data)} bytes .* got {len(changed)} bytes"):
            read(store)
        assert any(name in line for line in verify(store.uri).problems)
    put(store, name, data)
    read(store)
    assert verify(store.uri).problems == []


@pytest.mark.parametrize("name", ["index.parquet", part_name(1), "head.npz"])
def test_a_missing_file_of_a_complete_directory_is_noticed(name: str, store: Store) -> None:
    write, read = KINDS[name]
    write(store)
    store.write_together({"end.json": b"{}"}, last=True)
    remove(store, name)
    with pytest.raises(Damaged, match=rf"{name}: missing: expected \d+ bytes .* got no file\. Restore it"):
        read(store)
    with pytest.raises(Damaged, match="missing"):
        store.has(name)
    remove(store, "end.json")
    with pytest.raises(Damaged, match=r"end.json: missing"):
        store.has("end.json")
    assert len(verify(store.uri).problems) == 2


def test_every_bit_of_a_list_counts(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write_json("a.json", 1)
    store.write_json("b.json", 2)
    data = (tmp_path / LIST).read_bytes()
    for bit in range(8 * len(data)):
        (tmp_path / LIST).write_bytes(flipped(data, bit))
        with pytest.raises(Damaged, match=LIST):
            load(store.uri)
    with pytest.raises(Damaged, match=LIST):
        store.read_json("a.json")
    assert [LIST in line for line in verify(store.uri).problems] == [True]


def test_a_kill_before_a_new_file_leaves_no_damage(store: Store) -> None:
    store.write_json("a.json", 1)
    store.write_json("b.json", 2)
    remove(store, "b.json")  # its line is in the list already
    assert not store.has("b.json")
    with pytest.raises(FileNotFoundError):
        store.read_json("b.json")
    assert verify(store.uri).problems == []
    store.write_json("c.json", 3)
    assert load(store.uri).keys() == {"a.json", "c.json"}
    store.write_json("b.json", 4)
    assert store.read_json("b.json") == 4


def test_a_kill_before_a_file_is_replaced_leaves_the_old_one(store: Store) -> None:
    store.write_json("a.json", "one")
    for number in range(5):  # killed again and again in the same place
        old = read_bytes(store.at("a.json"))
        store.write_json("a.json", f"number {number}")
        put(store, "a.json", old)
        assert store.read_json("a.json") == "one"
    assert len(load(store.uri)["a.json"]) == 2
    store.write_json("a.json", "two")
    assert store.read_json("a.json") == "two"
    put(store, "a.json", b'"three"\n')
    with pytest.raises(Damaged):
        store.read_json("a.json")


def test_a_kill_in_a_deletion_leaves_no_damage(store: Store) -> None:
    store.write_together({"a.json": b"1", "b.json": b"2"}, last=True)
    store.delete("a.json")
    assert not store.has("a.json")
    assert verify(store.uri).problems == []
    put(store, "a.json", b"1")  # killed between the list and the deletion
    assert store.read_json("a.json") == 1
    put(store, "a.json", b"3")
    with pytest.raises(Damaged):
        store.read_json("a.json")
    remove(store, "a.json")
    store.write_json("c.json", 3)
    assert load(store.uri).keys() == {"b.json", "c.json"}


def test_damage_that_is_about_to_be_replaced_is_not_accepted(store: Store) -> None:
    store.write_json("a.json", "right")
    damaged = flipped(read_bytes(store.at("a.json")), 9)
    put(store, "a.json", damaged)
    store.write_json("a.json", "new")
    assert store.read_json("a.json") == "new"
    put(store, "a.json", damaged)  # killed before the file was replaced
    with pytest.raises(Damaged):
        store.read_json("a.json")


def test_a_file_that_stays_the_same_is_not_written_again(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write_together({"a.json": b"1", "b.json": b"2"}, last=True)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path, *tmp_path.iterdir())}
    store.write_together({"a.json": b"1", "b.json": b"2"}, last=True)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path, *tmp_path.iterdir())} == before


def test_a_file_that_is_not_listed_is_damage_only_where_there_is_a_list(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksums, "_warned", [])
    (tmp_path / "a.json").write_text("1")
    store = Store(str(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert store.read_json("a.json") == 1
        assert store.read_json("a.json") == 1
    assert [LIST in text and "without being checked" in text for text in caplog.messages] == [True]
    store.write_json("b.json", 2)
    with pytest.raises(Damaged, match=r"a.json: not listed: expected a.json in the checksums"):
        store.read_json("a.json")
    assert read_checked(store.at("a.json")) == b"1"  # it may be a file of the user's
    assert record(str(tmp_path)) == 2
    assert store.read_json("a.json") == 1


def test_a_reader_beside_a_writer_sees_no_damage(tmp_path: Path) -> None:
    store, over = Store(str(tmp_path)), threading.Event()
    store.write_json("a.json", 0)
    wrong: list[BaseException] = []
    seen: set[int] = set()

    def look() -> None:
        while not over.is_set():
            try:
                seen.add(store.read_json("a.json"))
                store.has("b.json")
                store.check("a.json")
            except BaseException as error:
                wrong.append(error)

    readers = [threading.Thread(target=look) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(150):
        store.write_json("a.json", number)
        (store.write_json if number % 2 else lambda name, _: store.delete(name))("b.json", number)
    over.set()
    for reader in readers:
        reader.join()
    assert wrong == []
    assert len(seen) > 1


def test_weights_of_alray_are_checked_and_those_of_the_user_need_no_list(tmp_path: Path) -> None:
    weights = {"w": torch.ones(9)}
    store = Store(str(tmp_path / "mine"))
    write_weights(weights, store)
    mark = weights_fingerprint(store.at("model.pt"))
    (tmp_path / "model.pt").write_bytes((tmp_path / "mine/model.pt").read_bytes())
    assert weights_fingerprint(str(tmp_path / "model.pt")) == mark
    put(store, "model.pt", flipped(read_bytes(store.at("model.pt")), 5000))
    with pytest.raises(Damaged, match=r"model.pt: damaged"):
        weights_fingerprint(store.at("model.pt"))
    with pytest.raises(Damaged, match=r"model.pt: damaged"):
        load_backbone(torch.nn.Linear(1, 1), store.at("model.pt"))
    with pytest.raises(CheckpointError):
        load_backbone(torch.nn.Linear(1, 1), str(tmp_path / "model.pt"))


def test_verify_names_what_is_not_alray_s_and_counts_what_is_not_finished(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write_together({"a.json": b"1"}, last=True)
    Store(store.uri, REPORT_LIST).write_json("report.csv", 2)
    child = store.child("sub")
    child.write_json("b.json", 2)
    (tmp_path / "a.json.0badc0de.tmp").write_text("half")
    (tmp_path / "lease.json").write_text("{}")
    (tmp_path / "sub" / "ray").mkdir()
    (tmp_path / "sub" / "ray" / "x").write_text("x")
    found = verify(str(tmp_path))
    assert (found.problems, found.files, len(found.exempt)) == ([], 6, 3)
    assert found.size == sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) - 4 - 2 - 1
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "sub" / LIST).unlink()
    assert sorted(line.split(": ")[:2] for line in verify(str(tmp_path)).problems) == [
        [str(tmp_path / "notes.txt"), "not listed"],
        [str(tmp_path / "sub/b.json"), "not listed"],
    ]
    record(str(tmp_path))
    assert verify(str(tmp_path)).problems == []
    assert load(store.uri, REPORT_LIST).keys() == {"report.csv"}
    with pytest.raises(StoreError, match="expected a directory with files that alray wrote"):
        verify(str(tmp_path / "nowhere"))


def test_checksums_are_not_written_into_a_directory_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.png").write_bytes(b"image")
    for name in ("manifest.json", "meta.json", "run.json"):
        (tmp_path / name).write_text('{"name": "mine"}')
    before = sorted(tmp_path.rglob("*"))
    for place in (tmp_path, tmp_path / "images", tmp_path / "nowhere"):
        with pytest.raises(StoreError, match="expected a directory with runs, catalogs or features of alray"):
            record(str(place))
    for check in (record, verify):
        with pytest.raises(StoreError, match="expected a directory, got a file"):
            check(str(tmp_path / "run.json"))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("place", [".", "catalog", "a"])
def test_images_beside_a_catalog_are_no_problem_and_get_no_checksum(place: str, tmp_path: Path) -> None:
    source = tmp_path / "images"
    for number in range(6):
        (source / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(source / "ab"[number % 2] / f"{number}.png")
    catalog = index(str(source), str(source / place), yes=True)
    found = verify(str(source))
    assert found.problems == []
    assert sorted(map(os.path.basename, found.foreign)) == [f"{number}.png" for number in range(6)]
    (source / place / "catalog.parquet").write_bytes(b"damaged")
    assert len(verify(str(source)).problems) == 1
    assert index(str(source), str(source / place), yes=True).fingerprint == catalog.fingerprint
    (source / place / LIST).unlink()
    assert record(str(source)) == 4  # the catalog's own files
    assert verify(str(source)).problems == []
    assert [path.parent for path in source.rglob(LIST)] == [source / place]


def read_so_far() -> int:
    """Bytes that this process asked the system to read so far; mapped files are not counted."""
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.skipif(not Path("/proc/self/io").is_file(), reason="the system does not count what a process reads")
@pytest.mark.parametrize("gone", [[0], [1], [0, 1]])
def test_verify_names_a_round_whose_directory_is_gone(gone: list[int], tmp_path: Path) -> None:
    run = RunDir(str(tmp_path / "run"))
    run.write_json(RUN, {})
    metrics = [{"round": number, **dict.fromkeys(SECTIONS), "seconds": {}} for number in (0, 1)]
    for number in (0, 1):
        run.round(number).write_metrics(metrics[number])
    write_scalars(run, metrics)
    assert verify(str(tmp_path)).problems == []
    for number in gone:
        shutil.rmtree(tmp_path / "run" / f"round_{number:02d}")
    for place in (tmp_path, tmp_path / "run"):
        named = [line.partition(": missing")[0] for line in verify(str(place)).problems]
        assert named == [run.round(number).uri for number in gone]


def test_a_check_is_one_more_pass_at_most(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    rows = np.arange(50_000)
    table = write_arrays(store, rows, np.zeros((50_000, 32), np.float32), "float32", "mark", part_rows=10_000)
    size = sum(path.stat().st_size for path in tmp_path.glob("part-*"))
    before = read_so_far()
    for cut in range(0, 50_000, 5_000):  # each part is read in two pieces
        table.read(rows[cut : cut + 5_000], "embedding")
    first = read_so_far() - before
    assert size <= first < size * 1.2  # once for the checksums; the values themselves come from mapped memory
    before = read_so_far()
    table.read(rows, "embedding")
    assert read_so_far() - before < size / 20
    store.write_bytes("x.bin", bytes(10**6))
    before = read_so_far()
    store.read_bytes("x.bin")
    assert 10**6 <= read_so_far() - before < 1.1 * 10**6
    values = np.random.default_rng(0).normal(size=200_000)
    store.write_table("t.parquet", pa.table({"a": values, "b": values}))
    size = (tmp_path / "t.parquet").stat().st_size
    before = read_so_far()
    store.read_table("t.parquet", ["a"])
    assert read_so_far() - before < 2 * size


def test_a_file_is_on_the_disk_before_its_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def sync(number: int) -> None:
        done.append(f"sync {os.path.basename(os.readlink(f'/proc/self/fd/{number}')).split('.')[0]}")
        fsync(number)

    def rename(source: str, target: str) -> None:
        done.append(f"name {os.path.basename(target).split('.')[0]}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", rename)
    Store(str(tmp_path / "new" / "deep")).write_json("a.json", 1)
    assert done[:2] == [f"sync {tmp_path.name.split('.')[0]}", "sync new"]  # the names of the new directories
    assert done[2:] == ["sync alray-checksums", "name alray-checksums", "sync deep", "sync a", "name a", "sync deep"]
    done.clear()
    Store(str(tmp_path / "new"), sums="").write_json("a.json", 1)
    Store(str(tmp_path / "new")).check_writable()
    assert [word for word in done if word.startswith("sync")] == []


def test_sums_are_crc_32(tmp_path: Path) -> None:
    """The value that `crc32` and other programs give, for whoever looks without alray."""
    (tmp_path / "a").write_bytes(b"123456789")
    assert sum_at(str(tmp_path / "a")) == sum_of(b"123456789") == "9 cbf43926"
    assert ABSENT not in sum_of(b"")
    assert is_file(str(tmp_path / "a"))
