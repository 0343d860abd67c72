"""Assemble the rows of a catalog from the scans of its sources: number the classes, find duplicates, sort by key, and
list what is left out and why."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from alray.data.sources.scan import IMAGES, PROBLEMS, CatalogError, Scan, agree, concat
from alray.data.sources.split_names import SPLITS


@dataclass(frozen=True)
class Assembled:
    """The rows of a catalog.

    images: columns key, uri, offset, size, label (int32, null where unknown), split; sorted by key, which is unique.
    problems: columns key, uri, reason. classes: names by label number.
    """

    images: pa.Table
    problems: pa.Table
    classes: tuple[str, ...]


def assemble(scans: Sequence[Scan], given: Sequence[str] | None) -> Assembled:
    """One table of all sources. Of images with the same key only the first in (uri, offset) order is kept.

    given: the classes in their order, or None to take those of the sources. Raises CatalogError where the sources order
    their classes differently.
    """
    classes = _classes(scans, given)
    images = concat((scan.images for scan in scans), IMAGES)
    problems = [scan.problems for scan in scans]
    label, unknown = _numbers(images["label"], classes)
    split = _splits(images["split"])
    # Rows of a source with a content hash (embeddings) have no bytes of their own: their sizes are null.
    sized = not any(scan.content for scan in scans)
    bad = _bad(images, unknown, split, len(classes), sized)
    images = images.set_column(4, "label", label).set_column(5, "split", split)
    images, found = take_out(images, bad)
    problems.append(found)
    images = images.sort_by([("key", "ascending"), ("uri", "ascending"), ("offset", "ascending")])
    images, found = take_out(images, _duplicates(images))
    return Assembled(images.combine_chunks(), pa.concat_tables([*problems, found]), classes)


def take_out(images: pa.Table, reasons: pa.Array) -> tuple[pa.Table, pa.Table]:
    """Split images into those without a reason, and the problems of those with one.

    reasons: one string per image that says why it cannot be used, null where it can.
    """
    bad = pc.is_valid(reasons)
    problems = images.filter(bad).select(["key", "uri"]).append_column("reason", reasons.filter(bad))
    return images.filter(pc.invert(bad)), problems.cast(PROBLEMS)


def _classes(scans: Sequence[Scan], given: Sequence[str] | None) -> tuple[str, ...]:
    if given is not None:
        classes = tuple(given)
    else:
        classes = agree((scan.classes for scan in scans), "the sources") or _distinct(scans)
    if len(set(classes)) != len(classes):
        twice = next(name for name in classes if classes.count(name) > 1)
        raise CatalogError(f"classes: expected different names, got {twice!r} more than once")
    return classes


def _distinct(scans: Sequence[Scan]) -> tuple[str, ...]:
    """All classes that occur, as text. They are in numeric order if all of them are numbers, else in byte order."""
    names = {name for scan in scans for name in pc.unique(scan.images["label"]).to_pylist()} - {None, ""}
    names = {name for name in names if not re.fullmatch(r"-\d+", name)}  # no class has a negative number
    if all(name.isdecimal() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names, key=str.encode))


def _numbers(labels: pa.ChunkedArray, classes: Sequence[str]) -> tuple[pa.Array, pa.Array]:
    """Class numbers (int32, null where the label is unknown or not a class), and the texts that are not a class (null
    for all other rows)."""
    encoded = labels.combine_chunks().dictionary_encode()
    texts = encoded.dictionary.to_pylist()
    by_name = {name: i for i, name in enumerate(classes)}
    numbers = [by_name.get(text, _by_number(text, len(classes))) for text in texts]
    known = pa.array(numbers, pa.int32())
    strange = [text if n is None and text not in ("", "-1") else None for text, n in zip(texts, numbers, strict=True)]
    return known.take(encoded.indices), pa.array(strange, pa.string()).take(encoded.indices)


def _by_number(text: str, classes: int) -> int | None:
    return int(text) if text.isdecimal() and int(text) < classes else None


def _splits(splits: pa.ChunkedArray) -> pa.Array:
    """train or test; null where the source names another split."""
    encoded = pc.fill_null(splits.combine_chunks(), "train").dictionary_encode()
    known = pa.array([SPLITS.get(text.lower()) for text in encoded.dictionary.to_pylist()], pa.string())
    return known.take(encoded.indices)


def _bad(images: pa.Table, unknown: pa.Array, split: pa.Array, classes: int, sized: bool) -> pa.Array:
    """The reason why each row cannot be used, null where it can. sized: whether rows have bytes of their own."""
    no_bytes = pc.and_(pc.is_null(images["size"]), sized)
    unknown_class = pc.binary_join_element_wise(
        "unknown class: '", unknown, f"' is not one of the {classes} classes", ""
    )
    unknown_split = pc.binary_join_element_wise("unknown split: '", images["split"], "'", "")
    return pc.case_when(
        pc.make_struct(
            pc.is_null(images["key"]), no_bytes, pc.equal(images["size"], 0), pc.is_valid(unknown), pc.is_null(split)
        ),
        "no key: the row does not name an image",
        "missing image: there is no such file, or it has no bytes",
        "broken image: it has no bytes",
        unknown_class,
        unknown_split,
    ).combine_chunks()


def _duplicates(images: pa.Table) -> pa.Array:
    """The reason for every row that has the same key as the row before it; the images are sorted by key."""
    key = images["key"].combine_chunks()
    again = np.zeros(len(key), bool)
    again[1:] = pc.equal(key[1:], key[:-1])
    return pc.if_else(pa.array(again), "duplicate key: another image has the same key", pa.scalar(None, pa.string()))


def counts(problems: pa.Table) -> dict[str, int]:
    """The number of problems of each kind. The kind is the part of the reason before the first colon."""
    kinds = [reason.partition(":")[0] for reason in problems["reason"].to_pylist()]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}
