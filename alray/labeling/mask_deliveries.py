"""Read the masks that people drew: a folder of PNG files, a table that names them, or COCO's polygons and RLE.

A mask is stored in the run's directory under a hash of its bytes, so that a delivery names one content for ever.
"""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image, ImageDraw

from alray.data.catalog import Catalog
from alray.data.fetch import ImageError, fetch_each
from alray.data.mask_check import check_one
from alray.data.masks import Masks
from alray.data.oracle import Status
from alray.labeling.deliveries import Delivered, LabelError, bad, read, text_of
from alray.reasons import why
from alray.store import Store, StoreError, content_hash, is_remote, join, read_bytes

COLUMNS = ("mask", "mask_path", "label")  # of a table, with the place of a mask
BACKGROUND = "background"  # the class of pixels that no polygon covers, if there is a class of this name


@dataclass
class DrawnMasks:
    """Masks of deliveries. contents: encoded PNG by name, for those that `read` met; notes: sentences for people."""

    masks: Masks
    catalog: Catalog
    contents: dict[str, bytes] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def read(self, path: str, keys: Sequence[str]) -> list[Delivered]:
        """Read a delivery. keys: of the images that may be meant, by whose names a folder's masks are called.

        Raises LabelError if it cannot be read as a whole.
        """
        if not is_remote(path) and Path(path).is_dir():
            return self._folder(Path(path), keys)
        if path.lower().endswith(".json"):
            return self._coco(path.rpartition("/")[2], text_of(path))
        base = path.rpartition("/")[0]
        return [self._placed(line, base) for line in read(path, COLUMNS)]

    def _placed(self, line: Delivered, base: str) -> Delivered:
        """An answer of a table with the mask in place of its path, which starts at the folder of the table."""
        if line.status != Status.LABEL or line.problem:
            return line
        place = line.label if is_remote(line.label) or Path(line.label).is_absolute() else join(base, line.label)
        try:
            return self._mask(line, read_bytes(place if base or is_remote(place) else line.label))
        except (OSError, StoreError) as error:
            return replace(line, problem=f"the mask cannot be read: {why(error)}")

    def _mask(self, line: Delivered, data: bytes) -> Delivered:
        name = f"{content_hash(data)}.png"
        self.contents[name] = data
        return replace(line, status=Status.MASK, label=name)

    def _folder(self, folder: Path, keys: Sequence[str]) -> list[Delivered]:
        """One PNG for each image, with the name that a mask of it has in data.mask_root; or the end of that name, if no
        other image has it."""
        named, ends = {self.masks.name(key): key for key in keys}, defaultdict[str, list[str]](list)
        for name in named:
            ends[name.rpartition("/")[2]].append(name)
        found = []
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
            name = path.relative_to(folder).as_posix()
            fitting = [name] if name in named else [one for one in ends[path.name] if one.endswith(f"/{name}")]
            if not path.name.endswith(self.masks.suffix):
                found += bad(str(path), f"expected a mask whose name ends with {self.masks.suffix} (data.mask_suffix)")
            elif len(fitting) > 1:
                found += bad(str(path), f"fits several images, {' and '.join(map(named.get, fitting[:2]))}")  # type: ignore[arg-type]
            else:
                key = named[fitting[0]] if fitting else name
                found.append(self._mask(Delivered(str(path), key, Status.MASK, ""), path.read_bytes()))
        if not found:
            raise LabelError(f"{folder}: expected masks that are named after their images, got no file")
        return found

    def _coco(self, name: str, text: str) -> list[Delivered]:
        """The polygons and RLE of COCO instances, drawn in their order: of two that overlap the later one counts."""
        try:
            tree = json.loads(text)
            images = {image["id"]: image for image in tree["images"]}
            classes = {category["id"]: str(category["name"]) for category in tree["categories"]}
            parts: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
            for annotation in tree["annotations"]:
                parts[annotation["image_id"]].append(annotation)
        except json.JSONDecodeError as error:
            raise LabelError(f"{name}:{error.lineno}: expected JSON, got something else: {error.msg}") from None
        except (KeyError, TypeError) as error:
            raise LabelError(f"{name}: expected COCO's images, annotations and categories: {error!r}") from None
        if empty := len(images.keys() - parts.keys()):
            self.notes.append(f"{name}: {empty:,} images have no annotation, and so no answer")
        rest = BACKGROUND if BACKGROUND in self.masks.classes else f"void ({self.masks.ignore})"
        self.notes.append(f"{name}: pixels in no polygon are {rest}")
        return [line for number, drawn in parts.items() for line in self._drawn(name, number, images, classes, drawn)]

    def _drawn(
        self, name: str, number: Any, images: Mapping[Any, Any], classes: Mapping[Any, str],
        drawn: Sequence[Mapping[str, Any]],
    ) -> Iterator[Delivered]:  # fmt: skip
        where = f"{name}: image {number}"
        if number not in images:
            yield from bad(where, "expected an image_id of this file, got another")
            return
        numbers = {label: at for at, label in enumerate(self.masks.classes)}
        try:
            size = int(images[number]["width"]), int(images[number]["height"])
            canvas = np.full(size[::-1], numbers.get(BACKGROUND, self.masks.ignore), np.uint8)
            for annotation in drawn:
                label = classes.get(annotation["category_id"], f"category {annotation['category_id']}")
                if label not in numbers:
                    raise ValueError(f"{label!r} is not a class; expected one of {', '.join(self.masks.classes)}")
                canvas[rasterised(annotation["segmentation"], size)] = numbers[label]
            line = Delivered(where, str(images[number]["file_name"]), Status.MASK, "")
        except (KeyError, TypeError, ValueError) as error:
            yield from bad(where, f"{error}" if isinstance(error, ValueError) else f"expected COCO's fields: {error!r}")
            return
        out = io.BytesIO()
        Image.fromarray(canvas).save(out, "PNG")
        yield self._mask(line, out.getvalue())

    def problems(self, lines: Sequence[Delivered]) -> dict[str, str]:
        """Why masks cannot be used, by key: as masks of the source are checked (`alray.data.mask_check`)."""
        wanted = {line.key: line.label for line in lines if line.status == Status.MASK}
        references: pa.Table = self.catalog.references(self.catalog.rows_of(list(wanted)))
        images = fetch_each(references, self.catalog.source, self.catalog.image_column)
        found = {}
        for key, image in zip(references["key"].to_pylist(), images, strict=True):
            try:
                check_one(self.masks, key, image, self.contents[wanted[key]])
            except ImageError as error:
                found[key] = str(error).removeprefix(f"{key}: ")
        return found

    def store(self, lines: Sequence[Delivered], masks: Store) -> None:
        """Write the masks that were taken, before the delivery that names them."""
        there = set(masks.names())
        new = {line.label for line in lines if line.status == Status.MASK} - there
        if new:
            masks.write_together({name: self.contents[name] for name in sorted(new)})


def rasterised(shape: Any, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """(h, w) bool: the pixels of a COCO segmentation in an image of size (w, h): a list of polygons, each x, y, x, y,
    ...; or RLE with counts as a list, or, where pycocotools is installed, as text. Raises ValueError."""
    width, height = size
    if isinstance(shape, list):
        canvas = Image.new("1", size)
        for polygon in shape:
            if len(polygon) < 6 or len(polygon) % 2:
                raise ValueError(f"expected a polygon of at least 3 points, x and y each, got {len(polygon)} numbers")
            ImageDraw.Draw(canvas).polygon([float(value) for value in polygon], fill=1)
        return np.asarray(canvas, bool)
    if list(shape["size"]) != [height, width]:
        raise ValueError(f"expected RLE of {height} x {width} pixels, got {shape['size']}")
    if isinstance(shape["counts"], str):
        try:
            from pycocotools import mask as coco
        except ImportError:
            raise ValueError("compressed RLE needs pycocotools: pip install pycocotools") from None
        return np.asarray(coco.decode(shape), bool)
    counts = np.asarray(shape["counts"], np.int64)
    if counts.sum() != width * height:
        raise ValueError(f"expected RLE of {width * height} pixels, got {counts.sum()}")
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T
