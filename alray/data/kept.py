"""The decoded images of a training, kept between its epochs where they take few bytes.

They lie in Ray's object store, which every process of a node maps into its memory. Random crops and flips are applied
to the same pixels in every epoch, so that a training is the same to the last bit with and without. Ray frees them with
the process that had them decoded, and decodes them again where a node is lost.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
from PIL import Image

from alray.data.catalog import Catalog
from alray.data.decode import decode
from alray.data.depth import Range
from alray.data.fetch import fetch, take
from alray.data.sources.source import Source

Rows = npt.NDArray[np.int64]
_SAMPLE = 64  # images that are decoded first, to see how many bytes an image takes
_PART_BYTES = 8 * 2**20


@dataclass(frozen=True)
class KeptImages:
    """rows (n,) ascending; starts: where each part begins among them; parts: for each part, references to the pixels of
    its images one after the other (bytes,) uint8, and to their heights and widths (m, 2)."""

    rows: Rows
    starts: tuple[int, ...]
    parts: tuple[tuple[Any, Any], ...]

    def images(self, rows: Rows) -> list[Image.Image]:
        """The decoded images of some of the rows, in their order."""
        at = np.searchsorted(self.rows, rows)
        part_of = np.searchsorted(self.starts, at, side="right") - 1
        needed = np.unique(part_of).tolist()
        pixels = dict(zip(needed, ray.get([self.parts[part][0] for part in needed]), strict=True))
        shapes = dict(zip(needed, ray.get([self.parts[part][1] for part in needed]), strict=True))
        ends = {part: np.cumsum(bytes_of(shapes[part])).tolist() for part in needed}
        found = []
        for part, place in zip(part_of.tolist(), (at - np.asarray(self.starts)[part_of]).tolist(), strict=True):
            height, width = shapes[part][place].tolist()
            end = ends[part][place]
            found.append(Image.fromarray(pixels[part][end - 3 * height * width : end].reshape(height, width, 3)))
        return found


def pays(epochs: int, workers: int) -> bool:
    """Whether keeping halves the decoding at least: in each epoch a worker reads its part of the images, but each
    worker keeps all of them."""
    return epochs >= 2 * workers


def keep(
    catalog: Catalog, rows: Rows, most_bytes: int, *, num_cpus: float = 1, max_tasks: int = 2, where: Any = None
) -> KeptImages | None:
    """Decode images once; None if they take more than `most_bytes`, which is seen from the first of them.

    rows (n,) ascending. num_cpus: CPUs of one decoding task; max_tasks: the most of them at a time; where: their
    scheduling strategy. Raises the ImageError of a broken image, inside an error of Ray's.
    """
    if not len(rows):
        return None
    references = ray.put(catalog.references(rows))
    strategy = {} if where is None else {"scheduling_strategy": where}
    task = ray.remote(decoded).options(num_cpus=num_cpus, num_returns=2, **strategy)

    def start(first: int, end: int) -> tuple[Any, Any]:
        return tuple(
            task.remote(references, rows[first:end], catalog.source, catalog.image_column, catalog.pixel_range)
        )

    sample = min(_SAMPLE, len(rows))
    starts, parts, running, total = [0], [start(0, sample)], deque[Any](), 0
    total = int(bytes_of(ray.get(parts[0][1])).sum())
    if total * len(rows) > most_bytes * sample:
        return None
    step = max(_SAMPLE, _PART_BYTES * sample // total)
    for first in range(sample, len(rows), step):
        starts.append(first)
        parts.append(start(first, first + step))
        running.append(parts[-1][1])
        if len(running) >= max_tasks:
            total += int(bytes_of(ray.get(running.popleft())).sum())
        if total > most_bytes:
            return None
    total += sum(int(bytes_of(shapes).sum()) for shapes in ray.get(list(running)))
    return KeptImages(rows, tuple(starts), tuple(parts)) if total <= most_bytes else None


def bytes_of(shapes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The bytes (m,) of decoded images with these heights and widths (m, 2)."""
    return 3 * shapes[:, 0] * shapes[:, 1]


def decoded(
    references: pa.Table, rows: Rows, source: Source, image_column: str, pixel_range: Range | None
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The pixels of images one after the other (bytes,) uint8, and their heights and widths (m, 2). references: at
    least of these rows. Raises the ImageError of a broken image."""
    references = take(references, rows)
    encoded, keys = fetch(references, source, image_column), references["key"].to_pylist()
    images = [np.asarray(decode(data, key, pixel_range)) for data, key in zip(encoded, keys, strict=True)]
    return np.concatenate([image.ravel() for image in images]), np.array([image.shape[:2] for image in images])
