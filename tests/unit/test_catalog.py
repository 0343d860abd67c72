"""Indexing: every kind of source gives the same catalog; what is wrong is told by key and reason (contract C1)."""

from __future__ import annotations

import pickle
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_sources import CLASSES, SOURCES, TEMPLATE, Item, add, csv, encoded, folder, items, parquet, tars_by_directory

from alray.data.catalog import Catalog, CatalogError, index, index_arrays
from alray.data.decode import decode
from alray.data.fetch import fetch
from alray.store import Damaged, StoreError


def rows_of(catalog: Catalog) -> np.ndarray:
    return np.arange(len(catalog), dtype=np.int64)


def bytes_of(catalog: Catalog) -> list[bytes]:
    return fetch(catalog.references(rows_of(catalog)), catalog.source, catalog.image_column)


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_gives_the_same_catalog(name: str, tmp_path: Path) -> None:
    found = items()
    write, key = SOURCES[name]
    catalog = index(write(found, tmp_path / "source"), str(tmp_path / "out"), key=key)
    by_key = sorted(found, key=lambda item: item.key.encode())
    assert catalog.keys().to_pylist() == [item.key for item in by_key]
    assert catalog.classes == CLASSES
    assert [catalog.classes[i] for i in catalog.labels()] == [item.label for item in by_key]
    assert catalog.labels().dtype == np.int32
    assert catalog.is_test().tolist() == [item.split == "test" for item in by_key]
    assert bytes_of(catalog) == [item.data for item in by_key]
    assert len(catalog) == len(found)
    assert len(catalog.problems()) == 0
    reference = index(folder(found, tmp_path / "reference"), str(tmp_path / "reference-out"))
    assert catalog.fingerprint == reference.fingerprint


def test_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    found = items()
    marks = {}
    for name, changed in {
        "same": found[::-1],
        "bytes": [*found[1:], Item("train", "cat", "c.0.png", found[0].data + b"0")],
        "label": [*found[1:], Item(found[0].split, "bear", found[0].filename, found[0].data)],
        "fewer": found[1:],
        "original": found,
    }.items():
        marks[name] = index(folder(changed, tmp_path / name), str(tmp_path / "out" / name), yes=True).fingerprint
    assert marks["same"] == marks["original"]
    assert len(set(marks.values())) == 4


@pytest.mark.parametrize(("column", "value"), [("label", 1), ("split", "test")])
def test_labels_and_splits_are_in_the_fingerprint(column: str, value: object, tmp_path: Path) -> None:
    marks = []
    for name, changed in (("one", {}), ("two", {column: value})):
        columns = {"label": 0, "split": "train", **changed}
        source = parquet_with(
            tmp_path / name, label=[0, 1, columns["label"]], split=["train", "test", columns["split"]]
        )
        marks.append(index(source, str(tmp_path / f"{name}-out"), yes=True).fingerprint)
    assert marks[0] != marks[1]


def test_offsets_count_through_large_files(tmp_path: Path) -> None:
    catalog = index(parquet_with(tmp_path, label=np.arange(2500) % 2), str(tmp_path / "out"), check="none")
    assert catalog.references(rows_of(catalog))["offset"].to_pylist() == list(range(2500))


def test_references_and_keys_of_some_rows(tmp_path: Path) -> None:
    catalog = index(tars_by_directory(items(), tmp_path / "source"), str(tmp_path / "out"))
    rows = np.array([7, 2, 11])
    references = catalog.references(rows)
    assert references.column_names == ["row", "key", "uri", "offset", "size"]
    assert references["row"].to_pylist() == [2, 7, 11]
    everything = catalog.keys().to_pylist()
    assert catalog.keys(rows).to_pylist() == [everything[row] for row in rows]
    assert len(catalog.references(np.empty(0, np.int64))) == 0


@pytest.mark.parametrize("unlabeled", [False, True])
def test_columns_are_read_once_and_cannot_be_changed(unlabeled: bool, tmp_path: Path) -> None:
    source = parquet_with(tmp_path / "source", label=[0, None if unlabeled else 1])
    catalog = index(source, str(tmp_path / "out"), yes=True)
    labels = catalog.labels()
    (tmp_path / "out" / "catalog.parquet").unlink()
    assert catalog.labels() is labels
    with pytest.raises(ValueError, match="read-only"):
        labels[0] = 1


def test_a_catalog_travels_without_its_columns(tmp_path: Path) -> None:
    catalog = index(folder(items(each=40), tmp_path / "source"), str(tmp_path / "out"))
    catalog.labels(), catalog.references(rows_of(catalog))
    data = pickle.dumps(catalog)
    assert len(data) < 1000
    assert pickle.loads(data) == catalog
    assert pickle.loads(data).labels().tolist() == catalog.labels().tolist()


def test_without_meta_there_is_no_catalog(tmp_path: Path) -> None:
    index(folder(items(), tmp_path / "source"), str(tmp_path / "out"))
    (tmp_path / "out" / "meta.json").unlink()
    with pytest.raises(Damaged, match=r"meta.json: missing: expected \d+ bytes .* got no file"):
        Catalog.open(str(tmp_path / "out"))
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(CatalogError, match="expected a catalog, got none"):
        Catalog.open(str(tmp_path / "out"))


# ---- what is wrong


def zero_bytes(place: Path) -> None:
    (place / "train/cat/empty.png").write_bytes(b"")


def broken(place: Path) -> None:
    (place / "train/cat/half.jpg").write_bytes(encoded(np.zeros((64, 64, 3), np.uint8), "JPEG")[:300])


def no_image(place: Path) -> None:
    (place / "train/cat/text.jpeg").write_text("this is no image")


def dangling(place: Path) -> None:
    (place / "train/cat/link.png").symlink_to(place / "nowhere.png")


@pytest.mark.parametrize(
    ("spoil", "key", "reason"),
    [
        (zero_bytes, "train/cat/empty.png", "broken image"),
        (broken, "train/cat/half.jpg", "broken image"),
        (no_image, "train/cat/text.jpeg", "broken image"),
        (dangling, "train/cat/link.png", "missing image"),
    ],
)
def test_unusable_images(spoil: Callable[[Path], None], key: str, reason: str, tmp_path: Path) -> None:
    found = items()
    source = folder(found, tmp_path / "source")
    spoil(tmp_path / "source")
    with pytest.raises(CatalogError, match=f"{reason}: 1(.|\n)*{key}: {reason}: "):
        index(source, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    catalog = index(source, str(tmp_path / "out"), on_problem="exclude")
    assert sorted(catalog.keys().to_pylist()) == sorted(item.key for item in found)
    (problem,) = catalog.problems().to_pylist()
    assert problem["key"] == key
    assert problem["reason"].startswith(reason)


def test_check_none_trusts_the_source(tmp_path: Path) -> None:
    source = folder(items(), tmp_path / "source")
    broken(tmp_path / "source")
    assert "train/cat/half.jpg" in index(source, str(tmp_path / "out"), check="none").keys().to_pylist()


def test_duplicate_keys_keep_the_first_place(tmp_path: Path) -> None:
    for name in ("b", "a"):
        parquet_with(tmp_path, f"{name}.parquet", label=[0, 1], id=["same", name])
    with pytest.raises(
        CatalogError, match=r"duplicate key: 1(.|\n)*same: duplicate key(.|\n)*loses 1 and leaves 3 images"
    ):
        index(str(tmp_path), str(tmp_path / "out"), key="id")
    catalog = index(str(tmp_path), str(tmp_path / "out"), key="id", on_problem="exclude")
    assert catalog.keys().to_pylist() == ["a", "b", "same"]
    assert catalog.references(np.array([2]))["uri"].to_pylist() == [str(tmp_path / "a.parquet")]
    reason = "duplicate key: another image has the same key"
    assert catalog.problems().to_pylist() == [{"key": "same", "uri": str(tmp_path / "b.parquet"), "reason": reason}]


def test_a_list_that_names_an_image_twice_says_so(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(encoded(np.zeros((4, 4, 3), np.uint8)))
    (tmp_path / "list.csv").write_text("path,label\na.png,x\nb.png,x\nb.png,x\nc.png,y\nc.png,x\na.png,\n")
    catalog = index(str(tmp_path / "list.csv"), str(tmp_path / "out"), on_problem="exclude")
    assert {line["key"]: line["reason"] for line in catalog.problems().to_pylist()} == {
        "a.png": "duplicate key: the same image is named twice, with different classes",
        "b.png": "duplicate key: the same image is named twice",
        "c.png": "duplicate key: the same image is named twice, with different classes",
    }


@pytest.mark.parametrize("cut", ["in a member", "in a header", "between members", "no end"])
def test_truncated_tars(cut: str, tmp_path: Path) -> None:
    source = tars_by_directory(items(), tmp_path / "source")
    path = tmp_path / "source" / "shard-1.tar"
    with tarfile.open(path) as tar:
        last, end = tar.getmembers()[-1], tar.offset
    size = {
        "in a member": last.offset_data + 10,
        "in a header": last.offset + 100,
        "between members": last.offset,
        "no end": end,
    }[cut]
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CatalogError, match=r"shard-1.tar: truncated tar: there is no end-of-archive mark"):
        index(source, str(tmp_path / "out"))
    catalog = index(source, str(tmp_path / "out"), on_problem="exclude")
    keys = catalog.problems()["key"].to_pylist()
    name = last.name.removeprefix("./")
    assert keys == ([name, "shard-1.tar"] if cut == "in a member" else ["shard-1.tar"])
    assert (name in catalog.keys().to_pylist()) == (cut == "no end")


def test_a_damaged_header_inside_a_tar_is_told(tmp_path: Path) -> None:
    source = tars_by_directory(items(), tmp_path / "source")
    path = tmp_path / "source" / "shard-0.tar"
    with tarfile.open(path) as tar:
        third = tar.getmembers()[2].offset
    data = bytearray(path.read_bytes())
    data[third : third + 512] = b"x" * 512
    path.write_bytes(data)
    with pytest.raises(CatalogError, match=f"shard-0.tar: truncated tar: there is no valid header at byte {third} of"):
        index(source, str(tmp_path / "out"))


def test_archives_that_were_joined_are_not_read_in_part(tmp_path: Path) -> None:
    source = tars_by_directory(items(), tmp_path / "source")
    first, second = sorted((tmp_path / "source").glob("*.tar"))[:2]
    whole = len(index(source, str(tmp_path / "whole")))
    first.write_bytes(first.read_bytes() + second.read_bytes())
    second.unlink()
    with pytest.raises(CatalogError, match=r"broken tar: data follows its end-of-archive mark at byte \d+") as refused:
        index(source, str(tmp_path / "out"))
    assert "that loses what cannot be read of 1 tar and leaves " in str(refused.value)
    assert 0 < len(index(source, str(tmp_path / "out"), on_problem="exclude", yes=True)) < whole


def test_compressed_tars_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        add(tar, "cat/1.png", b"data")
    for source in (tmp_path, tmp_path / "a.tar.gz"):
        with pytest.raises(CatalogError, match=r"got 1 compressed ones, first a\.tar\.gz"):
            index(str(source), str(tmp_path / "out"))
    (tmp_path / "a.tar.gz").rename(tmp_path / "b.tar")
    with pytest.raises(CatalogError, match=r"b\.tar: broken tar"):
        index(str(tmp_path / "b.tar"), str(tmp_path / "out"))


def parquet_with(place: Path, name: str = "a.parquet", **columns: object) -> str:
    place.mkdir(exist_ok=True)
    n = len(next(iter(columns.values())))  # type: ignore[arg-type]
    data = encoded(np.zeros((4, 4, 3), np.uint8))
    pq.write_table(pa.table({"image": [data] * n, **columns}), place / name)
    return str(place / name)


@pytest.mark.parametrize(
    ("labels", "classes", "reason"),
    [
        ([0, 1, 2], ("a", "b"), r"a/000000002: unknown class: 'number 2' is not one of the 2 classes"),
        ([0, -7, 1], None, r"a/000000001: unknown class: '-7'"),
        (["a", "b", "c"], ("c", "a"), r"a/000000001: unknown class: 'b' is not one of the 2 classes"),
    ],
)
def test_labels_outside_the_classes(
    labels: list[object], classes: tuple[str, ...] | None, reason: str, tmp_path: Path
) -> None:
    source = parquet_with(tmp_path, label=labels)
    with pytest.raises(CatalogError, match=reason):
        index(source, str(tmp_path / "out"), classes=classes or ())
    catalog = index(source, str(tmp_path / "out"), classes=classes or (), on_problem="exclude")
    assert len(catalog) == 2
    assert len(catalog.problems()) == 1


def test_numbers_outside_the_named_classes_of_a_parquet_file(tmp_path: Path) -> None:
    schema = pa.schema([("label", pa.int8()), ("image", pa.binary())], metadata={"classes": '["a, b", "c"]'})
    data = encoded(np.zeros((4, 4, 3), np.uint8))
    pq.write_table(pa.table({"label": [0, 5], "image": [data] * 2}, schema=schema), tmp_path / "a.parquet")
    with pytest.raises(CatalogError, match="a/000000001: unknown class: 'number 5' is not one of the 2 classes"):
        index(str(tmp_path / "a.parquet"), str(tmp_path / "out"))
    catalog = index(str(tmp_path), str(tmp_path / "o"), on_problem="exclude", yes=True)
    assert catalog.classes == ("a, b", "c")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_column": "picture"}, "expected a column of images, called 'picture', got image, label"),
        ({"label_column": "class"}, "expected a column of labels, called 'class', got image, label"),
        ({"key": "filename"}, "expected a column 'filename' for the key"),
        ({"key": "{split}/{filename}"}, r"expected a column 'filename' for the key '\{split\}/\{filename\}'"),
        ({"key": "{label"}, "expected a template"),
        ({"format": "zip"}, "format: expected one of auto, folder"),
        ({"on_problem": "ignore"}, "on_problem: expected one of refuse, exclude, got 'ignore'"),
    ],
)
def test_wrong_options(options: dict[str, str], message: str, tmp_path: Path) -> None:
    source = parquet_with(tmp_path, label=[0, 1])
    with pytest.raises(CatalogError, match=message):
        index(source, str(tmp_path / "out"), **options)


@pytest.mark.parametrize("format", ["auto", "folder", "webdataset", "parquet", "manifest", "embeddings"])
@pytest.mark.parametrize("source", ["nowhere", "empty", "empty/*.png"])
def test_nothing_to_index(source: str, format: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CatalogError, match=source.replace("*", r"\*")):
        index(str(tmp_path / source), str(tmp_path / "out"), format=format)


def test_an_unwritable_place_is_refused_before_the_source_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write"):
        index(str(tmp_path / "nowhere"), str(tmp_path / "file" / "out"))


def test_a_source_with_nothing_usable(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.png").write_text("no image")
    with pytest.raises(CatalogError, match=r"broken image: 1(.|\n)*No image can be used"):
        index(str(tmp_path / "source"), str(tmp_path / "out"), on_problem="exclude")


# ---- classes, splits, keys


def test_flat_folders_are_unlabeled(tmp_path: Path) -> None:
    for item in items():
        (tmp_path / "source").mkdir(exist_ok=True)
        (tmp_path / "source" / f"{item.split}{item.filename.upper()}").write_bytes(item.data)
    catalog = index(str(tmp_path / "source"), str(tmp_path / "out"))
    assert (catalog.labels() == -1).all()
    assert catalog.classes == ()
    assert not catalog.is_test().any()


def test_a_sidecar_says_more_than_a_directory(tmp_path: Path) -> None:
    """Also for the image of a sample that is called by the part of its name before the first dot."""
    data = encoded(np.zeros((4, 4, 3), np.uint8))
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("here/1.png", "here/2.left.png", "here/3.png"):
            add(tar, name, data)
        add(tar, "here/1.cls", b"there\n")
        add(tar, "here/2.json", b'{"label": 7}')
    catalog = index(str(tmp_path), str(tmp_path / "out"))
    assert [catalog.classes[i] for i in catalog.labels()] == ["there", "7", "here"]


def test_classes_that_are_numbers_keep_the_order_of_numbers(tmp_path: Path) -> None:
    source = parquet_with(tmp_path, label=[10, 9, -1, None, 100])
    catalog = index(source, str(tmp_path / "out"))
    assert catalog.classes == ("9", "10", "100")
    assert catalog.labels().tolist() == [1, 0, -1, -1, 2]


def test_given_classes_decide_the_order(tmp_path: Path) -> None:
    order = ("dög", "zebra", "bird", "cat")
    catalog = index(parquet(items(), tmp_path / "source"), str(tmp_path / "out"), key=TEMPLATE, classes=order)
    assert catalog.classes == order
    names = [order[i] for i in catalog.labels()]
    assert names == [key.split("/")[1] for key in catalog.keys().to_pylist()]


def test_files_that_order_their_classes_differently_are_refused(tmp_path: Path) -> None:
    for name, order in (("a", "cat,dog"), ("b", "dog,cat")):
        schema = pa.schema([("label", pa.int8()), ("image", pa.binary())], metadata={"classes": order})
        pq.write_table(pa.table({"label": [0], "image": [b"x"]}, schema=schema), tmp_path / f"{name}.parquet")
    with pytest.raises(CatalogError, match="expected one order of classes"):
        index(str(tmp_path), str(tmp_path / "out"))


@pytest.mark.parametrize("name", ["folder", "tars by directory", "parquet"])
def test_a_source_of_its_own_for_the_test_split(name: str, tmp_path: Path) -> None:
    """Train and test apart, with a class that only one of them has: one mapping, no key twice."""
    found = [Item("", item.label, item.filename, item.data) for item in items() if item.split == "train"]
    write, key = SOURCES[name]
    if name == "parquet":
        found = [Item("train", item.label, item.filename, item.data) for item in found]
    sources = [write([i for i in found if i.label != out], tmp_path / out) for out in ("bird", "cat")]
    if name == "parquet":
        sources = [f"{source}/*train*.parquet" for source in sources]
        key = ""
    catalog = index(sources[0], str(tmp_path / "out"), test_root=sources[1], key=key, yes=True)
    assert catalog.classes == CLASSES
    keys = catalog.keys().to_pylist()
    assert [key.split("/")[0] for key in keys] == ["test" if test else "train" for test in catalog.is_test()]
    assert {catalog.classes[i] for i in catalog.labels()[catalog.is_test()]} == {"bird", "dög"}
    assert {catalog.classes[i] for i in catalog.labels()[~catalog.is_test()]} == {"cat", "dög"}


def test_a_template_knows_which_source_is_the_test(tmp_path: Path) -> None:
    """Two files of one name and the same columns."""
    sources = [parquet_with(tmp_path / name, label=["x", "y"], id=[1, 2]) for name in ("one", "two")]
    catalog = index(sources[0], str(tmp_path / "out"), test_root=sources[1], key="{split}/{class}/{id}.png")
    assert catalog.keys().to_pylist() == ["test/x/1.png", "test/y/2.png", "train/x/1.png", "train/y/2.png"]
    assert catalog.is_test().tolist() == [True, True, False, False]


def test_a_test_root_that_is_not_there_is_told_before_the_root_is_listed(tmp_path: Path) -> None:
    root = parquet_with(tmp_path, label=["x", "y"], id=[1, 2])
    with pytest.raises(CatalogError, match="column of labels"):  # what a listing of the root says
        index(root, str(tmp_path / "out"), label_column="none")
    with pytest.raises(CatalogError, match="nowhere"):
        index(root, str(tmp_path / "out"), label_column="none", test_root=str(tmp_path / "nowhere.parquet"))


def test_validation_directories_and_deep_ones(tmp_path: Path) -> None:
    data = encoded(np.zeros((4, 4, 3), np.uint8))
    hidden = ("train/.cache/3.png", "train/dog/._4.png")
    for name in ("train/cat/a/b/1.png", "train/dog/1.png", "valid/dog/2.PNG", *hidden):
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / name).write_bytes(data)
    catalog = index(str(tmp_path / "source"), str(tmp_path / "out"), class_depth=1)
    assert catalog.keys().to_pylist() == ["train/cat/a/b/1.png", "train/dog/1.png", "valid/dog/2.PNG"]
    assert catalog.is_test().tolist() == [False, False, True]
    assert catalog.classes == ("cat", "dog")


def test_default_keys_of_parquet_and_a_bytewise_order(tmp_path: Path) -> None:
    parquet_with(tmp_path / "source", "ä.parquet", label=[0, 1])
    parquet_with(tmp_path / "source", "z.parquet", label=[1])
    parquet_with(tmp_path / "source", "Z.parquet", label=[0])
    catalog = index(str(tmp_path / "source"), str(tmp_path / "out"))
    assert catalog.keys().to_pylist() == ["Z/000000000", "z/000000000", "ä/000000000", "ä/000000001"]
    template = index(str(tmp_path / "source"), str(tmp_path / "out2"), key="{class}/{file}-{row:03d}.png")
    assert template.keys().to_pylist() == ["0/Z-000.png", "0/ä-000.png", "1/z-000.png", "1/ä-001.png"]


def test_manifest_lines_without_an_image(tmp_path: Path) -> None:
    source = csv(items(), tmp_path / "source")
    with open(source, "a") as file:
        file.write(
            "\nnowhere.png,a,cat,train\n,b,cat,train\ntrain/cat/c.0.png,c,cat,bench\ntrain/cat/c.0.png,,cat,train"
        )
    catalog = index(source, str(tmp_path / "out"), on_problem="exclude")
    assert len(catalog) == len(items())
    assert {line["key"]: line["reason"].split(":")[0] for line in catalog.problems().to_pylist()} == {
        "a": "missing image", "line 27": "no path", "c": "unknown split", None: "no key",
    }  # fmt: skip


# ---- arrays and embeddings


@pytest.mark.parametrize("shape", [(20, 6, 5), (20, 6, 5, 3)])
def test_arrays(shape: tuple[int, ...], tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    labels = np.arange(20) % 3 - (np.arange(20) == 4) * 2
    catalog = index_arrays(pixels, labels, str(tmp_path), test=np.arange(20) >= 15, classes=("x", "y", "z"))
    assert catalog.labels().tolist() == labels.tolist()
    assert catalog.classes == ("x", "y", "z")
    assert catalog.is_test().tolist() == [False] * 15 + [True] * 5
    assert catalog.keys().to_pylist()[3] == "000000003"
    for image, data in zip(pixels, bytes_of(catalog), strict=True):
        expected = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
        assert np.array_equal(np.asarray(decode(data, "key")), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [0, 1, 9]}, "labels: expected the classes that classes= lists, cat, dog, got '9'"),
        ({"labels": ["cat", None, "dgo"]}, r"got 'dgo' \(did you mean 'dog'\?\)"),
        ({"labels": [0, 1]}, "labels: expected 3, one per image, got 2"),
        ({"keys": ["a", "b", "a"]}, "keys: expected a different text .*, got the same, 'a', for the images 0 and 2"),
        ({"keys": ["a", "b", None]}, "keys: expected a different text for each image, got none for image 2"),
        ({"images": np.zeros((3, 4, 4))}, r"expected \(n, h, w\) or \(n, h, w, 3\) uint8"),
    ],
)
def test_arrays_that_do_not_fit(change: dict[str, object], message: str, tmp_path: Path) -> None:
    given = {"images": np.zeros((3, 4, 4), np.uint8), "labels": [0, 1, 0], "classes": ("cat", "dog"), **change}
    with pytest.raises(CatalogError, match=message):
        index_arrays(out=str(tmp_path / "new"), **given)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
    old = index_arrays(np.zeros((3, 4, 4), np.uint8), ["x", None, "y"], str(tmp_path / "old"))
    assert old.labels().tolist() == [0, -1, 1]
    with pytest.raises(CatalogError, match=message):
        index_arrays(out=old.uri, **given)  # type: ignore[arg-type]
    assert len(bytes_of(Catalog.open(old.uri))) == 3, "the catalog that was there is still whole"


def test_embeddings(tmp_path: Path) -> None:
    features = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float16)
    test = np.arange(12) % 4 == 0
    np.savez(tmp_path / "e.npz", embedding=features, labels=np.array([5, -1, 11] * 4), is_val=test)
    catalog = index(str(tmp_path / "e.npz"), str(tmp_path / "out"))
    assert catalog.format == "embeddings"
    assert np.array_equal(catalog.embedding(), features)
    assert catalog.labels().tolist() == [0, -1, 1] * 4
    assert catalog.classes == ("5", "11")
    assert np.array_equal(catalog.is_test(), test)
    assert catalog.keys().to_pylist()[7] == "000000007"
    np.savez(tmp_path / "e.npz", embedding=-features, labels=np.array([5, -1, 11] * 4), is_val=test)
    with pytest.raises(CatalogError, match="changed since they were indexed"):
        catalog.embedding()
    assert index(str(tmp_path / "e.npz"), str(tmp_path / "out2")).fingerprint != catalog.fingerprint


def test_pretext_losses_come_with_embeddings(tmp_path: Path) -> None:
    features, losses = np.random.default_rng(0).normal(size=(5, 2)), np.array([1.9e-05, 0.3, 2, 0.3, 1], np.float32)
    source, out = str(tmp_path / "e.npz"), str(tmp_path / "out")
    np.savez(source, features=features, pretext_loss=losses)
    catalog = index(source, out)
    assert catalog.provided_columns == {"embedding", "pretext_loss"}
    assert catalog.pretext_loss().tolist() == losses.astype(float).tolist()
    assert np.array_equal(catalog.embedding(), features)
    np.savez(source, features=features, pretext_loss=losses[::-1])
    assert np.array_equal(catalog.embedding(), features)
    with pytest.raises(CatalogError, match="the pretext losses changed since they were indexed"):
        catalog.pretext_loss()
    assert index(source, str(tmp_path / "other")).fingerprint != catalog.fingerprint  # other picks, another run
    np.savez(source, features=features)
    with pytest.raises(CatalogError, match="expected an array called pretext_loss"):
        catalog.pretext_loss()
    plain = index(source, str(tmp_path / "plain"))
    assert plain.provided_columns == {"embedding"}
    with pytest.raises(CatalogError, match="expected pretext losses"):
        plain.pretext_loss()


@pytest.mark.parametrize("kind", [bool, np.int8, np.float32])
def test_numbers_may_say_what_is_test(kind: type, tmp_path: Path) -> None:
    np.savez(tmp_path / "e.npz", features=np.zeros((3, 2)), is_test=np.array([0, 1, 0], kind))
    assert index(str(tmp_path / "e.npz"), str(tmp_path / "out")).is_test().tolist() == [False, True, False]


def test_pretext_losses_of_test_rows_may_be_anything(tmp_path: Path) -> None:
    source, test = str(tmp_path / "e.npz"), np.array([False, True, False])
    np.savez(source, features=np.zeros((3, 2)), is_test=test, pretext_loss=np.array([1, np.nan, 2]))
    assert index(source, str(tmp_path / "out")).pretext_loss()[[0, 2]].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"z": np.zeros((3, 2), int)}, "expected an array of embeddings, called 'features' .* got z .3, 2. int64"),
        ({"features": np.zeros(3)}, r"expected \(n, d\) floats"),
        ({"features": np.full((3, 2), np.nan)}, "expected finite values, got 3 rows with others, first row 0"),
        ({"features": np.zeros((3, 2)), "y": np.zeros(2)}, r"y: expected one value per row, \(3,\), got \(2,\)"),
        ({"features": np.zeros((3, 2)), "y": np.array([0, 1, -3])}, "unknown class: '-3'"),
        ({"features": np.zeros((3, 2)), "pretext_loss": np.zeros((3, 1))}, r"pretext_loss: expected one value per row"),
        (
            {"features": np.zeros((3, 2)), "pretext_loss": np.array(["1.9e-05", "0.3", "2"])},
            "pretext_loss: expected floats",
        ),
        (
            {"features": np.zeros((3, 2)), "pretext_loss": np.array([0, np.nan, 1])},
            r"pretext_loss outside the test rows: expected finite values, got 1 rows with others, first row 1",
        ),
        (
            {"features": np.zeros((3, 2)), "is_test": np.array(["True", "False", "0"])},
            r"is_test: expected true and false, or 0 and 1, got 'True' \(<U5\) in row 0",
        ),
        ({"features": np.zeros((3, 2)), "test": np.array([0, np.nan, 1])}, r"test: .* got nan \(float64\) in row 1"),
        ({"features": np.zeros((3, 2)), "is_val": np.array([0, 1, 2])}, r"is_val: .* got 2 \(int64\) in row 2"),
    ],
)
def test_embeddings_that_cannot_be_used(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "e.npz", **arrays)
    for on_problem in ("refuse", "exclude"):  # no row may be left out: it is a position
        with pytest.raises(CatalogError, match=message):
            index(str(tmp_path / "e.npz"), str(tmp_path / "out"), on_problem=on_problem)
