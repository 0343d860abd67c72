"""Sources as people have them: COCO and YOLO folders, lists of PASCAL VOC, data sets of Hugging Face, URLs."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from trees import described, indexed, tree

from alray.data.catalog import CatalogError, index

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
        "train/a.jpg": "train person", "train/b.jpg": "train car", "valid/a.jpg": "test car", "valid/c.jpg": "test person"
    }  # fmt: skip


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
