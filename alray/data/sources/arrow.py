"""Data sets of Hugging Face as `datasets` saves them to disk: Arrow files with a column of encoded images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc

from alray.data.sources.row_columns import HUGGING_FACE
from alray.data.sources.rows import Rows, image_bytes
from alray.data.sources.scan import CatalogError, Scan, ScanOptions, file_name
from alray.store import filesystem, is_file, is_remote, join, read_bytes

_INFO, _STATE = "dataset_info.json", "state.json"
_CACHE = "cache-"  # results of map and filter beside the data
_FILE_MAGIC = b"ARROW1"


class Arrow(Rows):
    """Arrow streams or files with one row per image. They are mapped into memory; on an object store they have to be
    read from their beginning."""

    name: ClassVar[str] = "arrow"
    what: ClassVar[str] = "Arrow file"
    about: ClassVar[str] = (
        "A data set of Hugging Face that `datasets` saved to disk (Dataset or DatasetDict.save_to_disk): a folder that "
        "holds .arrow files, one file or a glob. Images are a column of bytes or of struct{bytes, path}; "
        f"{_CACHE}*.arrow are left out. The image column is --image-column, else the only Image of the features."
    )
    extensions: ClassVar[tuple[str, ...]] = (".arrow",)

    def scan(self, source: str, options: ScanOptions) -> Scan:
        """As `Rows.scan`. Raises CatalogError also for a data set that was saved with a selection of its rows."""
        scan = super().scan(source, options)
        folders = {uri.rpartition("/")[0] for uri in scan.images["uri"].unique().to_pylist()}
        for folder in sorted(folders):
            _check_state(folder)
        return scan

    def reads(self, names: pa.ChunkedArray) -> pa.ChunkedArray:
        """As `Source.reads`, without files that `datasets` keeps for itself."""
        own = [file_name(name).startswith(_CACHE) for name in names.to_pylist()]
        return pc.and_not(super().reads(names), pa.chunked_array([own], pa.bool_()))

    def schema(self, uri: str) -> pa.Schema:
        """As `Rows.schema`. Features that are only in dataset_info.json are added."""
        with _opened(uri) as reader:
            schema: pa.Schema = reader.schema
        place = join(uri.rpartition("/")[0], _INFO)
        if HUGGING_FACE in (schema.metadata or {}) or not is_file(place):
            return schema
        try:
            features = json.loads(read_bytes(place))["features"]
        except (ValueError, KeyError, TypeError) as error:
            raise CatalogError(f"{place}: expected the features of a data set, got something else: {error}") from error
        return schema.with_metadata({HUGGING_FACE: json.dumps({"info": {"features": features}})})

    def batches(self, uri: str, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """As `Rows.batches`."""
        with _opened(uri) as reader:
            wanted = [name for name in reader.schema.names if name in names or f"{name}.bytes" in names]
            for batch in _batches(reader):
                yield batch.select(wanted)

    def rows_of(self, uri: str, rows: npt.NDArray[np.int64], column: str) -> list[bytes | None]:
        """As `Rows.rows_of`. Of a local file only the pages with these images are read."""
        found: list[bytes | None] = [None] * len(rows)
        start, last = 0, int(rows.max())
        with _opened(uri) as reader:
            for batch in _batches(reader):
                at = np.flatnonzero((rows >= start) & (rows < start + len(batch)))
                if len(at):
                    images = image_bytes(pa.chunked_array([batch.column(column)]))
                    here = images.take(pa.array(rows[at] - start)).to_pylist()
                    for i, data in zip(at.tolist(), here, strict=True):
                        found[i] = data
                start += len(batch)
                if start > last:
                    return found
        raise IndexError(f"expected a row below {start}, got {last}")

    def cost(self, images: pa.Table, column: str) -> tuple[str, ...]:
        """As `Rows.cost`."""
        if not any(map(is_remote, images["uri"].unique().to_pylist())):
            return ()
        return (
            "Arrow files have no index: on an object store, reading one random image reads its file from the start. "
            "`alray repack CATALOG --out DIRECTORY` writes tars in which one image is one read.",
        )


@contextmanager
def _opened(uri: str) -> Iterator[Any]:
    """Context manager: yields the reader of an Arrow stream or file."""
    fs, path = filesystem(uri)
    with pa.memory_map(path) if not is_remote(uri) else fs.open_input_file(path) as file:
        is_file_format = file.read(len(_FILE_MAGIC)) == _FILE_MAGIC
        file.seek(0)
        with pa.ipc.open_file(file) if is_file_format else pa.ipc.open_stream(file) as reader:
            yield reader


def _batches(reader: Any) -> Iterator[pa.RecordBatch]:
    if isinstance(reader, pa.ipc.RecordBatchFileReader):
        yield from map(reader.get_batch, range(reader.num_record_batches))
    else:
        yield from reader


def _check_state(folder: str) -> None:
    place = join(folder, _STATE)
    state = json.loads(read_bytes(place)) if is_file(place) else {}
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise CatalogError(
            f"{place}: the data set was saved with a selection or an order of its rows, which is not read here; save "
            "dataset.flatten_indices()"
        )


ARROW = Arrow()
