"""The same code on an object store: a real S3 server (moto) on loopback, pyarrow's own client."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from image_sources import SOURCES, TEMPLATE, items, parquet
from pyarrow.fs import S3FileSystem

from alray.data.catalog import Catalog, CatalogError, index, index_arrays
from alray.data.decode import decode
from alray.data.fetch import ImageError, fetch
from alray.data.origin import look
from alray.data.repack import repack
from alray.data.sources.webdataset import WEBDATASET
from alray.lease import LEASE, LeaseLost, lease
from alray.process import describe
from alray.store import Store, StoreError, filesystem, read_bytes, write_unguarded

BUCKET = "alray-test"


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A bucket; what names the server to pyarrow is AWS_ENDPOINT_URL=http://host:port, and nothing else."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield f"s3://{BUCKET}"
    server.stop()


def upload(place: Path, uri: str) -> None:
    store = Store(uri)
    for path in place.rglob("*"):
        if path.is_file():
            store.write_bytes(str(path.relative_to(place)), path.read_bytes())


@pytest.mark.parametrize("name", ["folder", "tars by directory", "tars by sidecar", "parquet", "csv"])
def test_index_and_fetch(name: str, s3: str, tmp_path: Path) -> None:
    """Source and catalog on the store: the catalog of the local copy, and the bytes."""
    write, key = SOURCES[name]
    local = write(items(), tmp_path / "source")
    place = f"{s3}/{name.replace(' ', '-')}"
    upload(tmp_path / "source", f"{place}/source")
    source = local.replace(str(tmp_path), place)
    catalog = index(source, f"{place}/out", key=key)
    assert catalog == Catalog.open(f"{place}/out")
    assert catalog.fingerprint == index(local, str(tmp_path / "out"), key=key).fingerprint
    references = catalog.references(np.array([1, 4, 9, 20]))
    assert all(uri.startswith(place) for uri in references["uri"].to_pylist())
    found = {item.key: item.data for item in items()}
    data = fetch(references, catalog.source, catalog.image_column)
    assert data == [found[key] for key in references["key"].to_pylist()]


@pytest.mark.parametrize("name", ["folder", "tars by sidecar", "parquet", "csv"])
def test_a_source_on_a_store_is_looked_at(name: str, s3: str, tmp_path: Path) -> None:
    """Its times are whole seconds. Objects that were uploaded again are the same data; one with other bytes is not."""
    write, key = SOURCES[name]
    local = write(items(), tmp_path / "source")
    place = f"{s3}/looked-{name.replace(' ', '-')}"
    upload(tmp_path / "source", f"{place}/source")
    catalog = index(local.replace(str(tmp_path), place), f"{place}/out", key=key)
    assert look(catalog) == []
    written = {path: path.read_bytes() for path in (tmp_path / "source").rglob("*") if path.is_file()}

    def put(path: Path, data: bytes) -> None:
        write_unguarded(f"{place}/source/{path.relative_to(tmp_path / 'source')}", data)

    time.sleep(1.1)
    for path, data in written.items():
        put(path, data)
    before = catalog.files()
    assert look(catalog) == []
    assert not catalog.files()["time"].equals(before["time"])
    ((holder, data),) = ((path, data) for path, data in written.items() if items()[0].data in data)
    at = data.index(items()[0].data) + len(items()[0].data) - 1
    time.sleep(1.1)
    put(holder, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(CatalogError, match=rf"{place}/source.* has changed since(.|\n)*1 image has other bytes"):
        look(catalog)
    Store(place).delete("source")
    assert "was not looked at" in look(catalog)[0]


def test_one_image_of_a_tar_is_one_ranged_read(s3: str, tmp_path: Path) -> None:
    """The rest of the tar is replaced on the store by a shorter object with other bytes: nobody asks for it."""
    write, _ = SOURCES["tars by directory"]
    write(items(), tmp_path / "source")
    upload(tmp_path / "source", f"{s3}/ranged")
    catalog = index(f"{s3}/ranged", str(tmp_path / "out"))
    everything = catalog.references(np.arange(len(catalog)))
    uri = everything["uri"][0].as_py()
    mine = [row for row, at in enumerate(everything["uri"].to_pylist()) if at == uri]
    first = catalog.references(np.array([min(mine, key=lambda row: everything["offset"][row].as_py())]))
    data = read_bytes(uri)
    start = first["offset"][0].as_py()
    stop = start + first["size"][0].as_py()
    Store(f"{s3}/ranged").write_bytes(uri.rpartition("/")[2], b"x" * start + data[start:stop])
    found = {item.key: item.data for item in items()}
    assert fetch(first, WEBDATASET, "image") == [found[first["key"][0].as_py()]]


def test_an_object_that_is_gone_is_told_by_key(s3: str, tmp_path: Path) -> None:
    parquet(items(), tmp_path / "source")
    upload(tmp_path / "source", f"{s3}/gone")
    catalog = index(f"{s3}/gone", f"{s3}/gone-out", key=TEMPLATE)
    Store(s3).delete("gone")
    with pytest.raises(ImageError, match=r"^test/bird/b\.0\.png: missing image: cannot read s3://"):
        fetch(catalog.references(np.array([0])), catalog.source, catalog.image_column)


def test_arrays_and_repacking(s3: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (10, 6, 5, 3), np.uint8)
    keys = [f"train/{'ab'[i % 2]}/{i}.png" for i in range(10)]
    catalog = index_arrays(pixels, ["ab"[i % 2] for i in range(10)], f"{s3}/arrays", keys=keys)
    for format in ("webdataset", "folder"):
        repack(catalog, f"{s3}/repacked-{format}", format)  # type: ignore[arg-type]
        again = index(f"{s3}/repacked-{format}", f"{s3}/again-{format}")
        assert again.fingerprint == catalog.fingerprint
        data = fetch(again.references(np.arange(10)), again.source, again.image_column)
        by_key = dict(zip(keys, pixels, strict=True))
        for key, image in zip(again.keys().to_pylist(), data, strict=True):
            assert np.array_equal(np.asarray(decode(image, key)), by_key[key])


def test_nothing_there(s3: str) -> None:
    with pytest.raises(CatalogError, match="no such file or directory"):
        index(f"{s3}/nowhere", f"{s3}/out")
    with pytest.raises(CatalogError, match="expected a catalog, got none"):
        Catalog.open(f"{s3}/nowhere")
    with pytest.raises(StoreError, match="cannot write s3://no-such-bucket/out"):
        index(f"{s3}/nowhere", "s3://no-such-bucket/out")


def test_store(s3: str) -> None:
    store = Store(f"{s3}/store")
    assert store.names() == []
    store.check_writable()
    assert store.names() == []
    store.write_json("a.json", {"x": 1})
    store.child("sub", "deep").write_bytes("b.bin", b"old")
    store.child("sub", "deep").write_bytes("b.bin", b"new")
    assert store.names() == ["a.json", "sub"]
    assert store.read_json("a.json") == {"x": 1}
    assert read_bytes(store.at("sub", "deep", "b.bin")) == b"new"
    assert store.has("a.json")
    assert not store.has("sub")
    odd = "sub/d\u00f6g a%41?#[1]+&=.bin"
    assert isinstance(filesystem(store.at(odd))[0], S3FileSystem)
    store.write_bytes(odd, b"odd")
    assert read_bytes(store.at(odd)) == b"odd"
    with pytest.raises(FileNotFoundError):
        read_bytes(store.at("nothing"))
    store.delete("sub")
    store.delete("nothing")
    assert store.names() == ["a.json"]


def test_a_lease_has_one_holder_at_a_time(s3: str) -> None:
    store, order = Store(f"{s3}/held"), []

    def work(name: str) -> None:
        with lease(store, stale=30):
            order.append(name)
            time.sleep(0.3)
            order.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert order[::2] == order[1::2] and sorted(order[::2]) == ["a", "b", "c"]
    assert not store.has(LEASE)


def test_the_lease_of_a_dead_holder_is_taken_over(s3: str) -> None:
    store = Store(f"{s3}/dead", sums="")
    store.write_json(LEASE, {**describe(os.getpid()), "start": "1", "token": "dead"})  # its number was used again
    began = time.monotonic()
    with lease(store):
        assert time.monotonic() - began < 2
    store.write_json(LEASE, {"host": "elsewhere", "pid": 1, "token": "dead"})
    with lease(store, stale=1.0):
        assert time.monotonic() - began >= 1


def test_a_holder_that_lost_its_lease_writes_nothing(s3: str) -> None:
    store = Store(f"{s3}/lost", sums="")
    other = {"host": "elsewhere", "pid": 1, "token": "other"}
    with lease(store, stale=1.0):
        time.sleep(0.6)  # time for beats
        assert len(store.names()) == 2
        Store(s3).check_guards()  # the directory above is free
        write_unguarded(store.at(LEASE), json.dumps(other).encode())  # as another process writes it
        time.sleep(0.6)
        with pytest.raises(LeaseLost, match="process 1 on elsewhere holds it now"):
            store.child("round_00").write_json("labels.json", 1)
    assert store.read_json(LEASE) == other
    assert store.names() == [LEASE]


def test_a_catalog_inside_its_source_on_an_object_store_is_left_out(s3: str, tmp_path: Path) -> None:
    parquet(items(), tmp_path / "source")
    upload(tmp_path / "source", f"{s3}/inside")
    first = index(f"{s3}/inside", f"{s3}/inside/a/catalog", check="none", yes=True)
    again = index(f"{s3}/inside", str(tmp_path / "again"), check="none", yes=True)
    assert again.fingerprint == first.fingerprint
    files = 1 + len(Store(f"{s3}/inside/a/catalog").names())  # and their checksums
    note = f"left out: {files} files in what alray wrote (catalogs, features, runs): a/catalog"
    assert [one for one in again.notes() if "what alray wrote" in one] == [note]


def test_a_glob_that_matches_folders_of_a_bucket_says_what_to_give(s3: str, tmp_path: Path) -> None:
    for folder in ("trip1", "trip2"):
        SOURCES["tars by sidecar"][0](items(), tmp_path / folder)
    upload(tmp_path, f"{s3}/globbed")
    with pytest.raises(CatalogError, match=r"it matches 2 folders, the first trip1, .* such as 's3.*'") as found:
        index(f"{s3}/globbed/tr*", str(tmp_path / "catalog"))
    given = str(found.value).rpartition(" such as ")[2].strip("'")
    assert given == f"{s3}/globbed/tr*/*.tar"
    with pytest.raises(CatalogError, match="no file matches"):
        index(f"{s3}/globbed/x*", str(tmp_path / "catalog"))
