"""Images with the same bytes are counted: copies, test images that are also trained on, and contradicting labels."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from image_sources import encoded

from alray.data.catalog import index
from alray.data.copies import copy_notes


def image(number: int) -> bytes:
    return encoded(np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8))


def folder(place: Path, images: dict[str, int]) -> str:
    for name, number in images.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(image(number))
    return str(place)


IMAGES = {
    "train/a/0.png": 0, "train/a/1.png": 1, "train/b/2.png": 2, "train/b/3.png": 0, "train/b/4.png": 4,
    "test/a/5.png": 1, "test/b/6.png": 6, "test/b/7.png": 4, "test/b/8.png": 4,
}  # fmt: skip


def test_copies_are_told_with_counts(tmp_path: Path) -> None:
    catalog = index(folder(tmp_path / "images", IMAGES), str(tmp_path / "catalog"))
    assert len(catalog) == 9
    told = [note for note in catalog.notes() if "same bytes" in note]
    assert told == [
        "7 images with the same bytes as another one (3 sets of equal ones), as test/a/5.png and train/a/1.png",
        "3 test images with the same bytes as one that is not in the test split",
        "2 images with the same bytes as one of another label, as train/a/0.png and train/b/3.png",
    ]


def test_where_no_image_is_read_nothing_is_told(tmp_path: Path) -> None:
    catalog = index(folder(tmp_path / "images", IMAGES), str(tmp_path / "catalog"), check="none")
    assert not any("same bytes" in note for note in catalog.notes())


def test_different_images_of_one_size_are_no_copies(tmp_path: Path) -> None:
    names = {f"{'ab'[number % 2]}/{number}.png": number for number in range(20)}
    catalog = index(folder(tmp_path / "images", names), str(tmp_path / "catalog"))
    assert not any("same bytes" in note for note in catalog.notes())


@pytest.mark.parametrize("seed", range(20))
def test_counts_are_those_of_comparing_all_with_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(0, 40))
    columns = {
        "key": [f"{row:03d}" for row in range(n)], "size": rng.integers(1, 3, n).tolist(),
        "label": [None if value < 0 else value for value in rng.integers(-1, 3, n).tolist()],
        "split": rng.choice(["train", "test", "validation"], n).tolist(),
        "hash": [None if value < 0 else value for value in rng.integers(-4, 25, n).tolist()],
    }  # fmt: skip
    types = {"key": pa.string(), "size": pa.int64(), "label": pa.int32(), "split": pa.string(), "hash": pa.int64()}
    images = pa.table({name: pa.array(values, types[name]) for name, values in columns.items()})
    groups = defaultdict(list)
    for row in images.to_pylist():
        if row["hash"] is not None:
            groups[row["hash"], row["size"]].append(row)
    several = [rows for rows in groups.values() if len(rows) > 1]
    expected = []
    if several:
        expected.append(sum(map(len, several)))
        leaked = [rows for rows in several if len({row["split"] == "test" for row in rows}) == 2]
        unequal = [rows for rows in several if len({row["label"] for row in rows} - {None}) > 1]
        expected += [sum(row["split"] == "test" for rows in leaked for row in rows)] if leaked else []
        expected += [sum(row["label"] is not None for rows in unequal for row in rows)] if unequal else []
    notes = copy_notes(images, ("a", "b", "c"))
    assert [int(note.split()[0]) for note in notes] == expected
    if "of another label" in "".join(notes):
        one, other = (images.slice(int(key), 1).to_pylist()[0] for key in notes[-1].split(", as ")[1].split(" and "))
        assert (one["hash"], one["size"]) == (other["hash"], other["size"])
        assert one["label"] != other["label"] and None not in (one["label"], other["label"])
