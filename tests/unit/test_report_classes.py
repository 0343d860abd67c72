"""Accuracy and labels of single classes: which are shown, what the numbers are, and that names are text."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from test_report import metrics_of, rewrite, write_run

from alray.report import report
from alray.report.classes import classes_section
from alray.report.layout import Section
from alray.report.page import grid
from alray.report.panel import panel
from alray.report.runs import load_all
from alray.store import Store
from alray.train.evaluate import classification_metrics


def write(
    folder: Path, strategy: str, seed: int, accuracy: list[float | None], counts: list[int], **test: object
) -> str:
    """A run whose last round has these accuracies and labels per class."""
    uri = write_run(folder, strategy, seed, rounds=2)
    names = [f"class{number}" for number in range(len(accuracy))]
    store = Store(uri)
    store.write_json("run.json", {**store.read_json("run.json"), "classes": names})
    metrics = metrics_of(1, strategy, seed)
    rewrite(uri, 1, test={**metrics["test"], "per_class_accuracy": accuracy, **test},
            labeled_set={**metrics["labeled_set"], "counts": counts})  # fmt: skip
    return uri


def section(folder: Path) -> Section:
    return classes_section(panel(load_all([str(folder)])))


def test_every_class_of_few_is_shown_with_its_images_and_labels(tmp_path: Path) -> None:
    write(tmp_path, "random", 0, [0.9, 0.25, None], [5, 6, 0], per_class_count=[20, 4, 0])
    write(tmp_path, "base", 0, [0.7, 0.75, None], [3, 8, 0], per_class_count=[20, 4, 0])
    part = section(tmp_path)
    assert part.title == "Accuracy per class"
    assert part.notes == (
        "Accuracy on the test set and labeled images of each class, seed set included, after the last round.",
        "1 of 3 classes have no test image: they are not in the tables.",
    )
    (table,) = part.tables
    assert table.title == "All classes, lowest accuracy first"
    assert table.head == ("setting", "class", "test images", "random %", "random labels", "base %", "base labels")
    assert [row[1:] for row in table.rows] == [
        ("class1", "4", "25.0", "6", "75.0", "8"), ("class0", "20", "90.0", "5", "70.0", "3"),
    ]  # fmt: skip
    shown = grid(table)
    assert shown.head[0].text == "class"  # one setting needs no column
    assert [(cell.kind, cell.share) for cell in shown.rows[0]][2:4] == [("bar", 25), ("", 0)]


def test_of_many_classes_the_worst_and_the_best_ten_are_shown(tmp_path: Path) -> None:
    """Of the classes that are never recognised, those with more test images, which say more."""
    accuracy: list[float | None] = [0.0] * 15 + [number / 200 for number in range(1, 86)]
    write(tmp_path, "random", 0, accuracy, list(range(100)), per_class_count=[*range(1, 16), *[3] * 85])
    low, high = section(tmp_path).tables
    assert (low.title, high.title) == (
        "The 10 classes with the lowest accuracy", "The 10 classes with the highest accuracy",
    )  # fmt: skip
    assert [row[1] for row in low.rows] == [f"class{number}" for number in range(14, 4, -1)]
    assert [row[1] for row in high.rows] == [f"class{number}" for number in range(99, 89, -1)]
    assert high.rows[0][2:] == ("3", "42.5", "99")


def test_several_seeds_are_means(tmp_path: Path) -> None:
    """A class that only one seed met in its test set has that seed's accuracy."""
    write(tmp_path, "random", 0, [0.5, None], [3, 120])
    write(tmp_path, "random", 1, [0.7, 0.2], [4, 121])
    part = section(tmp_path)
    assert part.notes[0].endswith("after the last round; means over seeds.")
    assert [row[1:] for row in part.tables[0].rows] == [("class1", "20.0", "120"), ("class0", "60.0", "3.5")]


def test_without_a_test_set_labels_are_shown_alone(tmp_path: Path) -> None:
    for strategy, counts in (("random", [5, 1]), ("base", [2, 3])):
        rewrite(write(tmp_path, strategy, 0, [0.5, 0.5], counts), 1, test=None)
    part = section(tmp_path)
    assert (part.title, part.notes) == (
        "Labels per class", ("Labeled images of each class, seed set included, after the last round.",),
    )  # fmt: skip
    assert part.tables[0].head == ("setting", "class", "random labels", "base labels")
    assert [row[1:] for row in part.tables[0].rows] == [("class1", "1", "3"), ("class0", "5", "2")]


def test_the_page_shows_names_as_text_and_the_csv_has_the_table(tmp_path: Path) -> None:
    uri = write(tmp_path, "random", 0, [0.5, 0.25], [1, 2])
    store = Store(uri)
    store.write_json("run.json", {**store.read_json("run.json"), "classes": ["<b>x", "=1+1"]})
    report([uri])
    html = Path(uri, "report.html").read_text()
    assert "&lt;b&gt;x" in html and "<b>x" not in html
    assert re.search(r'<td class="bar" style="--share:25%">25.0</td>', html)
    assert Path(uri, "tables", "classes.csv").read_text().splitlines()[1:] == ["all,'=1+1,25.0,2", "all,<b>x,50.0,1"]


@pytest.mark.parametrize("classes", [10, 100_000])
def test_metrics_count_the_test_images_of_each_class(classes: int) -> None:
    labels = np.array([0, 0, 3, 9])
    logits = np.zeros((4, classes), np.float32)
    found = classification_metrics(logits, labels, classes=[str(number) for number in range(classes)])
    assert found["per_class_count"][:10] == [2, 0, 0, 1, 0, 0, 0, 0, 0, 1]
    assert len(found["per_class_count"]) == classes
