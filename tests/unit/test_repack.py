"""Repacking: tars and folders that index to the same catalog, byte for byte."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from image_sources import SOURCES, TEMPLATE, items, parquet

from alray.data.catalog import Catalog, CatalogError, index, index_arrays
from alray.data.fetch import fetch
from alray.data.repack import repack

ORDER = ("dög", "zebra", "bird", "cat")  # not sorted, and one that no image has


def content(catalog: Catalog) -> tuple[object, ...]:
    references = catalog.references(np.arange(len(catalog)))
    data = fetch(references, catalog.source, catalog.image_column)
    return catalog.keys().to_pylist(), catalog.labels().tolist(), catalog.is_test().tolist(), data, catalog.classes


@pytest.mark.parametrize("format", ["webdataset", "folder"])
@pytest.mark.parametrize("name", ["parquet", "tars by sidecar", "folder"])
def test_the_same_catalog_from_what_was_written(name: str, format: str, tmp_path: Path) -> None:
    write, key = SOURCES[name]
    classes = ORDER if name == "parquet" else None
    original = index(write(items(), tmp_path / "source"), str(tmp_path / "original"), key=key, classes=classes or ())
    repack(original, str(tmp_path / "out"), format, max_tar_bytes=8000)  # type: ignore[arg-type]
    again = index(str(tmp_path / "out"), str(tmp_path / "again"))
    assert again.format == format
    assert content(again) == content(original)
    assert again.fingerprint == original.fingerprint


def test_tars_are_cut_by_size_and_the_same_each_time(tmp_path: Path) -> None:
    original = index(parquet(items(each=12), tmp_path / "source"), str(tmp_path / "original"), key=TEMPLATE)
    for out in ("a", "b"):
        repack(original, str(tmp_path / out), max_tar_bytes=40_000)
    written = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert written[:1] == ["alray-classes.txt"]
    assert {"shard-00000.tar", "shard-00001.tar", "test-00000.tar", "test-00001.tar"} <= set(written)
    for name in written:
        data = (tmp_path / "a" / name).read_bytes()
        assert len(data) <= 40_000
        assert data == (tmp_path / "b" / name).read_bytes()


def test_keys_without_directories_and_images_without_labels(tmp_path: Path) -> None:
    """Class and split that no path says: the sidecar says the one, the tar's name the other."""
    pixels = np.random.default_rng(0).integers(0, 255, (6, 4, 4), np.uint8)
    keys = [f"some/{i}.png" for i in range(6)]
    original = index_arrays(pixels, [0, 1, -1, 1, 0, -1], str(tmp_path / "a"), keys=keys, test=np.arange(6) > 3)
    repack(original, str(tmp_path / "out"))
    assert content(index(str(tmp_path / "out"), str(tmp_path / "again"))) == content(original)


def no_extension(place: Path) -> Catalog:
    return index_arrays(np.zeros((2, 4, 4), np.uint8), [0, 1], str(place))


def outside(place: Path) -> Catalog:
    return index_arrays(np.zeros((2, 4, 4), np.uint8), [0, 1], str(place), keys=["../../a.png", "b.png"])


def absolute(place: Path) -> Catalog:
    return index_arrays(np.zeros((2, 4, 4), np.uint8), [0, 1], str(place), keys=["/tmp/a.png", "b.png"])


def empty_part(place: Path) -> Catalog:
    return index_arrays(np.zeros((2, 4, 4), np.uint8), [0, 1], str(place), keys=["a//1.png", "b.png"])


def other_class(place: Path) -> Catalog:
    return index_arrays(np.zeros((2, 4, 4), np.uint8), ["cat", "dog"], str(place), keys=["cat/a.png", "cat/b.png"])


def other_split(place: Path) -> Catalog:
    return index_arrays(np.zeros((2, 4, 4), np.uint8), ["a", "b"], str(place), keys=["train/a/1.png", "test/b/1.png"])


def shared_stem(place: Path) -> Catalog:
    return index_arrays(np.zeros((2, 4, 4), np.uint8), ["a", "b"], str(place), keys=["x/1.png", "x/1.jpg"])


@pytest.mark.parametrize(
    ("make", "format", "message"),
    [
        (no_extension, "webdataset", "000000000: expected a key that is a relative path"),
        (outside, "folder", r"\.\./\.\./a\.png: expected a key that is a relative path"),
        (absolute, "folder", r"/tmp/a\.png: expected a key that is a relative path"),
        (empty_part, "webdataset", "a//1.png: expected a key that is a relative path"),
        (
            other_class,
            "folder",
            r"cat/b\.png: expected .* to be train, class dog, got train, class cat",
        ),
        (
            other_split,
            "webdataset",
            r"test/b/1\.png: expected .* to be train, class b, got test, class b",
        ),
        (shared_stem, "webdataset", r"got x/1\.png and x/1\.jpg, which would share one \.cls member"),
        (other_class, "zip", "format: expected folder or webdataset, got 'zip'"),
    ],
)
def test_what_would_not_come_back_is_refused(
    make: Callable[[Path], Catalog], format: str, message: str, tmp_path: Path
) -> None:
    catalog = make(tmp_path / "catalog")
    with pytest.raises(CatalogError, match=message):
        repack(catalog, str(tmp_path / "out"), format)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


def test_only_into_an_empty_directory(tmp_path: Path) -> None:
    catalog = index(parquet(items(), tmp_path / "source"), str(tmp_path / "original"), key=TEMPLATE)
    with pytest.raises(CatalogError, match="expected an empty directory"):
        repack(catalog, str(tmp_path / "source"))


@pytest.mark.data
@pytest.mark.parametrize("format", ["webdataset", "folder"])
def test_real_cifar10(format: str, shared_data: Path, tmp_path: Path) -> None:
    """The first 300 images of two of the real files."""
    import pyarrow.parquet as pq

    (tmp_path / "source").mkdir()
    for name in ("cifar10_train_00-of-03.parquet", "cifar10_test_00-of-01.parquet"):
        pq.write_table(pq.read_table(shared_data / "cifar10" / name).slice(0, 300), tmp_path / "source" / name)
    original = index(str(tmp_path / "source"), str(tmp_path / "original"), key=TEMPLATE)
    assert len(original.classes) == 10
    assert original.is_test().sum() == 300
    repack(original, str(tmp_path / "out"), format)  # type: ignore[arg-type]
    again = index(str(tmp_path / "out"), str(tmp_path / "again"))
    assert content(again) == content(original)
    assert again.fingerprint == original.fingerprint
