"""Write arrays in memory as PNG bytes in Parquet, without loss, so that every node can read them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from alray.data.sources.label_text import numbers_of, tidied, tidy
from alray.data.sources.scan import CatalogError
from alray.reasons import did_you_mean, short, similar, some_classes
from alray.store import Store

_FILE_ROWS = 16384
_GROUP_ROWS = 256  # a row group is the smallest part that can be read; it has about as many rows as a block


def keys_of(
    images: npt.NDArray[np.uint8],
    labels: Sequence[Any] | npt.NDArray[Any] | None,
    keys: Iterable[str] | None,
    test: npt.NDArray[np.bool_] | None,
    classes: Sequence[str] | None,
) -> list[str]:
    """The keys of the images, in their order. Raises CatalogError, which names the argument, if shapes or types do not
    fit together, if keys are not different texts, or if a label is not one of the classes that are given."""
    n = len(images)
    if images.dtype != np.uint8 or not (images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)):
        raise CatalogError(f"images: expected (n, h, w) or (n, h, w, 3) uint8, got {images.shape} {images.dtype}")
    names = [f"{row:09d}" for row in range(n)] if keys is None else ["" if key is None else str(key) for key in keys]
    for what, values in (("labels", labels), ("keys", names), ("test", test)):
        if values is not None and len(values) != n:
            raise CatalogError(f"{what}: expected {n}, one per image, got {len(values)}")
    first = dict[str, int]()
    for at, name in enumerate(names):
        if not name or first.setdefault(name, at) != at:
            got = (
                f"the same, {short(name)!r}, for the images {first[name]} and {at}" if name else f"none for image {at}"
            )
            raise CatalogError(f"keys: expected a different text for each image, got {got}")
    if classes is not None and labels is not None:
        _refuse_other_classes(
            [str(label) for label in labels if label is not None], [tidy(str(name)) for name in classes]
        )
    return names


def _refuse_other_classes(labels: Sequence[str], classes: Sequence[str]) -> None:
    texts = tidied(pa.array(labels, pa.string()), classes).labels.dictionary.to_pylist()
    strange = next((text for text, number in zip(texts, numbers_of(texts, classes), strict=True) if number is None), "")
    if strange:
        raise CatalogError(
            f"labels: expected the classes that classes= lists, {some_classes(classes) or 'none'}, "
            f"got {short(strange)!r}{did_you_mean(similar(strange, classes))}"
        )


def write(
    images: npt.NDArray[np.uint8],
    labels: Sequence[Any] | npt.NDArray[Any] | None,
    store: Store,
    names: Sequence[str],
    test: npt.NDArray[np.bool_] | None,
    classes: Sequence[str] | None,
) -> None:
    """Write images (n, h, w) or (n, h, w, 3) uint8 as Parquet files with columns key, label, split, image.

    labels (n,), test (n,) bool: each may be None. names (n,): what `keys_of` gave of all these.
    """
    n = len(images)
    schema = _schema(labels, classes)
    is_test = np.zeros(n, bool) if test is None else np.asarray(test, bool)
    for start in range(0, n, _FILE_ROWS):
        part = slice(start, min(start + _FILE_ROWS, n))
        columns = {
            "key": names[part],
            "label": [None] * (part.stop - start) if labels is None else labels[part],
            "split": np.where(is_test[part], "test", "train"),
            "image": [_png(image) for image in images[part]],
        }
        table = pa.table(
            {name: pa.array(columns[name], schema.field(name).type) for name in schema.names}, schema=schema
        )
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, row_group_size=_GROUP_ROWS, compression="none")  # PNG is compressed already
        store.write_bytes(f"part-{start // _FILE_ROWS:05d}.parquet", memoryview(sink.getvalue()))


def _schema(labels: Sequence[Any] | npt.NDArray[Any] | None, classes: Sequence[str] | None) -> pa.Schema:
    kind = pa.string() if labels is None or np.asarray(labels).dtype.kind in "UO" else pa.int64()
    fields = [("key", pa.string()), ("label", kind), ("split", pa.string()), ("image", pa.binary())]
    return pa.schema(fields, metadata={"classes": json.dumps(list(classes))} if classes is not None else None)


def _png(image: npt.NDArray[np.uint8]) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(image).save(sink, "PNG", compress_level=1)
    return sink.getvalue()
