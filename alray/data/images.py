"""Ray Data pipelines from catalog rows to pixels: fetch, decode, transform, in tasks anywhere in the cluster.

Only the rows asked for are opened (contract C2). A block of rows becomes one block of images, in the order given, so
what comes out depends on the blocks and not on which task was faster.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
import ray.data
from ray.data.extensions import ArrowTensorArray

from alray.data.augment import Transform
from alray.data.catalog import Catalog
from alray.data.fetch import decode, fetch, take
from alray.data.masks import Masks, check_size
from alray.data.paired import PairTransform
from alray.data.sources.source import Source
from alray.data.views import Views

ROW, EPOCH, IMAGE, MASK = "row", "epoch", "image", "mask"
AnyTransform = Transform | Views | PairTransform
_BLOCK_BYTES = 32 * 2**20
_CAUSES = ("cause", "controller_failure", "_base_exc")  # where Ray's errors keep what they wrap
_RAY_SUFFIX = "\nFailed to apply UDF transform"  # Ray adds advice about retries to the message
# These log, with Ray's whole stack, the error that is then raised to the caller.
_ERROR_LOGGERS = ("ray.data.exceptions", "ray.data._internal.execution.streaming_executor_state")
_PROGRESS_LOGGER = "ray.data._internal.progress"  # warns that there are no progress bars


def block_rows(size: int) -> int:
    """Rows per block, so that a decoded block of size x size images is about 32 MiB; between 16 and 4096."""
    return min(max(_BLOCK_BYTES // (3 * size * size), 16), 4096)


def image_dataset(
    catalog: Catalog,
    rows: npt.NDArray[np.int64],
    blocks: Sequence[pa.Table],
    transform: AnyTransform,
    *,
    masks: Masks | None = None,
    num_cpus: float = 1,
    max_tasks: int | None = None,
) -> ray.data.Dataset:
    """Images of catalog rows as a Ray dataset: every table of `blocks` becomes one block, in order.

    rows: all rows that may occur; their references are put into the object store once. blocks: tables with a column
    row, optionally epoch (for the transform's randomness, else 0), and others, which are passed through; a column
    image, (m, size, size, 3) uint8 or, for views, (m, 2, size, size, 3), is added. masks: adds a column mask, too:
    (m, size, size) uint8 by a `PairTransform`, else the encoded bytes. num_cpus: of a task; max_tasks: how many at a
    time. A broken image stops the dataset: `first_cause` finds the ImageError in what Ray raises.
    """
    _settle_ray_data()
    references = ray.put(catalog.references(np.unique(rows)))
    load = _Load(references, catalog.source, catalog.image_column, transform, masks)
    return ray.data.from_arrow(list(blocks)).map_batches(
        load,
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=num_cpus,
        compute=ray.data.TaskPoolStrategy(size=max_tasks),
    )


def _settle_ray_data() -> None:
    """Blocks in order and whole, errors as they were raised, and no more than warnings on the terminal."""
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.target_max_block_size = None  # a block is what its caller made it: never cut, never joined
    context.raise_original_map_exception = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    for name in _ERROR_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger(_PROGRESS_LOGGER).setLevel(logging.ERROR)


@dataclass(frozen=True)
class _Load:
    """What a task does with its block of rows."""

    references: Any  # an ObjectRef: the table stays in the object store of the node, and is read without a copy
    source: Source
    image_column: str
    transform: AnyTransform
    masks: Masks | None

    def __call__(self, block: pa.Table) -> pa.Table:
        rows = block[ROW].to_numpy()
        epochs = block[EPOCH].to_numpy() if EPOCH in block.column_names else np.zeros(len(rows), np.int64)
        distinct, position = np.unique(rows, return_inverse=True)
        references = take(ray.get(self.references), distinct)
        encoded = fetch(references, self.source, self.image_column)
        images = np.empty((len(rows), *self.transform.shape), np.uint8)
        keys = references["key"].to_pylist()
        masks = self.masks.fetch(references) if self.masks is not None else None
        paired = masks is not None and isinstance(self.transform, PairTransform)
        labels = np.empty((len(rows), *self.transform.shape[:2]) if paired else 0, np.uint8)
        for i in np.argsort(position, kind="stable").tolist():
            key = keys[position[i]]
            image, row, epoch = decode(encoded[position[i]], key), int(rows[i]), int(epochs[i])
            if isinstance(self.transform, PairTransform):
                assert self.masks is not None
                assert masks is not None
                mask = self.masks.decode(masks[position[i]], key)
                check_size(mask, image.size, key)
                images[i], labels[i] = self.transform.pair(image, mask, row, epoch)
            else:
                images[i] = self.transform(image, row, epoch)
        block = block.append_column(IMAGE, ArrowTensorArray.from_numpy(images))
        if paired:
            return block.append_column(MASK, ArrowTensorArray.from_numpy(labels))
        if masks is None:
            return block
        return block.append_column(MASK, pa.array([masks[i] for i in position], pa.binary()))


def first_cause(error: BaseException) -> BaseException:
    """The error of our own (ImageError and the like) inside what Ray Data or Ray Train raised, else the error."""
    waiting: list[Any] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop()
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        if type(one).__module__.startswith("alray."):
            one.args = (str(one).partition(_RAY_SUFFIX)[0],)
            return one
        seen.add(id(one))
        waiting += [one.__context__, one.__cause__, *(getattr(one, name, None) for name in _CAUSES)]
        waiting += dict(getattr(one, "worker_failures", {})).values()
    return error


def raise_first_cause(error: BaseException) -> NoReturn:
    """Raise the error of our own inside what Ray raised, without Ray's stack above it; anything else as it came."""
    cause = first_cause(error)
    if cause is error:
        raise error
    raise cause.with_traceback(None) from None
