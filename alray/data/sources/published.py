"""Lists that published data sets have beside their images: classes of a flat test folder (GTSRB, Tiny ImageNet) and
splits (PASCAL VOC)."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from alray.data.sources import boxes
from alray.data.sources.layout import Layout
from alray.data.sources.scan import file_name, is_image_name
from alray.store import read_bytes


@dataclass(frozen=True)
class _ClassList:
    """How a list of classes is written. image, label: names of the columns, or their positions without a header."""

    about: str  # for `alray formats`
    delimiter: str
    image: str | int
    label: str | int
    stems: bool = False  # whether images are named without their extension
    first_word: bool = False  # whether the class is the first word of its field


# By the list's name in lower case.
_CLASS_LISTS = {
    "val_annotations.txt": _ClassList("Tiny ImageNet", "\t", 0, 1),
    "gt-final_test.csv": _ClassList("GTSRB", ";", "Filename", "ClassId"),
    "test.csv": _ClassList("GTSRB of Kaggle", ",", "Path", "ClassId"),
    "loc_val_solution.csv": _ClassList(
        "ImageNet of Kaggle", ",", "ImageId", "PredictionString", stems=True, first_word=True
    ),
}
_CLASS_LIST = f"(?i){'|'.join(rf'(^|/){re.escape(name)}$' for name in _CLASS_LISTS)}"
# Of the lists of single classes (cat_train.txt) each names all images, so they are used where there are no others.
_VOC_LIST = r"(^|/)ImageSets/(Main|Segmentation)/(\w+_)?(train|val|trainval|test)(\.txt)?$"
LAYOUTS = {
    form.about: f"a flat folder of test images gets its classes from {name}" for name, form in _CLASS_LISTS.items()
} | {
    **boxes.LAYOUTS,
    "PASCAL VOC": "recognised by ImageSets/Main or ImageSets/Segmentation beside JPEGImages. Their lists are the "
    "splits. The images have several classes each, so they are indexed without labels (--label-column ''), for "
    "segmentation with those of the lists of Segmentation",
}


def are_lists(names: pa.ChunkedArray) -> pa.ChunkedArray:
    """Which names are those of lists that `with_lists` may read, as an array of bool."""
    lists = pc.or_(pc.match_substring_regex(names, _VOC_LIST), pc.match_substring_regex(names, _CLASS_LIST))
    return pc.or_(lists, boxes.are_boxes(names))


def with_lists(layout: Layout, names: pa.ChunkedArray, files: pa.Table, labels: bool) -> Layout:
    """The layout with what the lists among the files say.

    names (k,): the images that the layout keeps; labels: whether the images may have classes.
    """
    voc = files.filter(pc.match_substring_regex(files["name"], _VOC_LIST)).to_pylist()
    if voc and pc.match_substring_regex(names, "(^|/)JPEGImages/").to_pylist()[:1] == [True]:
        return _with_voc_splits(layout, names.to_pylist(), voc, labels)
    layout = boxes.with_boxes(layout, names.to_pylist(), files, labels)
    return _with_listed_classes(layout, names, files) if labels else layout


def _with_listed_classes(layout: Layout, names: pa.ChunkedArray, files: pa.Table) -> Layout:
    counts = pa.table({"split": layout.split, "label": layout.label}).group_by("split").aggregate([("label", "count")])
    flat = set(counts.filter(pc.equal(counts["label_count"], 0))["split"].to_pylist()) - {None}
    if not flat or len(flat) == len(counts):
        return layout
    known = pc.unique(layout.label).drop_null().to_pylist()
    labels, notes = None, []
    for name in sorted(flat):
        rows = np.flatnonzero(pc.fill_null(pc.equal(layout.split, name), False).to_numpy(zero_copy_only=False)).tolist()
        own = names.take(pa.array(rows)).to_pylist()
        folder = own[0].rpartition("/")[0]
        for place, uri, form in _class_lists(files, folder):
            listed = _read_classes(uri, form, known)
            found = {
                row: text for row, image in zip(rows, own, strict=True) if (text := listed.get(_called(image, form)))
            }
            if found:
                labels = labels or layout.label.to_pylist()
                for row, text in found.items():
                    labels[row] = text
                notes.append(f"{name}: the classes of {len(found):,} of {len(rows):,} images are those of {place}")
                break
    return replace(layout, label=pa.array(labels, pa.string()), notes=(*layout.notes, *notes)) if labels else layout


def _class_lists(files: pa.Table, folder: str) -> Iterator[tuple[str, str, _ClassList]]:
    """Names, URIs and forms of the known lists in the folder or above it."""
    above = {"/".join(folder.split("/")[:depth]) for depth in range(folder.count("/") + 2)}
    for row in files.filter(pc.match_substring_regex(files["name"], _CLASS_LIST)).to_pylist():
        place, _, base = row["name"].rpartition("/")
        if place in above:
            yield row["name"], row["uri"], _CLASS_LISTS[base.lower()]


def _read_classes(uri: str, form: _ClassList, known: Sequence[str]) -> dict[str, str]:
    """The class of each file name in a list; empty where the list has no classes. A number is the known class with the
    same number: 16 is 00016."""
    by_number = {int(name): name for name in known if name.isdecimal()}
    text = io.StringIO(read_bytes(uri).decode(errors="replace"))
    if isinstance(form.image, int):
        rows = [(row[form.image], row[int(form.label)]) for row in csv.reader(text, delimiter=form.delimiter) if row]
    else:
        table = csv.DictReader(text, delimiter=form.delimiter)
        if not {form.image, form.label} <= set(table.fieldnames or ()):
            return {}
        rows = [(row[form.image], row[str(form.label)]) for row in table]
    if form.first_word:
        rows = [(name, label.split()[0]) for name, label in rows if label.split()]
    return {file_name(name): by_number.get(int(label), label) if label.isdecimal() else label for name, label in rows}


def _called(image: str, form: _ClassList) -> str:
    """How a list of this form calls an image."""
    return file_name(image).rpartition(".")[0] if form.stems else file_name(image)


def _with_voc_splits(layout: Layout, names: list[str], lists: list[dict[str, Any]], labels: bool) -> Layout:
    """The layout of PASCAL VOC: images of no class, with the splits of ImageSets. Without labels, and where there are
    lists for segmentation, only the images of these have masks."""
    tasks = {row["name"].split("/")[-2] for row in lists}
    task = "Segmentation" if "Segmentation" in tasks and (not labels or len(tasks) == 1) else "Main"
    split_of = _voc_splits([row for row in lists if row["name"].split("/")[-2] == task])
    split = [split_of.get(file_name(name).rpartition(".")[0]) for name in names]
    listed = np.array([text is not None for text in split], bool)
    keep = layout.keep.copy()
    keep[np.flatnonzero(keep)[~listed]] = False
    notes = [
        f"the splits are those of ImageSets/{task}, which names {listed.sum():,} of {len(names):,} images; the others "
        "are left out"
    ]
    doubts = [
        "this is PASCAL VOC, whose images have several classes each, but here an image has one: no image would have a "
        "label. Pass --label-column '' for images without labels, or index a CSV file with the columns path, label "
        "and split"
    ]
    kept = pa.array(listed)
    return replace(
        layout,
        keep=keep,
        split=pa.array(split, pa.string()).filter(kept),
        label=layout.label.filter(kept),
        notes=(*layout.notes, *notes),
        doubts=(*layout.doubts, *(doubts if labels else [])),
    )


def _voc_splits(lists: list[dict[str, Any]]) -> dict[str, str]:
    """The split of each image, by its name without an extension. A list has an ending or none, and so have its lines.
    trainval counts for images that neither train nor val names."""
    uris: dict[str, list[str]] = {}
    for row in lists:
        uris.setdefault(file_name(row["name"]).removesuffix(".txt"), []).append(row["uri"])
    if not uris.keys() <= {name for name in uris if "_" in name}:
        uris = {name: found for name, found in uris.items() if "_" not in name}
    found: dict[str, str] = {}
    for name in sorted(uris, key=lambda name: name.endswith("trainval")):
        for uri in uris[name]:
            for line in read_bytes(uri).decode().splitlines():
                if line.strip():
                    image = file_name(line.split()[0])
                    stem = image.rpartition(".")[0] if is_image_name(image) else image
                    found.setdefault(stem, name.rpartition("_")[2])
    return found
