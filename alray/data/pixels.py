"""From references to pixels, in the process that asks: fetch, decode, transform."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from alray.data.augment import Transform
from alray.data.decode import decode
from alray.data.depth import Range
from alray.data.fetch import fetch, take
from alray.data.masks import Masks, check_size
from alray.data.paired import PairTransform
from alray.data.sources.source import Source
from alray.data.views import Views

if TYPE_CHECKING:
    from alray.data.kept import KeptImages  # it imports Ray

AnyTransform = Transform | Views | PairTransform
Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Pixels:
    """How images of one catalog become arrays."""

    source: Source
    image_column: str
    pixel_range: Range | None
    transform: AnyTransform
    masks: Masks | None
    kept: KeptImages | None = None  # decoded before; None: every image is read and decoded

    def __call__(
        self, references: pa.Table, rows: npt.NDArray[np.int64], epochs: npt.NDArray[np.integer]
    ) -> tuple[Images, Images | list[bytes] | None]:
        """The images of some rows, (m, *transform.shape), in their order, each opened once, and their masks.

        references: at least of these rows; epochs (m,): for the transform's randomness. The masks are (m, size, size)
        with a `PairTransform`, else their encoded bytes; None without masks. Raises ImageError.
        """
        distinct, position = np.unique(rows, return_inverse=True)
        references = take(references, distinct)
        kept = None if self.kept is None else self.kept.images(distinct)
        encoded = [] if kept is not None else fetch(references, self.source, self.image_column)
        images = np.empty((len(rows), *self.transform.shape), np.uint8)
        keys = references["key"].to_pylist()
        masks = self.masks.fetch(references) if self.masks is not None else None
        paired = masks is not None and isinstance(self.transform, PairTransform)
        labels = np.empty((len(rows), *self.transform.shape[:2]) if paired else 0, np.uint8)
        for i in np.argsort(position, kind="stable").tolist():
            key, row, epoch = keys[position[i]], int(rows[i]), int(epochs[i])
            image = decode(encoded[position[i]], key, self.pixel_range) if kept is None else kept[position[i]]
            if isinstance(self.transform, PairTransform):
                assert self.masks is not None
                assert masks is not None
                mask = self.masks.decode(masks[position[i]], key)
                check_size(mask, image.size, key)
                images[i], labels[i] = self.transform.pair(image, mask, row, epoch)
            else:
                images[i] = self.transform(image, row, epoch)
        if paired:
            return images, labels
        return images, None if masks is None else [masks[i] for i in position]
