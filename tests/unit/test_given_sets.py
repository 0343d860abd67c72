"""Validation and test sets that the user gives: by lists, by a column or a folder."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alray.cli import main
from alray.config import DataConfig, LabelConfig, ResourceConfig, RunConfig, SplitConfig, TrainConfig, replace
from alray.data.catalog import Catalog, CatalogError, index
from alray.data.repack import repack
from alray.labeling import receive, state
from alray.labeling.desk import Waiting
from alray.labeling.standing import lines
from alray.prepare import check
from alray.rounds import run
from alray.rundir import RunDir

NAMES = ["apple", "pear", "plum"]


def key(row):
    return f"{row:09d}"


@pytest.fixture
def config(tmp_path):
    """60 rows in three clusters, of which the first 20 have a label."""
    rng = np.random.default_rng(0)
    features = (3 * np.eye(3, 8)[np.arange(60) % 3] + rng.standard_normal((60, 8))).astype(np.float32)
    label = np.array([NAMES[at % 3] if at < 20 else "" for at in range(60)])
    np.savez(tmp_path / "pool.npz", features=features, label=label)
    return RunConfig(
        name="given", root=str(tmp_path / "runs"), rounds=2, budget=6, strategy="margin", top_k=(),
        data=DataConfig(root=str(tmp_path / "pool.npz"), classes=tuple(NAMES)),
        split=SplitConfig(seed_set_how="given", seed_set_size=6),
        labels=LabelConfig(oracle="files", wait="exit"),
        train=TrainConfig(mode="linear", epochs=3, lr=1.0),
        resources=ResourceConfig(select_workers="process"),
    )  # fmt: skip


def listed(tmp_path, name, rows, labels=None):
    path = tmp_path / f"{name}.txt"
    path.write_text("".join(f"{key(row)}{f' {labels[row]}' if labels else ''}\n" for row in rows))
    return str(path)


def wait(config):
    with pytest.raises(Waiting):
        run(config, quiet=True)
    (folder,) = Path(config.root).glob("given-*")
    return RunDir(str(folder))


def asked(folder):
    table = state.open_batch(folder).requests
    return dict(zip(table["row"].to_pylist(), table["role"].to_pylist(), strict=True))


def write(tmp_path, answers):
    path = tmp_path / "answers.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("key", "label"), *answers])
    return str(path)


def answer(folder, tmp_path, wrong=()):
    """Give every label of the open batch. wrong: rows that get another class."""
    answers = [(key(row), NAMES[(row + (row in wrong)) % 3]) for row in asked(folder)]
    return receive.receive(folder, [write(tmp_path, answers)])


def test_lists_give_the_validation_and_the_test_set_and_people_label_what_has_no_label(config, tmp_path):
    val, test = [0, 1, 2, 30, 31], [3, 4, 5, 40]
    config = replace(config, {
        "split.val_list": listed(tmp_path, "val", val), "split.test_list": listed(tmp_path, "test", test),
        "train.patience": 2,
    })  # fmt: skip
    folder = wait(config)
    assert asked(folder) == {30: "validation", 31: "validation", 40: "test"}
    answer(folder, tmp_path, wrong=(40,))
    wait(config)
    metrics = folder.round(0).metrics()
    assert (metrics["validation_labels"], metrics["labels"], metrics["labels_bought"]) == (5, 14, 0)
    assert metrics["test"]["per_class_count"] == [1, 1, 2]
    assert metrics["unlabeled"] == 60 - 14 - 5 - 4
    assert not set(asked(folder)) & {*val, *test}
    assert folder.held_out()[0].tolist() == val
    assert folder.asked_test()[0].tolist() == [40]
    answer(folder, tmp_path)
    receive.receive(folder, [write(tmp_path, [(key(40), "pear")])], correct=True)
    result = run(config, quiet=True)
    assert result.rounds[-1]["validation_labels"] == 5
    assert folder.round(1).metrics()["test"]["per_class_count"] == [1, 2, 1], "a corrected label counts from here on"
    assert "validation: 5 labels, counted apart; test: 1 label that people gave" in lines(folder)
    main(["report", folder.uri, "--out", str(tmp_path / "report")])
    main(["export", folder.uri, "--out", str(tmp_path / "out"), "--format", "none"])
    exported = list(csv.DictReader((tmp_path / "out" / "labels.csv").open()))
    assert {row["key"]: row["origin"] for row in exported if row["origin"] in ("validation", "test")} == {
        **{key(row): "validation" for row in val}, key(40): "test",
    }  # fmt: skip


def test_labels_beside_the_keys_count_where_the_source_has_none(config, tmp_path):
    labels = {row: NAMES[row % 3] for row in range(60)}
    config = replace(config, {"split.val_list": listed(tmp_path, "val", [0, 30, 31], labels),
                              "split.test_list": listed(tmp_path, "test", [1, 40], labels)})  # fmt: skip
    folder = wait(config)
    assert set(asked(folder).values()) == {"round 0"}
    assert folder.held_out()[1].tolist() == [0, 0, 1]
    assert folder.round(0).metrics()["test"] is not None
    before = folder.uri
    config = replace(config, {"split.val_list": listed(tmp_path, "val", [0, 30, 32], labels)})
    with pytest.raises(Waiting):
        run(config, quiet=True)
    assert len(list(Path(config.root).glob("given-*"))) == 2, f"another list is another run than {before}"


@pytest.mark.parametrize(
    ("lists", "changes", "message"),
    [
        ({"val": "000000001\nnobody\n"}, {}, "split.val_list: .*val.txt: .* 1 of 2 others, first 'nobody'"),
        ({"val": "\n"}, {}, "split.val_list: .* got an empty list"),
        ({"val": "000000001\n", "test": "000000001\n000000002\n"}, {}, "split.test_list: .* 1 of 2 .*000000001"),
        ({"val": "000000001\n"}, {"split.val_size": 5}, "split.val_size: expected 0, .* of 1 image is given, got 5"),
        ({"val": "000000001 apple\n"}, {}, "000000001: expected the class that the source gives it, pear, got 'apple'"),
        ({"val": "000000030 banana\n"}, {}, r"000000030: expected the name .* \(apple, pear, plum\), got 'banana'"),
        ({"val": "000000030 1\n"}, {}, "000000030: expected the name of a class"),
        ({"val": "000000001\n000000030\n"}, {"labels.oracle": "hidden", "data.unlabeled": "refuse"},
         r"the validation set: 1 of 2 images have no label \(first 000000030\)"),
        ({"test": "000000030\n"}, {"labels.oracle": "hidden"}, "split.test_list: 1 of 1 images have no label"),
        ({}, {"split.val_list": "/nowhere/val.txt"}, "split.val_list: expected a file, got none at /nowhere/val.txt"),
        ({}, {"train.patience": 2}, "split.val_size=0"),
    ],
)  # fmt: skip
def test_lists_that_cannot_be_used_are_refused(config, tmp_path, lists, changes, message):
    for name, text in lists.items():
        (tmp_path / f"{name}.txt").write_text(text)
        changes = {f"split.{name}_list": str(tmp_path / f"{name}.txt"), **changes}
    with pytest.raises(ValueError, match=message):
        check(replace(config, changes))


def test_numbers_beside_labeled_images_are_not_compared(config, tmp_path):
    (tmp_path / "val.txt").write_text("000000001 7\n")
    assert check(replace(config, {"split.val_list": str(tmp_path / "val.txt")})).given.tolist() == [1]


@pytest.fixture
def folders(tmp_path):
    """Three training images of each class, and one of each in the folders val and test."""
    for split, count in (("train", 3), ("val", 1), ("test", 1)):
        for number, name in enumerate(NAMES[:2]):
            place = tmp_path / "photos" / split / name
            place.mkdir(parents=True)
            for at in range(count):
                Image.new("RGB", (8, 8), (50 * number, 50 * at, 10)).save(place / f"{split}{at}.png")
    return tmp_path / "photos"


def test_a_folder_for_validation_is_a_test_set_unless_the_user_says_that_it_is_the_validation_set(folders, tmp_path):
    plain = index(str(folders), str(tmp_path / "plain"))
    assert plain.is_test().sum() == 4 and not plain.is_validation().any()
    meant = index(str(folders), str(tmp_path / "meant"), split={"val": "validation"})
    assert meant.keys(np.flatnonzero(meant.is_validation())).to_pylist() == ["val/apple/val0.png", "val/pear/val0.png"]
    assert meant.is_test().sum() == 2
    assert meant.fingerprint != plain.fingerprint
    assert "10 images: 6 train, 2 test, 2 validation (val)" in meant.notes()
    config = RunConfig(
        name="given", root=str(tmp_path / "runs"), rounds=2, budget=1, top_k=(), train=TrainConfig(patience=1),
        data=DataConfig(catalog=str(tmp_path / "meant")), split=SplitConfig(seed_set_size=2, seed_set_how="random"),
    )  # fmt: skip
    found = check(config)
    assert found.given.tolist() == np.flatnonzero(meant.is_validation()).tolist()
    assert len(found.pool_rows) == 8 and len(found.test_rows) == 2
    held_out, seed = found.draw()
    assert held_out.tolist() == found.given.tolist() and not set(seed.tolist()) & set(held_out.tolist())
    with pytest.raises(ValueError, match="split.val_size=0"):
        check(replace(config, {"data.catalog": str(tmp_path / "plain")}))
    (tmp_path / "list.txt").write_text("train/apple/train0.png\ntrain/pear/train0.png\n")
    other = check(replace(config, {"split.val_list": str(tmp_path / "list.txt")}))
    assert "2 test or validation images of the source not in the list: used for nothing." in other.notes
    assert len(other.pool_rows) == 6
    with pytest.raises(CatalogError, match="2 images are the validation set"):
        repack(Catalog.open(str(tmp_path / "meant")), str(tmp_path / "again"), "folder")


def test_a_list_can_take_the_images_of_a_folder_that_would_be_test_images(folders, tmp_path):
    (tmp_path / "list.txt").write_text("val/apple/val0.png apple\nval/pear/val0.png\tpear\n")
    config = RunConfig(
        name="given", root=str(tmp_path / "runs"), rounds=1, budget=1, top_k=(), data=DataConfig(root=str(folders)),
        split=SplitConfig(seed_set_size=2, val_list=str(tmp_path / "list.txt")), train=TrainConfig(patience=1),
    )  # fmt: skip
    found = check(config)
    assert len(found.given) == 2 and len(found.test_rows) == 2 and len(found.pool_rows) == 8
