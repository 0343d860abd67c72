"""Sources as people have them: COCO and YOLO folders, lists of PASCAL VOC, data sets of Hugging Face, URLs."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_sources import items, saved_to_disk
from trees import DATA, described, indexed, tree

from alray import remote
from alray.config import DataConfig
from alray.data.catalog import CatalogError, index
from alray.data.fetch import fetch
from alray.data.origin import ensure_catalog
from alray.store import StoreError, filesystem

CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}, {"id": 3, "name": "car"}]


def instances(boxes: dict[str, list[int]]) -> str:
    images = [{"id": 70 + number, "file_name": name, "width": 4, "height": 4} for number, name in enumerate(boxes)]
    ids = {image["file_name"]: image["id"] for image in images}
    annotations = [
        {"id": number, "image_id": ids[name], "category_id": category, "bbox": [0, 0, 2, 2], "iscrowd": 0}
        for number, (name, category) in enumerate((name, one) for name, own in boxes.items() for one in own)
    ]
    return json.dumps({"images": images, "annotations": annotations, "categories": CATEGORIES})


def coco(place: Path, train: dict[str, list[int]], val: dict[str, list[int]], images: str = "") -> str:
    texts = {
        "annotations/instances_train2017.json": instances(train),
        "annotations/instances_val2017.json": instances(val),
        "annotations/captions_val2017.json": "{}",
    }
    names = [f"{images}train2017/{name}" for name in train] + [f"{images}val2017/{name}" for name in val]
    return tree(place, *names, **texts)


@pytest.mark.parametrize("images", ["", "images/"])
def test_coco_is_a_pool_without_labels(images: str, tmp_path: Path) -> None:
    """Images of both splits have one name here: each list counts for its own folder."""
    source = coco(
        tmp_path / "s", {"1.jpg": [18, 1, 1], "2.jpg": [3], "3.jpg": []}, {"1.jpg": [3], "4.jpg": [18]}, images
    )
    catalog = index(source, str(tmp_path / "o"))
    assert Counter(described(catalog).values()) == {"train": 3, "test": 2} and catalog.classes == ()
    told = "\n".join(catalog.notes())
    assert (
        "COCO: annotations/instances_train2017.json, annotations/instances_val2017.json: 6 boxes of 3 categories (dog, "
        "person, car) on 4 of 5 images. The boxes stay in these files; the catalog has no copy of them"
    ) in told
    assert "2 of 5 annotated images do not have exactly one category" in told
    assert "so the images are indexed without labels" in told


def test_coco_with_one_category_per_image_has_classes(tmp_path: Path) -> None:
    source = coco(tmp_path / "s", {"1.jpg": [18, 18], "2.jpg": [3]}, {"1.jpg": [3], "4.jpg": [18]})
    found = indexed(source, tmp_path / "o")
    assert found == {
        "train2017/1.jpg": "train dog",
        "train2017/2.jpg": "train car",
        "val2017/1.jpg": "test car",
        "val2017/4.jpg": "test dog",
    }
    catalog = index(source, str(tmp_path / "p"), label_column="")
    assert catalog.classes == () and "4 of 4 images. The boxes stay" in "\n".join(catalog.notes())


def test_boxes_that_changed_since_are_noticed(tmp_path: Path) -> None:
    """They name the classes here, so a run looks at their files before it trusts the catalog."""
    first, second = {"1.jpg": [18, 18], "2.jpg": [3]}, {"1.jpg": [3], "4.jpg": [18]}
    data = DataConfig(root=coco(tmp_path / "s", first, second), catalog=str(tmp_path / "o"))
    ensure_catalog(data, "")
    ensure_catalog(data, "")
    changed = instances({"1.jpg": [18, 18], "4.jpg": [18]})
    (tmp_path / "s/annotations/instances_val2017.json").write_text(changed)
    with pytest.raises(CatalogError, match="label"):
        ensure_catalog(data, "")


def test_a_damaged_list_of_coco_is_named(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"images": []}'):
        source = tree(tmp_path / "s", "train2017/1.jpg", **{"annotations/instances_train2017.json": text})
        with pytest.raises(
            CatalogError, match="instances_train2017.json: expected COCO's images, annotations and categ"
        ):
            index(source, str(tmp_path / "o"))


def test_coco_of_roboflow(tmp_path: Path) -> None:
    """The list is beside the images."""
    texts = {
        "train/_annotations.coco.json": instances({"a.jpg": [1], "b.jpg": [3]}),
        "valid/_annotations.coco.json": instances({"a.jpg": [3], "c.jpg": [1]}),
    }
    source = tree(tmp_path / "s", "train/a.jpg", "train/b.jpg", "valid/a.jpg", "valid/c.jpg", **texts)
    assert indexed(source, tmp_path / "o") == {
        "train/a.jpg": "train person",
        "train/b.jpg": "train car",
        "valid/a.jpg": "test car",
        "valid/c.jpg": "test person",
    }


NAMES = {
    "data.yaml": "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['cat', 'dog']\n",
    "my.yml": "path: .\nnames:\n  0: cat\n  1: dog\n",
    "classes.txt": "cat\ndog\n",
}


@pytest.mark.parametrize("name", list(NAMES))
@pytest.mark.parametrize("where", ["{split}/{kind}/{image}", "{kind}/{split}/{image}", "{split}/{image}"])
def test_yolo(name: str, where: str, tmp_path: Path) -> None:
    boxes = {("train", "a"): "0 .5 .5 .2 .2\n1 .1 .1 .1 .1\n", ("train", "b"): "1 .5 .5 .2 .2\n", ("valid", "a"): ""}
    texts = {
        where.format(split=split, kind="labels", image=f"{image}.txt"): text for (split, image), text in boxes.items()
    }
    images = [where.format(split=split, kind="images", image=f"{image}.jpg") for split, image in boxes]
    catalog = index(tree(tmp_path / "s", *images, **texts, **{name: NAMES[name]}), str(tmp_path / "o"))
    assert Counter(described(catalog).values()) == {"train": 2, "test": 1}
    told = "\n".join(catalog.notes())
    assert f"YOLO: {name} and 3 .txt files: 3 boxes of 2 categories (cat, dog) on 2 of 3 images" in told
    assert "2 of 3 annotated images do not have exactly one category" in told
    for text in texts:
        (tmp_path / "s" / text).write_text("1 .5 .5 .2 .2\n" if "train" in text else "0 .5 .5 .2 .2\n0 0 0 1 1\n")
    found = indexed(str(tmp_path / "s"), tmp_path / "p", yes=True)
    assert Counter(found.values()) == {"train dog": 2, "test cat": 1}


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        ({"train.txt": "a_0\na_1\n", "val.txt": "a_2\n"}, {"train": 2, "test": 1}),
        ({"train": "a_0\na_1\n", "val": "a_2\n"}, {"train": 2, "test": 1}),
        ({"train.txt": "a_0.jpg\na_1.jpg\n", "val.txt": "a_2.jpg\n"}, {"train": 2, "test": 1}),
        ({"trainval.txt": "a_0\na_1\na_2\n", "test.txt": "a_3\n"}, {"train": 3, "test": 1}),
        ({"trainval.txt": "a_0\na_1\na_2\n", "train.txt": "a_0\na_1\n", "val.txt": "a_2\n"}, {"train": 2, "test": 1}),
        ({"cat_train.txt": "a_0  1\na_1 -1\n", "cat_val.txt": "a_2  0\n", "dog_train.txt": "a_0 -1\na_1  1\n"},
         {"train": 2, "test": 1}),
        ({"train.txt": "a_0\n", "val.txt": "a_2\n", "cat_train.txt": "a_1 1\n"}, {"train": 1, "test": 1}),
    ],
)  # fmt: skip
def test_lists_of_voc(lists: dict[str, str], expected: dict[str, int], tmp_path: Path) -> None:
    texts = {f"VOC2012/ImageSets/Main/{name}": text for name, text in lists.items()}
    source = tree(tmp_path / "s", "VOC2012/JPEGImages/a_{0..4}.jpg", **texts)
    assert Counter(indexed(source, tmp_path / "o", label_column="").values()) == expected
    with pytest.raises(CatalogError, match="this is PASCAL VOC, whose images have several classes each"):
        index(source, str(tmp_path / "p"))


# ---- data sets of Hugging Face


def test_what_datasets_saves_to_disk(tmp_path: Path) -> None:
    source = saved_to_disk(items(), tmp_path / "s")
    catalog = index(source, str(tmp_path / "o"))
    expected = Counter(f"{item.split} {item.label}" for item in items())
    assert Counter(described(catalog).values()) == expected
    assert catalog.keys().to_pylist()[0].startswith("test/data-00000-of-00001/000000000")
    found = {item.data for item in items()}
    assert set(fetch(catalog.references(np.arange(len(catalog))), catalog.source, catalog.image_column)) == found
    one = index(f"{source}/train", str(tmp_path / "p"))
    assert len(one) == sum(item.split == "train" for item in items())


def arrow(place: Path, table: pa.Table, file_format: bool = False) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    opened = pa.ipc.new_file if file_format else pa.ipc.new_stream
    with opened(place, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return place


def rows(**columns: object) -> pa.Table:
    return pa.table({"img": [{"bytes": DATA["png"], "path": None}] * 5, **columns})


@pytest.mark.parametrize("file_format", [False, True])
def test_bare_arrow_files_and_results_of_map(file_format: bool, tmp_path: Path) -> None:
    """No features: the column of images is the only one with bytes. What map kept beside it is no data."""
    arrow(tmp_path / "s/digits-train.arrow", rows(label=[1, 0, 1, 0, 1]), file_format)
    arrow(tmp_path / "s/cache-0123456789abcdef.arrow", rows(label=[7] * 5), file_format)
    arrow(tmp_path / "s/digits-test.arrow", rows(label=[1, 0, 1, 0, 1]), file_format)
    assert Counter(indexed(str(tmp_path / "s"), tmp_path / "o").values()) == {
        "train 1": 3, "train 0": 2, "test 1": 3, "test 0": 2
    }  # fmt: skip


def test_features_name_the_columns_of_images_and_labels(tmp_path: Path) -> None:
    """In Parquet, too: neither column has a usual name, and other columns hold bytes and numbers."""
    features = {
        "scan": {"_type": "Image"},
        "thumb": {"dtype": "binary", "_type": "Value"},
        "species": {"_type": "ClassLabel", "names": ["auk", "owl"]},
        "weight": {"dtype": "int64", "_type": "Value"},
    }
    table = pa.table({
        "thumb": [b"x"] * 4, "scan": [{"bytes": DATA["png"], "path": "a.png"}] * 4, "weight": [4, 5, 6, 7],
        "species": [1, 0, 1, 1],
    })  # fmt: skip
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "train.parquet")
    arrow(tmp_path / "s/train/data-00000-of-00001.arrow", table)
    (tmp_path / "s/train/dataset_info.json").write_text(json.dumps({"features": features}))
    for number, source in enumerate((tmp_path / "train.parquet", tmp_path / "s")):
        catalog = index(str(source), str(tmp_path / f"o{number}"))
        assert catalog.image_column == "scan" and catalog.classes == ("auk", "owl")
        assert Counter(described(catalog).values()) == {"train owl": 3, "train auk": 1}
        told = "\n".join(catalog.notes())
        assert "the images were taken from 'scan'" in told and "the labels were taken from 'species'" in told


def test_arrow_files_that_cannot_be_used(tmp_path: Path) -> None:
    place = arrow(tmp_path / "s/train/data-00000-of-00001.arrow", rows(label=[1, 0, 1, 0, 1]))
    (place.parent / "state.json").write_text('{"_indices_data_files": [{"filename": "indices.arrow"}]}')
    with pytest.raises(CatalogError, match="saved with a selection or an order of its rows.*flatten_indices"):
        index(str(tmp_path / "s"), str(tmp_path / "o"))
    (place.parent / "state.json").unlink()
    (place.parent / "dataset_info.json").write_text("[]")
    with pytest.raises(CatalogError, match="dataset_info.json: expected the features of a data set"):
        index(str(tmp_path / "s"), str(tmp_path / "o"))
    (place.parent / "dataset_info.json").unlink()
    place.write_bytes(place.read_bytes()[:-200])
    with pytest.raises(CatalogError, match="broken Arrow file"):
        index(str(tmp_path / "s"), str(tmp_path / "o"))
    without = pa.table({"image": [{"bytes": None, "path": "/there/a.png"}] * 3, "label": [0, 1, 0]},
                       schema=pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
                                         ("label", pa.int64())]))  # fmt: skip
    arrow(tmp_path / "t/train/data-00000-of-00001.arrow", without)
    with pytest.raises(
        CatalogError, match="image: expected the bytes of images, got none in 3 rows, perhaps only their paths"
    ):
        index(str(tmp_path / "t"), str(tmp_path / "o"))


# ---- object stores and the web


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("az://box/images", r"az:// needs the package adlfs, which is not installed: pip install adlfs"),
        ("nothere://box/images", r"no filesystem for nothere:// in pyarrow \(.*\) or in fsspec \(Protocol not known"),
    ],
)
def test_a_missing_package_is_named(uri: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import fsspec

    def missing(scheme: str) -> object:
        raise ImportError("Install adlfs") if scheme == "az" else ValueError(f"Protocol not known: {scheme}")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises((CatalogError, StoreError), match=f"^{uri}: {message}") as error:
        index(uri, str(tmp_path / "o"))
    assert "\n" not in str(error.value)


def client(monkeypatch: pytest.MonkeyPatch, info: Callable[[str], object]) -> list[str]:
    """A file system for mute:// whose every question is answered by `info`. Returns the questions."""
    asked: list[str] = []

    class Mute:
        def get_file_info(self, path: str) -> object:
            asked.append(path)
            return info(path)

    monkeypatch.setattr(remote, "_filesystem", lambda uri, scheme, rest: (Mute(), rest))
    monkeypatch.setattr(remote, "_answered", set())
    return asked


def test_a_store_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    released = threading.Event()
    client(monkeypatch, lambda path: released.wait(60))
    monkeypatch.setenv(remote.TIMEOUT, "0.2")
    start = time.monotonic()
    with pytest.raises(
        (CatalogError, StoreError), match=r"^mute://box/a: no answer within 0.2 s; check the name, the ne"
    ):
        index("mute://box/a", str(tmp_path / "o"))
    assert time.monotonic() - start < 20
    released.set()


def test_a_store_is_asked_once_for_its_first_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = client(monkeypatch, lambda path: None)
    for name in ("a", "b", "c"):
        assert filesystem(f"mute://box/{name}")[1] == f"box/{name}"
    filesystem("mute://other/a")
    assert asked == ["box/a", "other/a"]


def test_an_error_of_a_client_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(path: str) -> object:
        raise RuntimeError("Name or service\nnot known")

    client(monkeypatch, fail)
    with pytest.raises(
        (CatalogError, StoreError), match="^mute://box/a: cannot be reached: Name or service not known$"
    ):
        index("mute://box/a", str(tmp_path / "o"))


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl"])
def test_lists_of_urls_are_refused_before_any_download(name: str, tmp_path: Path) -> None:
    urls = ["https://images.invalid/1.jpg", "http://images.invalid/2.jpg"]
    csv = "url,label\n" + "".join(f"{url},cat\n" for url in urls)
    jsonl = "".join(json.dumps({"url": url, "label": "cat"}) + "\n" for url in urls)
    (tmp_path / name).write_text(csv if name.endswith("csv") else jsonl)
    with pytest.raises(
        CatalogError, match=r"2 of 2 lines name a URL, first https://images.invalid/1.jpg: .*Download them"
    ) as e:
        index(str(tmp_path / name), str(tmp_path / "o"))
    assert "\n" not in str(e.value)
    with pytest.raises(CatalogError, match=r"^https://images.invalid/list.csv: .*Download them first"):
        index("https://images.invalid/list.csv", str(tmp_path / "o"))


def test_a_text_of_urls_or_paths(tmp_path: Path) -> None:
    (tmp_path / "urls.txt").write_text("https://images.invalid/1.jpg\nhttps://images.invalid/2.jpg\n")
    with pytest.raises(
        CatalogError,
        match=r"urls.txt is a plain text, which is not read here: .*'path' as its first line.*downloaded first",
    ):
        index(str(tmp_path / "urls.txt"), str(tmp_path / "o"))
