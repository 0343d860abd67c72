"""Read every image once while indexing: the hashes of their bytes, which cannot be decoded, and what a user should know
of the others."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from alray.config import IndexConfig
from alray.data.assemble import Assembled, take_out
from alray.data.decode import Seen, inspect
from alray.data.depth import Depth, Range, Wide, declare, spoken
from alray.data.fetch import ImageError, fetch_each
from alray.data.hashes import Hashing, read_hashes
from alray.data.sources.scan import PROBLEMS, CatalogError, concat, problem
from alray.data.sources.source import Source
from alray.process import processors

_CHUNK_BYTES = 16 * 2**20  # of the images that one thread checks before it takes the next
_DIM, _DARK = 4, 16  # an image set, and an image, that use less than this part of their range look black


@dataclass(frozen=True)
class Examined:
    """problems: the images that cannot be used (key, uri, reason); notes: sentences on the others."""

    problems: pa.Table
    notes: tuple[str, ...]


@dataclass
class _Count:
    """How many images have a property, and the first of them."""

    images: int = 0
    first: str = ""

    def add(self, key: str) -> None:
        self.first = self.first or key
        self.images += 1

    def said(self, one: str, several: str, rest: str) -> str:
        """A sentence. one, several: its verb for one image and for several."""
        noun, verb = ("image", one) if self.images == 1 else ("images", several)
        return f"{self.images:,} {noun} {verb} {rest} (first {self.first})"


@dataclass
class _Values:
    """The values of all images of one depth. outside: images with values outside of the declared range; dark: images
    that use little of the range that they are read with."""

    seen: _Count
    wide: Wide
    outside: _Count = field(default_factory=_Count)
    dark: _Count = field(default_factory=_Count)


def unread(found: Assembled) -> Assembled:
    """The images with a column of hashes that are not known."""
    return replace(found, images=found.images.append_column("hash", pa.nulls(len(found.images), pa.int64())))


def read_once(
    found: Assembled, kind: Source, column: str, config: IndexConfig, progress: bool, decode: bool
) -> Assembled:
    """The images with hashes of their bytes; with `decode`, without those that cannot be decoded, and with notes on the
    others. Raises CatalogError, see `examine`."""
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


def examine(images: pa.Table, source: Source, image_column: str, pixel_range: Range | None, progress: bool) -> Examined:
    """Open every image once, on all CPUs.

    images: columns key, uri, offset, size, in any order; pixel_range: the declared range of pixels with more than 8
    bits. Raises CatalogError where no image uses more than a small part of a range that was not declared.
    """
    images = images.sort_by([("uri", "ascending"), ("offset", "ascending")])
    problems: list[pa.Table] = []
    found = _Findings(pixel_range)
    with (
        ThreadPoolExecutor(processors()) as workers,
        tqdm(total=len(images), desc="checking", unit=" images", disable=not progress) as bar,
    ):

        def check(chunk: pa.Table) -> list[Seen | ImageError]:
            seen = _inspected(chunk, source, image_column, pixel_range)
            bar.update(len(chunk))
            return seen

        chunks = _chunks(images)
        for chunk, seen in zip(chunks, workers.map(check, chunks), strict=True):
            keys, uris = chunk["key"].to_pylist(), chunk["uri"].to_pylist()
            for key, uri, one in zip(keys, uris, seen, strict=True):
                if isinstance(one, ImageError):
                    problems.append(problem(key, uri, str(one).removeprefix(f"{key}: ")))
                else:
                    found.add(key, one)
    found.refuse_dim()
    return Examined(concat(problems, PROBLEMS), tuple(found.notes()))


def _chunks(images: pa.Table) -> list[pa.Table]:
    sizes = np.cumsum(images["size"].to_numpy())
    edges = np.flatnonzero(np.diff(sizes // _CHUNK_BYTES, prepend=-1)) if len(images) else np.empty(0, np.int64)
    ends = [*edges[1:].tolist(), len(images)][: len(edges)]
    return [images.slice(start, end - start) for start, end in zip(edges.tolist(), ends, strict=True)]


def _inspected(
    chunk: pa.Table, source: Source, image_column: str, pixel_range: Range | None
) -> list[Seen | ImageError]:
    found = fetch_each(chunk, source, image_column, threads=4)
    return [_seen(data, key, pixel_range) for data, key in zip(found, chunk["key"].to_pylist(), strict=True)]


def _seen(data: bytes | ImageError, key: str, pixel_range: Range | None) -> Seen | ImageError:
    if isinstance(data, ImageError):
        return data
    try:
        return inspect(data, key, pixel_range)
    except ImageError as error:
        return error


class _Findings:
    """What was seen of all images together."""

    def __init__(self, pixel_range: Range | None) -> None:
        self.pixel_range = pixel_range
        self.usable = 0
        self.turned, self.unreadable, self.several, self.transparent, self.constant = (_Count() for _ in range(5))
        self.values: dict[Depth, _Values] = {}

    def add(self, key: str, seen: Seen) -> None:
        self.usable += 1
        for property, count in (
            (seen.orientation not in (None, 1), self.turned),
            (seen.orientation is None, self.unreadable),
            (seen.frames > 1, self.several),
            (seen.transparent, self.transparent),
            (seen.constant, self.constant),
        ):
            if property:
                count.add(key)
        if seen.wide is not None:
            self._add_values(key, seen.wide)

    def _add_values(self, key: str, wide: Wide) -> None:
        every = self.values.setdefault(wide.depth, _Values(_Count(), wide))
        every.seen.add(key)
        every.wide = Wide(wide.depth, min(every.wide.low, wide.low), max(every.wide.high, wide.high))
        low, high = known = self._range(wide.depth)
        if wide.low < low or wide.high > high:
            every.outside.add(key)
        if wide.low < wide.high < _part(known, _DARK):
            every.dark.add(key)

    def _range(self, depth: Depth) -> Range:
        known = self.pixel_range or depth.range
        assert known is not None  # `decode` refuses pixels without a range
        return known

    def refuse_dim(self) -> None:
        """Raise CatalogError where all images together use a small part of a range that was not declared: their real
        range is another one, such as 12 bits stored in 16."""
        for depth, every in self.values.items():
            known = self._range(depth)
            if self.pixel_range is not None or not every.wide.low < every.wide.high < _part(known, _DIM):
                continue
            advice = "convert them to 8 bits per channel, or " if depth.cut else ""
            raise CatalogError(
                f"pixel_range: {every.seen.said('has', 'have', _pixels(every.wide))}, which are almost black in the "
                f"range {spoken(known)}; {advice}{declare(every.wide, known)}"
            )

    def notes(self) -> list[str]:
        """One sentence for each property that some images have."""
        sentences = (
            (self.turned, "is", "are", "turned or mirrored, as the orientation in the EXIF data says"),
            (self.unreadable, "has", "have", "EXIF data that cannot be read, and no orientation is applied"),
            (self.several, "has", "have", "several frames, of which the first is used"),
            (self.transparent, "has", "have", "transparency, which is dropped: the colours beneath it are used"),
            (self.constant, "has", "have", "one colour everywhere"),
        )
        found = [count.said(*words) for count, *words in sentences if count.images]
        found += [text for depth, every in self.values.items() for text in self._of_values(depth, every)]
        if self.pixel_range is not None and self.usable and not self.values:
            found.append("pixel_range changes nothing: no image has more than 8 bits per channel")
        return [f"{text}." for text in found]

    def _of_values(self, depth: Depth, every: _Values) -> Iterator[str]:
        known = self._range(depth)
        yield every.seen.said("has", "have", f"{_pixels(every.wide)}; {spoken(known)} becomes black to white")
        if every.outside.images:
            yield every.outside.said("has", "have", f"values outside of {spoken(known)}, which are clipped")
        if every.dark.images:
            yield every.dark.said("uses", "use", f"less than a sixteenth of {spoken(known)}, and looks almost black")


def _pixels(wide: Wide) -> str:
    return f"pixels of {wide.depth.name}, from {spoken((wide.low, wide.high))}"


def _part(known: Range, parts: int) -> float:
    """The value up to which a range has one of this number of equal parts."""
    return known[0] + (known[1] - known[0]) / parts
