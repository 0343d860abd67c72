"""What changed between two listings of a source, and between the rows of a catalog and those of a new scan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from alray.reasons import first_of

_SHOWN = 5


@dataclass(frozen=True)
class FileChanges:
    """URIs of files that are new, gone, of another size, or of another time only."""

    added: pa.Array
    removed: pa.Array
    resized: pa.Array
    touched: pa.Array

    def __bool__(self) -> bool:
        return any(map(len, (self.added, self.removed, self.resized, self.touched)))

    @property
    def unequal(self) -> pa.Array:
        """The files of the new listing that are not known to be as they were."""
        return pa.concat_arrays([self.added, self.resized, self.touched])

    def sentences(self) -> list[str]:
        """What changed, one sentence each."""
        kinds = (
            (self.added, "are new"),
            (self.removed, "are gone"),
            (self.resized, "have another size"),
            (self.touched, "were written again"),
        )
        return [_said(len(uris), "files", what, uris) for uris, what in kinds if len(uris)]


def file_changes(known: pa.Table, now: pa.Table) -> FileChanges:
    """Compare two listings, tables with columns uri (each once), size, time. A time that is null says nothing."""
    if known["uri"].equals(now["uri"]):
        before, new, gone = known, pa.nulls(0, pa.string()), pa.nulls(0, pa.string())
    else:
        at = pc.index_in(now["uri"], value_set=known["uri"])
        still = pc.is_valid(at)
        new = _one(now["uri"].filter(pc.invert(still)))
        gone = _one(known["uri"].filter(pc.invert(pc.is_in(known["uri"], value_set=now["uri"]))))
        now, before = now.filter(still), known.take(at.filter(still))
    resized = pc.not_equal(now["size"], before["size"])
    touched = pc.and_(pc.invert(resized), pc.fill_null(pc.not_equal(now["time"], before["time"]), False))
    return FileChanges(new, gone, _one(now["uri"].filter(resized)), _one(now["uri"].filter(touched)))


@dataclass(frozen=True)
class RowChanges:
    """What is different in the rows, one sentence each. same: the rows whose places and sizes are as they were, with
    columns of both: key, uri, offset, size, hash."""

    sentences: list[str]
    same: pa.Table


def row_changes(was: pa.Table, now: pa.Table, problems: pa.Table) -> RowChanges:
    """Compare the rows of a catalog with those of a new scan.

    was: columns key, uri, offset, size, split, class (by name), hash; now: the same without hash; keys are unique.
    problems: the images (key, reason) that the new scan cannot use.
    """
    at = pc.index_in(now["key"], value_set=was["key"])
    still = pc.is_valid(at)
    added = now["key"].filter(pc.invert(still))
    removed = was["key"].filter(pc.invert(pc.is_in(was["key"], value_set=now["key"])))
    now, before = now.filter(still), was.take(at.filter(still))
    other = {name: _differs(before[name], now[name]) for name in ("uri", "offset", "size", "split", "class")}
    moved = pc.and_(pc.or_(other["uri"], other["offset"]), pc.invert(other["size"]))
    sentences = []
    if len(added):
        sentences.append(_said(len(added), "images", "are new", added))
    if len(removed):
        sentences.append(_said(len(removed), "images", "are gone or cannot be used any more", _why(removed, problems)))
    if count := pc.sum(other["class"]).as_py():
        changed = [now["key"], before["class"], now["class"]]
        few = zip(*(column.filter(other["class"]).slice(0, _SHOWN + 1).to_pylist() for column in changed), strict=True)
        shown = [f"{key}: {old or 'no label'}, now {new or 'no label'}" for key, old, new in few]
        sentences.append(_said(count, "images", "have another label", shown))
    for what, mask in (
        ("are in the other split", other["split"]),
        ("have another size", other["size"]),
        ("are in another place of the source", moved),
    ):
        if count := pc.sum(mask).as_py():
            sentences.append(_said(count, "images", what, now["key"].filter(mask)))
    same = pc.invert(pc.or_(pc.or_(other["uri"], other["offset"]), other["size"]))
    rows = now.filter(same).select(["key", "uri", "offset", "size"])
    return RowChanges(sentences, rows.append_column("hash", before["hash"].filter(same)))


def bytes_changed(images: pa.Table, hashes: pa.Array) -> list[str]:
    """Compare the noted hashes of images with new ones; a sentence if some differ.

    images: columns key, hash; hashes: new ones, null where an image cannot be read.
    """
    keys = images["key"].filter(pc.fill_null(pc.not_equal(images["hash"], hashes), True))
    return [_said(len(keys), "images", "have other bytes", keys)] if len(keys) else []


def _differs(before: pa.ChunkedArray, now: pa.ChunkedArray) -> pa.ChunkedArray:
    """(n,) bool, where two nulls are equal."""
    one_null = pc.xor(pc.is_null(before), pc.is_null(now))
    return pc.or_(one_null, pc.fill_null(pc.not_equal(before, now), False))


def _why(keys: pa.ChunkedArray, problems: pa.Table) -> list[str]:
    """The first keys, with the reasons of those that the scan cannot use."""
    few = keys.slice(0, _SHOWN + 1).to_pylist()
    found = problems.filter(pc.is_in(problems["key"], value_set=pa.array(few, pa.string()))).to_pylist()
    reasons = {problem["key"]: problem["reason"] for problem in found}
    return [f"{key}: {reasons[key]}" if key in reasons else key for key in few]


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks()


def _said(count: int, noun: str, what: str, names: Any) -> str:
    """A sentence about some files or images. names: their names, or at least the first of them."""
    few = names if isinstance(names, list) else names.slice(0, _SHOWN + 1).to_pylist()
    one = {"are": "is", "have": "has", "were": "was"}
    verb, _, rest = what.partition(" ")
    said = f"1 {noun[:-1]} {one[verb]} {rest}" if count == 1 else f"{count:,} {noun} {what}"
    return f"{said} ({first_of(few, '; ', count=count)})"
