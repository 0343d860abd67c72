"""Read the masks that people drew: a folder of PNG files, a table that names them, COCO's polygons and RLE, or the
annotations of Label Studio.

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
from alray.labeling.deliveries import Delivered, LabelError, bad, of_task, read, text_of
from alray.labeling.label_studio.regions import mask_of
from alray.reasons import why
from alray.spelling import apart, by_end, composed
from alray.store import Store, StoreError, content_hash, is_remote, join, read_bytes

COLUMNS = ("mask", "mask_path", "label")  # of a table, with the place of a mask
BACKGROUND = "background"  # the class of pixels that nothing covers, if there is a class of this name


@dataclass
class DrawnMasks:
    """Masks of deliveries. contents: encoded PNG by name, for those that were read; notes: sentences for people."""

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
            return self._json(path.rpartition("/")[2], text_of(path))
        base = path.rpartition("/")[0]
        return [self._placed(line, base) for line in read(path, COLUMNS)]

    def _placed(self, line: Delivered, base: str) -> Delivered:
        """An answer of a table with the mask in place of its path, which starts at the folder of the table."""
        if line.status != Status.LABEL or line.problem:
            return line
        place = line.label if is_remote(line.label) or Path(line.label).is_absolute() else join(base, line.label)
        try:
            return self.drawn(line, read_bytes(place if base or is_remote(place) else line.label))
        except (OSError, StoreError) as error:
            return replace(line, problem=f"the mask cannot be read: {why(error)}")

    def of_task(self, name: str, at: int, task: Mapping[str, Any]) -> Iterator[Delivered]:
        """The answers of one task of Label Studio. Where nothing is drawn a mask has the class `background`, else void;
        an annotation in which nothing at all is drawn is no answer."""
        note = f"{name}: pixels in no region are {self._rest_name}"
        self.notes += [note] * (note not in self.notes)
        return of_task(name, at, task, self._annotated)

    def _annotated(self, empty: Delivered, annotation: Mapping[str, Any]) -> list[Delivered]:
        try:
            return [self._encoded(empty, mask_of(annotation, self.masks.classes, self._rest))]
        except LabelError as error:
            return bad(empty.where, str(error))

    @property
    def _rest(self) -> int:
        """The number of a pixel that nothing covers: that of BACKGROUND, or of void if no class has this name."""
        classes = self.masks.classes
        return classes.index(BACKGROUND) if BACKGROUND in classes else self.masks.ignore

    @property
    def _rest_name(self) -> str:
        return BACKGROUND if self._rest != self.masks.ignore else f"void ({self.masks.ignore})"

    def _encoded(self, line: Delivered, numbers: npt.NDArray[np.uint8]) -> Delivered:
        out = io.BytesIO()
        Image.fromarray(numbers).save(out, "PNG")
        return self.drawn(line, out.getvalue())

    def drawn(self, line: Delivered, data: bytes) -> Delivered:
        """The answer that has this PNG as its mask."""
        name = f"{content_hash(data)}.png"
        self.contents[name] = data
        return replace(line, status=Status.MASK, label=name)

    def _folder(self, folder: Path, keys: Sequence[str]) -> list[Delivered]:
        """One PNG for each image, with the name that a mask of it has in data.mask_root; or the end of that name, if no
        other image has it. Accents may be in the other Unicode form."""
        named = {self.masks.name(key): key for key in keys}
        named_so, found = by_end(named), list[Delivered]()
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
            name = path.relative_to(folder).as_posix()
            longer = [one for one in named_so(name) if one.count("/") >= name.count("/")]
            fitting = [name] if name in named else longer
            if not composed(name).endswith(composed(self.masks.suffix)):
                found += bad(str(path), f"expected a mask whose name ends with {self.masks.suffix} (data.mask_suffix)")
            elif len(fitting) > 1:
                some = " and ".join(apart([named[one] for one in fitting[:2]]))
                found += bad(str(path), f"fits several images, {some}")
            else:
                key = named[fitting[0]] if fitting else name
                found.append(self.drawn(Delivered(str(path), key, Status.MASK, ""), path.read_bytes()))
        if not found:
            raise LabelError(f"{folder}: expected masks that are named after their images, got no file")
        return found

    def _json(self, name: str, text: str) -> list[Delivered]:
        try:
            tree = json.loads(text)
        except json.JSONDecodeError as error:
            raise LabelError(f"{name}:{error.lineno}: expected JSON, got something else: {error.msg}") from None
        if isinstance(tree, list) and all(isinstance(task, dict) for task in tree):  # an export of Label Studio
            return [line for at, task in enumerate(tree, 1) for line in self.of_task(name, at, task)]
        self.notes.append(f"{name}: pixels in no polygon are {self._rest_name}")
        return self._coco(name, tree)

    def _coco(self, name: str, tree: Any) -> list[Delivered]:
        """The polygons and RLE of COCO instances, drawn in their order: of two that overlap the later one counts."""
        try:
            images = {image["id"]: image for image in tree["images"]}
            classes = {category["id"]: str(category["name"]) for category in tree["categories"]}
            parts: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
            for annotation in tree["annotations"]:
                parts[annotation["image_id"]].append(annotation)
        except (KeyError, TypeError) as error:
            raise LabelError(f"{name}: expected COCO's images, annotations and categories: {error!r}") from None
        if empty := len(images.keys() - parts.keys()):
            self.notes.append(f"{name}: {empty:,} images have no annotation, and so no answer")
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
            canvas = np.full(size[::-1], self._rest, np.uint8)
            for annotation in drawn:
                label = classes.get(annotation["category_id"], f"category {annotation['category_id']}")
                if label not in numbers:
                    raise ValueError(f"{label!r} is not a class; expected one of {', '.join(self.masks.classes)}")
                canvas[rasterised(annotation["segmentation"], size)] = numbers[label]
            line = Delivered(where, str(images[number]["file_name"]), Status.MASK, "")
        except (KeyError, TypeError, ValueError) as error:
            yield from bad(where, f"{error}" if isinstance(error, ValueError) else f"expected COCO's fields: {error!r}")
            return
        yield self._encoded(line, canvas)

    def problems(self, lines: Sequence[Delivered]) -> dict[Delivered, str]:
        """Why masks cannot be used, by answer: as masks of the source are checked (`alray.data.mask_check`)."""
        drawn = [line for line in lines if line.status == Status.MASK]
        keys = list(dict.fromkeys(line.key for line in drawn))
        references: pa.Table = self.catalog.references(self.catalog.rows_of(keys))
        fetched = fetch_each(references, self.catalog.source, self.catalog.image_column)
        images = dict(zip(references["key"].to_pylist(), fetched, strict=True))
        found = {}
        for line in drawn:
            try:
                check_one(self.masks, line.key, images[line.key], self.contents[line.label])
            except ImageError as error:
                found[line] = str(error).removeprefix(f"{line.key}: ")
        return found

    def together(self, lines: Sequence[Delivered]) -> list[Delivered]:
        """Give all who drew a mask of one image, in its size, the same mask: a pixel has the number that most of them
        gave it, and is void where two numbers are equally frequent."""
        drawn = [line for line in lines if line.status == Status.MASK]
        if len(drawn) < 2:
            return list(lines)
        said = np.stack([np.asarray(Image.open(io.BytesIO(self.contents[line.label]))) for line in drawn])
        numbers = np.unique(said)
        votes = np.stack([(said == number).sum(axis=0) for number in numbers])
        tied = (votes == votes.max(axis=0)).sum(axis=0) > 1
        most = np.where(tied, self.masks.ignore, numbers[votes.argmax(axis=0)]).astype(np.uint8)
        name = self._encoded(drawn[0], most).label
        return [replace(line, label=name) if line.status == Status.MASK else line for line in lines]

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
