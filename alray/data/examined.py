"""The images of a source after they were read once: with the hashes of their bytes, without those that are broken."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from alray.config import IndexConfig
from alray.data.assemble import Assembled, take_out
from alray.data.examine import examine
from alray.data.hashes import Hashing, read_hashes
from alray.data.sources.source import Source


def unread(found: Assembled) -> Assembled:
    """The images with a column of hashes that are not known."""
    return replace(found, images=found.images.append_column("hash", pa.nulls(len(found.images), pa.int64())))


def examined(
    found: Assembled, kind: Source, column: str, config: IndexConfig, progress: bool, decode: bool
) -> Assembled:
    """The images that can be decoded, with hashes of their bytes and notes. Every image is read once."""
    if not decode:
        hashes = read_hashes(found.images, kind, column, progress)
        return replace(found, images=found.images.append_column("hash", hashes))
    hashing = Hashing.of(kind, len(found.images))
    seen = examine(hashing.numbered(found.images), hashing, column, config.pixel_range, progress)
    images = found.images.append_column("hash", hashing.column())
    return _without(replace(found, images=images, notes=(*found.notes, *seen.notes)), seen.problems)


def _without(found: Assembled, problems: pa.Table) -> Assembled:
    at = pc.index_in(found.images["key"], problems["key"].combine_chunks())
    images, _ = take_out(found.images, problems["reason"].combine_chunks().take(at.combine_chunks()))
    return replace(found, images=images.combine_chunks(), problems=pa.concat_tables([found.problems, problems]))
