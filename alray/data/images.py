"""Ray Data pipelines from catalog rows to pixels: tasks anywhere in the cluster fetch, decode and transform images.

Only the given rows are opened (contract C2). A block of rows becomes one block of images, in the given order. The
result depends on the blocks alone and not on which task was faster.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
import ray.data
from ray.data.extensions import ArrowTensorArray

from alray.data.catalog import Catalog
from alray.data.depth import Range
from alray.data.kept import KeptImages
from alray.data.masks import Masks
from alray.data.pixels import AnyTransform, Pixels
from alray.data.sources.source import Source
from alray.reasons import ours

ROW, EPOCH, IMAGE, MASK = "row", "epoch", "image", "mask"
_CAUSES = ("cause", "controller_failure", "_base_exc")  # attributes in which Ray's errors keep the error that they wrap
_RAY_SUFFIX = "\nFailed to apply UDF transform"  # Ray adds advice about retries to the message
# These loggers print, with Ray's whole stack, an error that the caller gets as an exception anyway.
_ERROR_LOGGERS = ("ray.data.exceptions", "ray.data._internal.execution.streaming_executor_state")
_PROGRESS_LOGGER = "ray.data._internal.progress"  # it warns that progress bars are off


def image_dataset(
    catalog: Catalog,
    rows: npt.NDArray[np.int64],
    blocks: Sequence[pa.Table],
    transform: AnyTransform,
    *,
    masks: Masks | None = None,
    kept: KeptImages | None = None,
    num_cpus: float = 1,
    max_tasks: int | None = None,
    where: Any = None,
) -> ray.data.Dataset:
    """Images of catalog rows as a Ray dataset: every table of `blocks` becomes one block, in order.

    rows: all rows that may occur in the blocks; their references are put into the object store once. blocks: tables
    with a column row, optionally a column epoch (for the transform's randomness, else 0), and other columns, which are
    kept. A column image is added: (m, size, size, 3) uint8 or, with `Views`, (m, 2, size, size, 3). With masks a column
    mask is added: (m, size, size) uint8 with a `PairTransform`, else the encoded bytes. kept: the decoded images of at
    least these rows, which are then not read again. num_cpus: CPUs of one task; max_tasks: the most tasks at a time,
    None for no limit; where: the scheduling strategy of tasks in a reservation. A
    broken image stops the dataset: `first_cause` finds the ImageError inside the error that Ray raises.
    """
    _settle_ray_data()
    references = ray.put(catalog.references(np.unique(rows)))
    load = _Load(references, catalog.source, catalog.image_column, catalog.pixel_range, transform, masks, kept)
    reserved = {"num_cpus": num_cpus, "scheduling_strategy": where}
    # Not `from_arrow`: it starts a task for every table to ask for its schema.
    with warnings.catch_warnings():
        # Ray 2.64 removes arguments of tasks. `DataContext.scheduling_strategy`, also deprecated, would have Ray Data
        # believe that there is no object store: a reservation holds no memory of it.
        warnings.filterwarnings("ignore", "`ray_remote_args_fn` is deprecated")
        return ray.data.from_blocks(list(blocks)).map_batches(
            load,
            batch_size=None,
            batch_format="pyarrow",
            # Ray Data divides the CPUs of the cluster, and of each node, among all datasets that are read at the time,
            # whoever holds them. A reservation's belong to its tasks: Ray Data is not told of them, but Ray is.
            num_cpus=num_cpus if where is None else 0,
            ray_remote_args_fn=None if where is None else lambda: dict(reserved),
            compute=ray.data.TaskPoolStrategy(size=min(max_tasks, len(blocks)) if max_tasks else None),
        )


def _settle_ray_data() -> None:
    """Set Ray Data to keep the order and the size of blocks, to raise original errors, and to print warnings only."""
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.target_max_block_size = None  # blocks are never split
    context.raise_original_map_exception = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    for name in _ERROR_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger(_PROGRESS_LOGGER).setLevel(logging.ERROR)


@dataclass(frozen=True)
class _Load:
    """The function that a task applies to its block of rows."""

    references: Any  # an ObjectRef: tasks read the table from their node's object store without a copy
    source: Source
    image_column: str
    pixel_range: Range | None
    transform: AnyTransform
    masks: Masks | None
    kept: KeptImages | None

    def __call__(self, block: pa.Table) -> pa.Table:
        rows = block[ROW].to_numpy()
        epochs = block[EPOCH].to_numpy() if EPOCH in block.column_names else np.zeros(len(rows), np.int64)
        pixels = Pixels(self.source, self.image_column, self.pixel_range, self.transform, self.masks, self.kept)
        images, masks = pixels(ray.get(self.references), rows, epochs)
        block = block.append_column(IMAGE, ArrowTensorArray.from_numpy(images))
        if masks is None:
            return block
        if isinstance(masks, list):
            return block.append_column(MASK, pa.array(masks, pa.binary()))
        return block.append_column(MASK, ArrowTensorArray.from_numpy(masks))


def first_cause(error: BaseException) -> BaseException:
    """The alray error (such as ImageError) inside an error that Ray Data or Ray Train raised; the error itself if there
    is none."""
    waiting: list[Any] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop()
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        if ours(one):
            one.args = (str(one).partition(_RAY_SUFFIX)[0],)
            return one
        seen.add(id(one))
        waiting += [one.__context__, one.__cause__, *(getattr(one, name, None) for name in _CAUSES)]
        waiting += dict(getattr(one, "worker_failures", {})).values()
    return error


def raise_first_cause(error: BaseException) -> NoReturn:
    """Raise the alray error inside an error of Ray, without Ray's stack; raise the error itself if there is none."""
    cause = first_cause(error)
    if cause is error:
        raise error
    raise cause.with_traceback(None) from None
