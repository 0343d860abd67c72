"""Labels and classes that are missing are refused or said before the first training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_sources import Item, folder, items
from pins import CONFIG

from alray import Answers, Requests, RunConfig, replace, run
from alray.config import ConfigError
from alray.data.catalog import index, index_arrays
from alray.data.examples import class_notes, refuse_few_classes
from alray.data.pool import Pool
from alray.data.splits import SplitError
from alray.prepare import check, prepare
from alray.tasks import TASKS


def labels(n: int = 120, classes: int = 5) -> np.ndarray:
    return np.arange(n) % classes


def source(place: Path, label: np.ndarray, test: np.ndarray | None = None, **arrays: Any) -> RunConfig:
    """Embeddings with these labels; by default every fourth row is a test row."""
    n = len(label)
    x = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
    np.savez(
        place / "f.npz", features=x, label=label, is_test=np.arange(n) % 6 == 0 if test is None else test, **arrays
    )
    changes = {"root": str(place / "runs"), "data.root": str(place / "f.npz"), "split.val_size": 0, "top_k": (2,)}
    return replace(CONFIG, {**changes, "data.yes": True})


class Person:
    """Answers with class 0 or 1."""

    def answer(self, requests: Requests) -> Answers:
        return Answers.of(requests.rows % 2)


def unlabeled(label: np.ndarray, *rows: int) -> np.ndarray:
    label = label.copy()
    label[list(rows)] = -1
    return label


# ---- images of the pool without a label


def test_a_simulated_run_needs_every_label_of_the_pool(tmp_path: Path) -> None:
    """Told with count, keys and remedies, before there is a run directory. Test rows do not count."""
    config = source(tmp_path, unlabeled(labels(), 5, 7, 13, 18))
    with pytest.raises(ConfigError, match=r"3 of 100 .*no label \(first 000000005, 000000007, 000000013\).*exclude"):
        run(config, quiet=True)
    assert not list((tmp_path / "runs").glob("*/run.json"))


def test_images_without_a_label_can_be_left_out(tmp_path: Path) -> None:
    config = source(tmp_path, unlabeled(labels(), 5, 7, 13))
    excluding = replace(config, {"data.unlabeled": "exclude"})
    found = check(excluding)
    assert len(found.pool_rows) == 97 and not {5, 7, 13} & set(found.pool_rows.tolist())
    done = run(excluding, quiet=True)
    assert done.rounds[-1]["unlabeled"] + done.rounds[-1]["labels"] == 97
    whole = source(tmp_path / "runs", labels())
    assert len(check(whole).pool_rows) == 100


def test_an_oracle_of_ones_own_needs_no_label_of_the_source(tmp_path: Path) -> None:
    config = source(tmp_path, unlabeled(labels(), *range(60)))
    done = run(config, oracle=Person(), quiet=True)
    assert done.rounds[-1]["labels"] == 34


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"split.val_size": 8, "split.val_how": "balanced"}, "split.val_how=balanced .*--split.val_how random"),
        ({"split.seed_set_how": "balanced"}, "split.seed_set_how=balanced .*--split.seed_set_how random"),
        ({"data.imbalance.kind": "step"}, "data.imbalance.kind=step .*--data.imbalance.kind none"),
    ],
)
def test_what_reads_all_labels_is_refused_where_some_are_missing(
    changes: dict[str, Any], path: str, tmp_path: Path
) -> None:
    """An oracle of one's own cannot be asked for a draw. Without the images that have no label it works."""
    config = replace(source(tmp_path, unlabeled(labels(), 5)), {**changes, "rounds": 2, "budget": 5})
    with pytest.raises(ConfigError, match=f"1 of 100 images of the pool .*{path}.* exclude` leaves"):
        run(config, oracle=Person(), quiet=True)
    assert not list((tmp_path / "runs").glob("*/run.json"))
    run(replace(config, {"data.unlabeled": "exclude"}), oracle=Person(), quiet=True)


def test_without_any_label_there_is_nothing_to_exclude(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (20, 4, 4), np.uint8)
    index_arrays(pixels, None, str(tmp_path / "c"), classes=("a", "b"))
    config = RunConfig().model_copy(update={"root": str(tmp_path / "runs")})
    config = replace(config, {"data.catalog": str(tmp_path / "c"), "budget": 2, "rounds": 2, "split.seed_set_size": 2})
    with pytest.raises(ConfigError, match=r"20 of 20 images of the pool have no label") as error:
        check(config)
    assert "exclude" not in str(error.value)


def test_a_balanced_draw_that_is_impossible_leaves_no_run_directory(tmp_path: Path) -> None:
    config = source(tmp_path, np.where(np.arange(120) < 100, 0, 1))
    with pytest.raises(SplitError, match="val: expected at least"):
        run(replace(config, {"split.val_size": 60, "split.val_how": "balanced"}), quiet=True)
    assert not list((tmp_path / "runs").glob("*/run.json"))


# ---- test images


@pytest.mark.parametrize(
    ("hidden", "test", "said"),
    [
        ((), np.zeros(120, bool), "There are no test images: no accuracy will be measured; data.test_root names"),
        (range(0, 120, 6), None, "None of the 20 test images has a label: no accuracy will be measured"),
        ((0, 6), None, "2 of 20 test images have no label and are not used."),
    ],
)
def test_a_test_set_that_measures_little_is_said(
    hidden: Any, test: np.ndarray | None, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    done = run(source(tmp_path, unlabeled(labels(), *hidden), test))
    assert any(said in line for line in capfd.readouterr().out.splitlines())
    assert (done.rounds[0]["test"] is None) == (said[0] in "TN")


def test_a_full_test_set_says_nothing(tmp_path: Path) -> None:
    assert check(source(tmp_path, labels())).notes == ""


def test_a_share_of_the_pool_replaces_a_test_split_without_labels(tmp_path: Path) -> None:
    config = source(tmp_path, unlabeled(labels(), *range(0, 120, 6)))
    found = check(replace(config, {"split.test_share": 0.2}))
    assert len(found.test_rows) == 20 and len(found.pool_rows) == 80
    assert found.notes == "20 of 40 test images have no label and are not used."
    with pytest.raises(ConfigError, match="expected 0, because the source has a test split of 20 images"):
        check(replace(source(tmp_path / "runs", labels()), {"split.test_share": 0.2}))


def test_a_share_of_images_without_labels_is_no_test_set(tmp_path: Path) -> None:
    config = source(tmp_path, np.full(120, -1), np.zeros(120, bool))
    config = replace(config, {"split.test_share": 0.2, "labels.oracle": "files", "data.classes": ("a", "b")})
    with pytest.raises(
        ConfigError, match="split.test_share: expected labels of the images that it keeps for the test, got none of 24"
    ):
        check(config)


def test_indexing_says_which_classes_have_no_image(tmp_path: Path) -> None:
    train = folder([item for item in items() if item.split == "train"], tmp_path / "images")
    classes = ("bird", "bear", "cat", "dög", "fox")
    both = index(f"{train}/train", str(tmp_path / "out"), classes=classes)
    assert "2 of 5 classes have no image: bear, fox." in both.notes()
    none = index(f"{train}/train", str(tmp_path / "none"), classes=classes, label_column="")
    assert not any("have no image" in note for note in none.notes())


# ---- classes


@pytest.mark.parametrize(
    ("pool", "test", "said"),
    [
        ([0, 1, 2, 3], [0, 1, 2, 3], []),
        ([0, 1, 2], [0, 1, 2], ["1 of 4 classes have no image: d."]),
        ([0, 1], [0, 1, 2, 2, 3], ["2 of 4 classes have no image in the pool, but 3 test images, which no"]),
        ([0, 1, 2, 3], [0, 1, 2], ["1 of 4 classes have no test image: d."]),
        ([0, 1, 2, 3], [], []),
        ([0, 1, 2], [0, 3], ["1 of 4 classes have no image in the pool, but 1", "2 of 4 classes have no test"]),
        (None, [0, 1, 2], ["1 of 4 classes have no test image: d."]),
    ],
)  # fmt: skip
def test_classes_without_examples(pool: list[int] | None, test: list[int], said: list[str]) -> None:
    known = None if pool is None else np.array(pool, np.int32)
    notes = class_notes("abcd", known, np.array(test, np.int32))
    assert len(notes) == len(said)
    assert all(note.startswith(start) for note, start in zip(notes, said, strict=True))


def test_a_class_that_the_pool_lacks_is_said_before_the_run(tmp_path: Path) -> None:
    test = np.arange(120) % 6 == 0
    label = np.where(test, 3, labels(classes=3))
    notes = check(source(tmp_path, label, test)).notes
    assert "1 of 4 classes have no image in the pool, but 20 test images, which no model can get right: 3." in notes
    assert "3 of 4 classes have no test image: 0, 1, 2." in notes


def test_the_pool_that_counts_is_the_one_that_a_list_leaves(tmp_path: Path) -> None:
    config = source(tmp_path, labels())
    (tmp_path / "list.txt").write_text("\n".join(f"{row:09d}" for row in range(120) if row % 5 < 4 and row % 6))
    notes = check(replace(config, {"data.train_list": str(tmp_path / "list.txt"), "budget": 5})).notes
    assert "1 of 5 classes have no image in the pool, but" in notes
    (tmp_path / "list.txt").write_text("\n".join(f"{row:09d}" for row in range(120) if row % 5 == 1))
    with pytest.raises(ConfigError, match=r"at least 2 of the 5 classes in the pool, got 20 of 1:"):
        check(replace(config, {"data.train_list": str(tmp_path / "list.txt"), "budget": 5, "split.seed_set_size": 5}))


def test_one_class_is_nothing_to_learn(tmp_path: Path) -> None:
    """A folder of images in one folder more, for example."""
    folder([Item("", "all", f"{n}.png", item.data) for n, item in enumerate(items())], tmp_path / "images")
    config = replace(CONFIG, {"root": str(tmp_path / "runs"), "data.root": str(tmp_path / "images"), "budget": 2,
                              "split.val_size": 0, "split.seed_set_size": 2, "train.mode": "finetune",
                              "data.yes": True})  # fmt: skip
    for oracle in (None, Person()):
        with pytest.raises(ConfigError, match=r"expected at least 2 classes, got 1 \(all\)"):
            prepare(config, oracle)
    with pytest.raises(ConfigError, match="got no image"):
        refuse_few_classes(("a", "b"), np.array([], np.int32))


def test_in_segmentation_the_masks_say_which_images_are_labeled(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (4, 8, 8), np.uint8)
    catalog = index_arrays(pixels, None, str(tmp_path / "c"), keys=[f"{n}.png" for n in range(4)])
    (tmp_path / "masks").mkdir()
    for number in (0, 2):
        (tmp_path / "masks" / f"{number}.png").write_bytes(b"mask")
    data = {"task": "segmentation", "split.val_how": "random", "transform.resize": 0}
    config = replace(RunConfig(), {**data, "data.mask_root": str(tmp_path / "masks"), "data.classes": ("a", "b")})
    rows = TASKS["segmentation"].labeled(config, catalog, np.arange(4))
    assert rows.tolist() == [0, 2]
    assert isinstance(TASKS["segmentation"].pool(catalog, rows), Pool)


# ---- what indexing understood and left out


def test_a_run_says_what_was_understood_of_its_source_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = source(tmp_path, labels())
    run(config)
    assert f"{tmp_path / 'f.npz'}, indexed in " in capfd.readouterr().out
    run(config)
    assert "indexed in" not in capfd.readouterr().out
