"""Repacking: tars and folders that index to the same catalog, byte for byte."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_sources import SOURCES, TEMPLATE, items, parquet

from alray.data.catalog import Catalog, CatalogError, index, index_arrays
from alray.data.fetch import fetch
from alray.data.repack import repack
from alray.data.sources.scan import read_classes

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


ODD = ("new\nline", '"quoted"', "'half", '"', "back\\nslash", "a\u2028b\x85c\x1b[31m", "\\", "NaN?", "Käfer")


@pytest.mark.parametrize("format", ["webdataset", "folder"])
def test_the_list_of_classes_holds_every_name(format: str, tmp_path: Path) -> None:
    classes = ["spare\r\nname", *ODD[::-1]]  # one that no image has, and an order of their own
    keys = [f"train/{name}/{i}.png" for i in range(2) for name in ODD]
    pixels = np.random.default_rng(0).integers(0, 255, (len(keys), 4, 4), np.uint8)
    original = index_arrays(pixels, [*ODD, *ODD], str(tmp_path / "a"), keys=keys, classes=classes)
    repack(original, str(tmp_path / "out"), format)
    lines = (tmp_path / "out" / "alray-classes.txt").read_text().split("\n")
    assert lines[0] == r'"spare\r\nname"' and lines[1] == "Käfer" and len(lines) == len(classes) + 1
    assert content(index(str(tmp_path / "out"), str(tmp_path / "again"))) == content(original)


def test_names_with_quotation_marks_that_people_list(tmp_path: Path) -> None:
    (tmp_path / "list").mkdir()
    for text, name in (('"a" or b', '"a" or b'), ('"a\\tb"', "a\tb"), ('"', '"'), ('"a', '"a')):
        (tmp_path / "list" / "alray-classes.txt").write_text(f"bird\n{text}\n\n")
        assert read_classes(str(tmp_path / "list")) == ("bird", name)


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


def test_a_folder_whose_keys_are_in_the_other_unicode_form(tmp_path: Path) -> None:
    keys = [f"train/{nfd('Käfer') if i % 2 else 'Käfer'}/bild ä {i}.png" for i in range(4)] + ["train/cat/0.png"]
    pixels = np.random.default_rng(0).integers(0, 255, (5, 4, 4), np.uint8)
    original = index_arrays(pixels, ["Käfer"] * 4 + ["cat"], str(tmp_path / "a"), keys=keys)
    repack(original, str(tmp_path / "out"), "folder")
    again = index(str(tmp_path / "out"), str(tmp_path / "again"))
    assert content(again) == content(original) and again.fingerprint == original.fingerprint


def test_keys_that_are_one_name_in_two_forms_are_no_two_files(tmp_path: Path) -> None:
    keys = ["train/Käfer/0.png", nfd("train/Käfer/0.png"), "train/cat/0.png"]
    pixels = np.random.default_rng(0).integers(0, 255, (3, 4, 4), np.uint8)
    original = index_arrays(pixels, ["Käfer", "Käfer", "cat"], str(tmp_path / "a"), keys=keys)
    with pytest.raises(CatalogError) as found:
        repack(original, str(tmp_path / "out"), "folder")
    assert "some filesystems keep one file; repack with --format webdataset" in str(found.value)
    assert {"'train/Ka\\u0308fer/0.png'", "'train/K\\xe4fer/0.png'"} <= set(str(found.value).split())
    repack(original, str(tmp_path / "out"))
    assert content(index(str(tmp_path / "out"), str(tmp_path / "again"))) == content(original)


def rows(place: Path, labels: list[str | None], key: str = "") -> Catalog:
    """A catalog of Parquet rows."""
    data = [item.data for item in items()[: len(labels)]]
    place.mkdir(exist_ok=True)
    pq.write_table(pa.table({"image": data, "label": pa.array(labels, pa.string())}), place / "rows.parquet")
    return index(str(place / "rows.parquet"), str(place / "catalog"), key=key, yes=True)


@pytest.mark.parametrize("labels", [["cat", "dog", None, "cat", "dog", None], [None] * 6, ["cat", "dog"] * 3])
@pytest.mark.parametrize("format", ["webdataset", "folder"])
def test_the_advice_works_also_where_labels_are_missing(labels: list[str | None], format: str, tmp_path: Path) -> None:
    """Whoever follows the message has the written images after one more try."""
    with pytest.raises(CatalogError, match="expected a key that is a relative path") as found:
        repack(rows(tmp_path / "s", labels), str(tmp_path / "out"), format)
    advice = str(found.value)
    mixed = len(set(labels)) == 3
    assert ("2 of 6 images have no label, which a folder cannot show" in advice) == (mixed and format == "folder")
    (key,) = re.findall("index again with --key '(.*?)'", advice)
    (other,) = re.findall(r"repack with --format (\w+)$", advice) or [format]
    original = rows(tmp_path / "s", labels, key)
    repack(original, str(tmp_path / "out"), other)
    assert content(index(str(tmp_path / "out"), str(tmp_path / "again"), yes=True)) == content(original)


def test_a_folder_without_some_labels_is_refused_for_that(tmp_path: Path) -> None:
    catalog = rows(tmp_path / "s", ["cat", "dog", None], "{split}/{class}/{file}-{row}.jpg")
    with pytest.raises(CatalogError) as found:
        repack(catalog, str(tmp_path / "out"), "folder")
    assert str(found.value) == (
        "train/unlabeled/rows-2.jpg: expected the directories of the key to be train, no class, got train, class "
        "unlabeled; 1 of 3 images have no label, which a folder cannot show beside others; repack with --format "
        "webdataset"
    )


def test_a_catalog_of_embeddings_has_nothing_to_write(tmp_path: Path) -> None:
    np.savez(tmp_path / "pool.npz", features=np.zeros((4, 2), np.float32), label=[0, 1, 0, 1])
    catalog = index(str(tmp_path / "pool.npz"), str(tmp_path / "catalog"), yes=True)
    with pytest.raises(CatalogError, match="expected a catalog of images, got one of embeddings"):
        repack(catalog, str(tmp_path / "out"))


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
