"""Assemble the rows of a catalog from the scans of its sources: number the classes, find duplicates, sort by key, and
list what is left out and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from alray.data.problems import UNKNOWN_CLASS
from alray.data.sources.damaged import NOT_UTF8, NOT_UTF8_PATTERN
from alray.data.sources.label_text import Tidied, are_names, numbers_of, refuse_spellings, tidied, tidy, whole_number
from alray.data.sources.scan import IMAGES, PROBLEMS, CatalogError, Scan, agree, concat
from alray.data.sources.split_names import ROLES, SPLITS
from alray.reasons import did_you_mean, short, similar

_SUGGESTED = 20  # texts that are no class for which a similar class is looked for


@dataclass(frozen=True)
class Assembled:
    """The rows of a catalog.

    images: columns key, uri, offset, size, label (int32, null where unknown), split; sorted by key, which is unique.
    problems: columns key, uri, reason. classes: names by label number. notes: sentences on what was changed.
    """

    images: pa.Table
    problems: pa.Table
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()


def assemble(scans: Sequence[Scan], given: Sequence[str] | None) -> Assembled:
    """One table of all sources. Of images with the same key only the first in (uri, offset) order is kept.

    given: the classes in their order, or None to take those of the sources. Raises CatalogError where the sources order
    their classes differently.
    """
    listed, notes = _listed(scans, given)
    images = concat((scan.images for scan in scans), IMAGES)
    problems = [scan.problems for scan in scans]
    found = tidied(images["label"], listed)
    classes = _occurring(found) if listed is None else listed
    label, unknown = _numbers(found.labels, classes)
    split = _splits(images["split"])
    # Rows of a source with a content hash (embeddings) have no bytes of their own: their sizes are null.
    sized = not any(scan.content for scan in scans)
    bad = _bad(images, unknown, split, len(classes), sized)
    images = images.set_column(4, "label", label).set_column(5, "split", split)
    images, left_out = take_out(images, bad)
    problems.append(left_out)
    images = images.sort_by([("key", "ascending"), ("uri", "ascending"), ("offset", "ascending")])
    images, left_out = take_out(images, _duplicates(images))
    problems.append(left_out)
    return Assembled(images.combine_chunks(), pa.concat_tables(problems), classes, (*notes, *found.notes))


def take_out(images: pa.Table, reasons: pa.Array) -> tuple[pa.Table, pa.Table]:
    """Split images into those without a reason, and the problems of those with one.

    reasons: one string per image that says why it cannot be used, null where it can.
    """
    if reasons.null_count == len(reasons):
        return images, PROBLEMS.empty_table()
    bad = pc.is_valid(reasons)
    problems = images.filter(bad).select(["key", "uri"]).append_column("reason", reasons.filter(bad))
    return images.filter(pc.invert(bad)), problems.cast(PROBLEMS)


def _listed(scans: Sequence[Scan], given: Sequence[str] | None) -> tuple[tuple[str, ...] | None, list[str]]:
    """The classes that are given, or else those that the sources list, and notes on them; None if nobody lists them."""
    lists = [None if scan.classes is None else tuple(map(tidy, scan.classes)) for scan in scans]
    written = given if given is not None else next((scan.classes for scan in scans if scan.classes is not None), None)
    if written is None:
        return None, []
    classes = named_classes(written if given is not None else agree(lists, "the sources") or ())
    changed = [name for name in written if tidy(name) != name]
    if not changed:
        return classes, []
    return classes, [
        f"Names in the list of classes: {len(changed)} were put into Unicode form NFC, without spaces around them (the "
        f"first was {changed[0]!a})."
    ]


def named_classes(names: Sequence[str]) -> tuple[str, ...]:
    """Names that somebody lists, as classes: each in its tidy form. Raises CatalogError for a name that is listed
    twice, and for an empty one."""
    classes = tuple(map(tidy, names))
    if "" in classes:
        raise CatalogError("classes: expected names, got an empty one")
    if len(set(classes)) != len(classes):
        twice = next(name for name in classes if classes.count(name) > 1)
        raise CatalogError(f"classes: expected different names, got {twice!r} more than once")
    return classes


def _occurring(labels: Tidied) -> tuple[str, ...]:
    """All classes that occur, as text. They are in numeric order if all of them are numbers, else in byte order.

    No class has a negative number. Raises CatalogError if two of them are probably one class.
    """
    texts = labels.labels.dictionary.to_pylist()
    is_class = np.array([(whole_number(text) or 0) >= 0 for text in texts], bool)
    names = [text for text, good in zip(texts, is_class, strict=True) if good]
    refuse_spellings(names, labels.counts[is_class])
    if all(name.isdecimal() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names, key=str.encode))


def _numbers(labels: pa.DictionaryArray, classes: Sequence[str]) -> tuple[pa.Array, pa.Array]:
    """Class numbers (int32, null where the label is unknown or not a class), and the texts that are not a class, each
    with the class that may be meant (null for all other rows).
    """
    texts = labels.dictionary.to_pylist()
    numbers = numbers_of(texts, classes)
    named, asked = are_names(classes), iter(range(_SUGGESTED))

    def strange(text: str) -> str:
        if named and text.isdecimal():
            return f"'number {text}'"
        near = similar(text, classes) if next(asked, None) is not None else []
        return f"'{short(text)}'{did_you_mean(near)}"

    unknown = [strange(text) if number is None else None for text, number in zip(texts, numbers, strict=True)]
    at = labels.indices
    return pa.array(numbers, pa.int32()).take(at), pa.array(unknown, pa.string()).take(at)


def _splits(splits: pa.ChunkedArray) -> pa.Array:
    """One of ROLES; null where the source names another split."""
    encoded = pc.fill_null(splits.combine_chunks(), "train").dictionary_encode()
    texts = encoded.dictionary.to_pylist()
    known = pa.array([text if text in ROLES else SPLITS.get(text.strip().lower()) for text in texts], pa.string())
    return known.take(encoded.indices)


def _bad(images: pa.Table, unknown: pa.Array, split: pa.Array, classes: int, sized: bool) -> pa.Array:
    """The reason why each row cannot be used, null where it can. sized: whether rows have bytes of their own."""
    no_bytes = pc.and_(pc.is_null(images["size"]), sized)
    empty = pc.equal(images["size"], 0)
    good = not (images["key"].null_count or split.null_count or unknown.null_count < len(images))
    if good and not pc.any(pc.or_kleene(no_bytes, empty)).as_py():  # most sources
        return pa.nulls(len(images), pa.string())
    no_name = pc.match_substring_regex(pc.if_else(no_bytes, images["uri"], ""), NOT_UTF8_PATTERN)
    unknown_class = pc.binary_join_element_wise(
        f"{UNKNOWN_CLASS}: ", unknown, f" is not one of the {classes} classes", ""
    )
    row, file = pc.cast(images["offset"], pa.string()), pc.replace_substring_regex(images["uri"], "(?s)^.*/", "")
    missing = pc.coalesce(
        pc.binary_join_element_wise("missing image: row ", row, " of ", file, " has no bytes", ""),
        pc.binary_join_element_wise("missing image: no file at ", images["uri"], ""),
    )
    unknown_split = pc.binary_join_element_wise("unknown split: '", images["split"], "'", "")
    return pc.case_when(
        pc.make_struct(
            pc.is_null(images["key"]), no_name, no_bytes, empty, pc.is_valid(unknown), pc.is_null(split)
        ),
        "no key: the row does not name an image",
        f"unreadable name: {NOT_UTF8}",
        missing,
        "broken image: it has no bytes",
        unknown_class,
        unknown_split,
    ).combine_chunks()  # fmt: skip


def _duplicates(images: pa.Table) -> pa.Array:
    """The reason for every row that has the same key as the row before it; the images are sorted by key."""
    key = images["key"].combine_chunks()
    again = np.zeros(len(key), bool)
    again[1:] = pc.equal(key[1:], key[:-1])
    if not again.any():
        return pa.nulls(len(key), pa.string())
    at = np.flatnonzero(again)
    now, before = images.take(pa.array(at)), images.take(pa.array(at - 1))
    nothing = {"uri": "", "offset": -1, "label": -1}
    place, offset, label = (
        pc.equal(*(pc.fill_null(part[name], empty) for part in (now, before))).to_numpy()
        for name, empty in nothing.items()
    )
    twice = np.where(label, "the same image is named twice", "the same image is named twice, with different classes")
    reasons = np.full(len(key), None, object)
    reasons[at] = "duplicate key: " + np.where(place & offset, twice, "another image has the same key").astype(object)
    return pa.array(reasons, pa.string())
