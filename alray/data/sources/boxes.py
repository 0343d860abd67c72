"""Folders of images with boxes: COCO and YOLO.

alray learns one class per image. An image with boxes has several categories, so it is indexed without a label. Only
where every image has boxes of exactly one category, that is its class. The boxes stay in their files: a catalog has no
copy, and its notes name the files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from alray.data.sources.layout import Layout
from alray.data.sources.scan import CatalogError, amount, file_name
from alray.reasons import first_of, why
from alray.store import read_bytes

_WHAT = (
    "The images have several categories each, so they are indexed without labels; where each has boxes of one "
    "category, that is its class. The boxes stay in their files"
)
LAYOUTS = {
    "COCO": f"recognised by annotations/instances_*.json or _annotations.coco.json beside the images. {_WHAT}",
    "YOLO": f"recognised by a .yaml file with names (or classes.txt) and a .txt of boxes per image. {_WHAT}",
}
_COCO = r"(?i)(^|/)(annotations/)?(instances_[^/]+|_annotations\.coco)\.json$"
_YOLO = r"(?i)(^|/)([^/]+\.ya?ml|classes\.txt)$"
_THREADS = 16  # a file of boxes is one small read


@dataclass
class _Boxes:
    """What the files say. categories: their names; of: the categories of each image, by its number among the images of
    the layout, for all images that the files list; boxes: their number; files: the names of the files."""

    what: str
    categories: Sequence[str]
    of: dict[int, set[str]] = field(default_factory=dict)
    boxes: int = 0
    files: str = ""


def are_boxes(names: pa.ChunkedArray) -> pa.ChunkedArray:
    """Which names are those of files that `with_boxes` may read, as an array of bool."""
    yolo = pc.match_substring_regex(names, _YOLO)
    texts = pc.and_(pc.match_substring_regex(names, r"(?i)\.txt$"), pc.any(yolo))
    return pc.or_(pc.or_(pc.match_substring_regex(names, _COCO), yolo), texts)


def with_boxes(layout: Layout, names: Sequence[str], files: pa.Table, labels: bool) -> Layout:
    """The layout with what files of boxes say, if there are any. names, files, labels: as in `published.with_lists`.
    Raises CatalogError for a file that cannot be read."""
    found = _coco(names, files) or _yolo(names, files)
    if found is None:
        return layout
    several = sum(len(one) != 1 for one in found.of.values())
    categories = amount(len(found.categories), "category", "categories")
    told = [
        f"{found.what}: {found.files}: {amount(found.boxes, 'box', 'boxes')} of {categories} "
        f"({first_of(found.categories)}) on {sum(map(bool, found.of.values())):,} of {amount(len(names), 'image')}. "
        "The boxes stay in these files; the catalog has no copy of them"
    ]
    if labels and layout.label.null_count == len(layout.label):
        if several:
            told.append(
                f"this is a set with boxes: {several:,} of {len(found.of):,} annotated images do not have exactly one "
                "category, and alray learns one class per image, so the images are indexed without labels"
            )
        else:
            told.append("every annotated image has boxes of exactly one category, which is its class")
            text = [next(iter(found.of[row])) if row in found.of else None for row in range(len(names))]
            layout = replace(layout, label=pa.array(text, pa.string()))
    return replace(layout, notes=(*layout.notes, *told))


def _coco(names: Sequence[str], files: pa.Table) -> _Boxes | None:
    rows = files.filter(pc.match_substring_regex(files["name"], _COCO)).to_pylist()
    if not rows:
        return None
    by_base: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        by_base.setdefault(file_name(name), []).append(number)
    found = _Boxes("COCO", [], files=first_of([row["name"] for row in rows]))
    for row in rows:
        _add_coco(found, row, names, by_base)
    return found


def _add_coco(found: _Boxes, row: dict[str, Any], names: Sequence[str], by_base: dict[str, list[int]]) -> None:
    try:
        content = json.loads(read_bytes(row["uri"]))
        category = {one["id"]: str(one["name"]) for one in content["categories"]}
        images = {one["id"]: str(one["file_name"]) for one in content["images"]}
        boxes = [(one["image_id"], category[one["category_id"]]) for one in content["annotations"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CatalogError(
            f"{row['uri']}: expected COCO's images, annotations and categories, got something else "
            f"({type(error).__name__}: {why(error)})"
        ) from error
    found.categories = list(dict.fromkeys([*found.categories, *category.values()]))
    folder, _, base = row["name"].rpartition("/")
    split = base.partition(".")[0].removeprefix("instances_")
    at = {one: _image(text, split, folder, names, by_base) for one, text in images.items()}
    for number in at.values():
        if number is not None:
            found.of.setdefault(number, set())
    for one, text in boxes:
        if (number := at.get(one)) is not None:
            found.of[number].add(text)
            found.boxes += 1


def _image(text: str, split: str, folder: str, names: Sequence[str], by_base: dict[str, list[int]]) -> int | None:
    """The number of the image that COCO calls so: of several, the one in the folder of the split or of the list."""
    there = [number for number in by_base.get(file_name(text), ()) if f"/{names[number]}".endswith(f"/{text}")]
    near = [
        number for number in there
        if split in names[number].split("/") or names[number].rpartition("/")[0] == folder
    ]  # fmt: skip
    chosen = near or there
    return chosen[0] if len(chosen) == 1 else None


def _yolo(names: Sequence[str], files: pa.Table) -> _Boxes | None:
    tops = files.filter(pc.match_substring_regex(files["name"], _YOLO)).to_pylist()
    uris = dict(zip(files["name"].to_pylist(), files["uri"].to_pylist(), strict=True)) if tops else {}
    at = {number: uris[text] for number, name in enumerate(names) for text in _texts(name) if text in uris}
    for top in tops if at else ():
        categories = _yolo_names(top["uri"])
        if categories:
            found = _Boxes("YOLO", list(categories.values()), files=f"{top['name']} and {amount(len(at), '.txt file')}")
            with ThreadPoolExecutor(_THREADS) as pool:
                texts = list(pool.map(read_bytes, at.values()))
            for number, text in zip(at, texts, strict=True):
                ids = [line.split()[0] for line in text.decode(errors="replace").splitlines() if line.strip()]
                found.of[number] = {categories.get(one, one) for one in ids}
                found.boxes += len(ids)
            return found
    return None


def _texts(name: str) -> Iterable[str]:
    """Where the boxes of an image may be: in labels instead of images, or beside it."""
    stem = name.rpartition(".")[0]
    swapped = re.sub(r"(^|.*/)images(/)", r"\1labels\2", stem, count=1)
    return (f"{swapped}.txt", *([f"{stem}.txt"] if swapped != stem else []))


def _yolo_names(uri: str) -> dict[str, str]:
    """The category by its number as text; empty if the file has no names."""
    try:
        text = read_bytes(uri).decode()
        if uri.lower().endswith(".txt"):
            return {str(number): name for number, name in enumerate(text.split("\n")) if name.strip()}
        names = yaml.safe_load(text)["names"]
        pairs = names.items() if isinstance(names, dict) else enumerate(names)
        return {str(number): str(name) for number, name in pairs}
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        return {}
