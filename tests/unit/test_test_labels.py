"""A flat test folder with a list of its classes, as ImageNet's validation set is published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat
from trees import described, indexed, tree

from alray.config import DataConfig
from alray.data.catalog import CatalogError, index
from alray.data.origin import ensure_catalog

WNIDS = ("n01440764", "n01443537", "n02119789")  # sorted
IDS = {1: "n02119789", 2: "n01440764", 3: "n01443537"}  # of meta.mat: another order
TRUTH = (1, 3, 2, 1)  # of the images 1 to 4
OFFICIAL = "ILSVRC2012_validation_ground_truth.txt"
EXPECTED = {f"val/ILSVRC2012_val_{i + 1:08d}.JPEG": f"test {IDS[number]}" for i, number in enumerate(TRUTH)}


def imagenet(place: Path, *others: str, **texts: str) -> str:
    names = [f"train/{wnid}/{wnid}_{{0..1}}.JPEG" for wnid in WNIDS]
    return tree(place, *names, "val/ILSVRC2012_val_0000000{1..4}.JPEG", *others, **texts)


def numbered(place: Path, numbers: Sequence[object] = TRUTH, name: str = OFFICIAL) -> str:
    place.mkdir(parents=True, exist_ok=True)
    (place / name).write_text("".join(f"{number}\n" for number in numbers))
    return str(place / name)


def meta(place: Path) -> None:
    """A table as the devkit has it: one struct array, with nodes above the classes at its end."""
    kind = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("num_children", object)]
    rows = [(number, wnid, "words", 0) for number, wnid in IDS.items()] + [(1001, "n00001740", "entity", 2)]
    savemat(place, {"synsets": np.array(rows, dtype=kind).reshape(-1, 1)})


def of_tests(found: dict[str, str]) -> dict[str, str]:
    return {key: text for key, text in found.items() if key.startswith("val/")}


LISTS = {
    "one class a line": "".join(f"{IDS[number]}\n" for number in TRUTH),
    "file and class": "".join(f"{key.split('/')[1]} {text.split()[1]}\n" for key, text in reversed(EXPECTED.items())),
    "path and class": "".join(f"{key}\t{text.split()[1]}\n" for key, text in EXPECTED.items()),
    "Kaggle": "ImageId,PredictionString\n"
    + "".join(f"{Path(key).stem},{text.split()[1]} 85 1 499 272 {text.split()[1]} 1 2 3 4 \n"
              for key, text in reversed(EXPECTED.items())),
}  # fmt: skip


@pytest.mark.parametrize("name", list(LISTS))
def test_lists_of_names(name: str, tmp_path: Path) -> None:
    source = imagenet(tmp_path / "s")
    place = tmp_path / "list.csv"
    place.write_text(LISTS[name])
    catalog = index(source, str(tmp_path / "o"), test_labels=str(place))
    assert of_tests(described(catalog)) == EXPECTED
    told = "\n".join(catalog.notes())
    assert f"the classes of 4 of 4 test images are those of {place}" in told and "every image has a label" in told
    assert "which cannot be used for testing" not in told


def test_the_list_of_kaggle_is_found_in_the_source(tmp_path: Path) -> None:
    source = imagenet(tmp_path / "s", **{"LOC_val_solution.csv": LISTS["Kaggle"]})
    assert of_tests(indexed(source, tmp_path / "o")) == EXPECTED


@pytest.mark.parametrize("where", ["meta.mat", "data/meta.mat"])
def test_the_official_list_with_its_table(where: str, tmp_path: Path) -> None:
    source = imagenet(tmp_path / "s")
    place = numbered(tmp_path / "devkit")
    (tmp_path / "devkit" / where).parent.mkdir(exist_ok=True)
    meta(tmp_path / "devkit" / where)
    assert of_tests(indexed(source, tmp_path / "o", test_labels=place)) == EXPECTED
    numbered(tmp_path / "devkit", (1, 4, 2, 1))
    with pytest.raises(CatalogError, match=r"expected numbers that .*meta.mat has, got 4"):
        index(source, str(tmp_path / "o"), test_labels=place)


def test_numbers_alone_are_refused_and_sorted_ones_are_read_where_the_user_says_so(tmp_path: Path) -> None:
    source = imagenet(tmp_path / "s")
    for numbers in (TRUTH, (0, 2, 1, 0), (1, 2, 1, 1)):  # the last one could be either
        with pytest.raises(CatalogError, match=r"holds numbers \(.*put meta.mat of .*--test-label-numbers sorted"):
            index(source, str(tmp_path / "o"), test_labels=numbered(tmp_path / "d", numbers))
    place = numbered(tmp_path / "d", [WNIDS.index(IDS[number]) for number in TRUTH], "val.txt")
    assert of_tests(indexed(source, tmp_path / "o", test_labels=place, test_label_numbers="sorted")) == EXPECTED
    with pytest.raises(CatalogError, match="expected numbers below 3, one for each class, got 3; the official list"):
        index(source, str(tmp_path / "p"), test_labels=numbered(tmp_path / "d"), test_label_numbers="sorted")


def test_a_test_root_and_a_list(tmp_path: Path) -> None:
    source = imagenet(tmp_path / "s")
    (tmp_path / "l.txt").write_text(LISTS["one class a line"])
    found = indexed(f"{source}/train", tmp_path / "o", test_root=f"{source}/val", test_labels=str(tmp_path / "l.txt"))
    assert {key.replace("test/", "val/"): text for key, text in found.items() if key.startswith("test/")} == EXPECTED


def test_lists_that_do_not_fit(tmp_path: Path) -> None:
    source = imagenet(tmp_path / "s")
    cases = {
        "n01440764\n": "expected 4 lines, one for each test image without a class in the order of their names, got 1",
        "a.jpg n01440764\n": "expected lines that name the test images, such as val/ILSVRC2012_val_00000001.JPEG",
        "": "expected one class a line, got an empty file",
        "a n1\nn2\n": "expected lines of one kind",
        "a n1\na n2\n": "a: expected one class, got n1 and n2",
    }
    for text, message in cases.items():
        (tmp_path / "l.txt").write_text(text)
        with pytest.raises(CatalogError, match=message):
            index(source, str(tmp_path / "o"), test_labels=str(tmp_path / "l.txt"))
    with pytest.raises(CatalogError, match="test_labels: .*cannot be read"):
        index(source, str(tmp_path / "o"), test_labels=str(tmp_path / "none.txt"))
    with pytest.raises(CatalogError, match="test_labels: expected test images without a class"):
        index(f"{source}/train", str(tmp_path / "o"), test_labels=str(tmp_path / "l.txt"))


def test_some_images_of_the_list_are_told(tmp_path: Path) -> None:
    source = imagenet(tmp_path / "s")
    (tmp_path / "l.txt").write_text("ILSVRC2012_val_00000002 n01440764\n")
    told = "\n".join(index(source, str(tmp_path / "o"), test_labels=str(tmp_path / "l.txt")).notes())
    assert "the classes of 1 of 4 test images are those of" in told and "val: 3 of 4 images without a label" in told


def test_a_list_that_changed_since_is_noticed(tmp_path: Path) -> None:
    """A run looks at the list, too, before it trusts a catalog that was made with it."""
    source = imagenet(tmp_path / "s")
    place = tmp_path / "l.txt"
    place.write_text(LISTS["one class a line"])
    data = DataConfig(root=source, catalog=str(tmp_path / "o"), test_labels=str(place))
    ensure_catalog(data, "")
    ensure_catalog(data, "")
    place.write_text("n01440764\n" * 4)
    with pytest.raises(CatalogError, match="label"):
        ensure_catalog(data, "")
    place.write_text(LISTS["one class a line"])
    with pytest.raises(CatalogError, match="data.test_labels: expected .*l.txt, from which the catalog"):
        ensure_catalog(DataConfig(root=source, catalog=str(tmp_path / "o"), test_labels=str(tmp_path / "m.txt")), "")


def test_one_name_in_two_unicode_forms_has_one_class(tmp_path: Path) -> None:
    source = imagenet(tmp_path / "s", "val/bild \u00e9.JPEG")
    place = tmp_path / "list.csv"
    place.write_text(LISTS["path and class"] + f"e\u0301.JPEG\t{WNIDS[0]}\n\u00e9.JPEG\t{WNIDS[1]}\n")
    with pytest.raises(CatalogError, match="expected one class, got n01440764 and n01443537, under one name in two"):
        indexed(source, tmp_path, test_labels=str(place))
