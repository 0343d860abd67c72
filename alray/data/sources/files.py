"""The files that a scan reads: those of a listing, lists of classes beside them, and images that a list names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from alray.data.sources.listing import FILES
from alray.data.sources.scan import CLASSES_FILE, Scan, concat, file_name, table
from alray.store import filesystem, is_remote, join

_PLACED = pa.schema([*(FILES.field(name) for name in ("uri", "size", "time")), ("place", pa.int8())])
_NONE = pa.Table.from_batches([], _PLACED)


def infos(uris: Sequence[str]) -> pa.Table:
    """Name, size and time of each file, a table of the schema FILES in the order of the URIs; size and time are null
    where there is no file. Each filesystem gets one request."""
    sizes: list[int | None] = [None] * len(uris)
    times: list[int | None] = [None] * len(uris)
    places: dict[str, list[int]] = {}
    for i, uri in enumerate(uris):
        places.setdefault("/".join(uri.split("/", 3)[:3]) if is_remote(uri) else "", []).append(i)
    for members in places.values():
        fs, _ = filesystem(uris[members[0]])
        found = fs.get_file_info([filesystem(uris[i])[1] for i in members])
        for i, info in zip(members, found, strict=True):
            if info.type == pafs.FileType.File:
                sizes[i], times[i] = info.size, info.mtime_ns
    return table(FILES, {"name": [file_name(uri) for uri in uris], "uri": uris, "size": sizes, "time": times})


def with_class_files(files: pa.Table, places: Iterable[str]) -> pa.Table:
    """The files, none of which is a list of classes, and the lists of classes (alray-classes.txt) in these
    directories."""
    lists = infos(sorted(join(place, CLASSES_FILE) for place in places))
    return concat([files, lists.filter(pc.is_valid(lists["size"]))], FILES)


def with_file(files: pa.Table, uri: str) -> pa.Table:
    """The files, and the one at an absolute path or URI, once."""
    if pc.any(pc.equal(files["uri"], uri)).as_py():
        return files
    return concat([files.select(FILES.names), infos([uri])], FILES)


def scanned_files(scans: Sequence[Scan]) -> pa.Table:
    """The files of the scans of a source and of its test set: see `files_of`."""
    return files_of([*enumerate(scan.files for scan in scans)])


def files_of(listings: Sequence[tuple[int, pa.Table]]) -> pa.Table:
    """The files of some listings that exist, each once: a table with columns uri, size, time, place (int8).

    listings: tables of the schema FILES in which each file is once, with numbers that become the place: 0 for the
    source, 1 for its test set. A file of both has the first place.
    """
    tables = [
        files.select(["uri", "size", "time"]).append_column("place", pa.repeat(pa.scalar(place, pa.int8()), len(files)))
        for place, files in listings
    ]
    files = pa.concat_tables(tables or [_NONE])
    if files["size"].null_count:
        files = files.filter(pc.is_valid(files["size"]))
    if len(listings) > 1 and len(uris := pc.unique(files["uri"])) < len(files):
        files = files.take(pc.index_in(uris, files["uri"].combine_chunks()))
    return files
