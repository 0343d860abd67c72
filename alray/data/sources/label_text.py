"""Labels as text: one owner of how a class is written.

Sources turn their label columns into texts (`as_text`). When all sources were read, the texts are tidied together
(`tidied`), so that one class is not taken for two because it is written in two ways.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from alray.data.sources.scan import CatalogError
from alray.reasons import first_of, short

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,2})?", re.ASCII)
_INVISIBLE = "\ufeff\u200b"  # a byte order mark and a space of no width: `str.strip` keeps them
_DOUBTFUL = ("none", "na", "n/a", "null", "<na>", "#n/a", "unlabeled", "unlabelled")


@dataclass(frozen=True)
class Tidied:
    """labels: a dictionary array, one text per image, null where the label is unknown; its dictionary has each text
    once. counts: the number of images of each text of the dictionary. notes: sentences on what was changed."""

    labels: pa.DictionaryArray
    counts: npt.NDArray[np.int64]
    notes: tuple[str, ...]


def as_text(column: Any, names: Sequence[str] | None, where: Callable[[int], str]) -> pa.Array:
    """A column of class names or numbers as text, null where a value is null or NaN.

    column: any Arrow array or chunked array; names: of numbered classes, where the file has them; where: the place of a
    row, for messages. Raises CatalogError for values that are neither names nor whole numbers.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    kind = column.type
    if pa.types.is_dictionary(kind):
        texts = as_text(column.dictionary, names, where)
        return texts.take(column.indices) if len(column) else pa.array([], pa.string())
    if pa.types.is_nested(kind):
        row, value = _first(column)
        raise CatalogError(f"{where(row)}: expected one class name or number per image, got {_shown(value)} ({kind})")
    if pa.types.is_floating(kind):
        column = _whole(column, where)
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        _check_utf8(column, where)
    if names is not None and pa.types.is_integer(column.type):
        return _named(column, names)
    return pc.cast(column, pa.string())


def split_texts(column: Any, where: Callable[[int], str]) -> pa.Array:
    """A column of names of splits as text without spaces around them. Raises CatalogError as `as_text` does."""
    return pc.utf8_trim_whitespace(as_text(column, None, where))


def scalar_text(value: object) -> str | None:
    """A value of a JSON object as text; None for null. Raises ValueError for a list and an object."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    raise ValueError(f"expected one class name or number, got {_shown(value)}")


def tidied(labels: pa.ChunkedArray | pa.Array, classes: Sequence[str] | None) -> Tidied:
    """The labels of all sources, each class written in one way.

    Texts are in Unicode form NFC and without spaces around them. `3.0` is `3` where all labels are whole numbers. An
    empty text, -1 in any spelling and `nan` stand for no label. A text that is one of the classes, if they are known,
    stays as it is.
    """
    whole = labels.combine_chunks() if isinstance(labels, pa.ChunkedArray) else labels
    encoded = whole.dictionary_encode()
    given: list[str] = encoded.dictionary.to_pylist()
    counts = np.bincount(pc.drop_null(encoded.indices).to_numpy(), minlength=len(given))
    known = set(classes or ())
    clean = [tidy(text) for text in given]
    kept: list[str | None] = [text if text in known or not stands_for_none(text) else None for text in clean]
    kept = _digits(kept, known)
    notes = _notes(given, clean, kept, counts)
    distinct = list(dict.fromkeys(text for text in kept if text is not None))
    place: dict[str | None, int | None] = {None: None, **{text: at for at, text in enumerate(distinct)}}
    moved = pa.array([place[text] for text in kept], pa.int32())
    sums = np.zeros(len(distinct), np.int64)
    for text, count in zip(kept, counts.tolist(), strict=True):
        if text is not None:
            sums[place[text]] += count
    indices = moved.take(encoded.indices) if len(given) else pa.nulls(len(encoded), pa.int32())
    tidy_labels = pa.DictionaryArray.from_arrays(indices, pa.array(distinct, pa.string()))
    return Tidied(tidy_labels, sums, tuple([*notes, *_doubts(distinct, sums, known)]))


def numbers_of(texts: Sequence[str], classes: Sequence[str]) -> list[int | None]:
    """The number of the class that each tidy text names; None where it names none.

    A whole number that is not the name of a class is the number of a class, unless classes have numbers as names.
    """
    by_name = {name: number for number, name in enumerate(classes)}
    if are_names(classes):
        by_name.update({text: int(text) for text in texts if text.isdecimal() and int(text) < len(classes)})
    return [by_name.get(text) for text in texts]


def are_names(classes: Iterable[str]) -> bool:
    """Whether no class has a number as its name."""
    return all(whole_number(name) is None for name in classes)


def class_of_key(labels: pa.ChunkedArray | pa.Array, classes: Sequence[str] | None) -> pa.Array:
    """The label of each image as the catalog will name it, for keys that contain the class."""
    found = tidied(labels, classes).labels
    texts = found.dictionary.to_pylist()
    numbers = numbers_of(texts, classes or ())
    names = [text if number is None else (classes or ())[number] for text, number in zip(texts, numbers, strict=True)]
    return pa.array(names, pa.string()).take(found.indices)


def tidy(text: str) -> str:
    """The text in Unicode form NFC, without spaces around it."""
    return unicodedata.normalize("NFC", text).strip().strip(_INVISIBLE).strip()


def stands_for_none(text: str) -> bool:
    """Whether a tidy text stands for no label: it is empty, -1 in any spelling, or nan."""
    return not text or text.lower() == "nan" or whole_number(text) == -1


def whole_number(text: str) -> int | None:
    """The whole number that a tidy text is, as in 3, 03, 3.0 and 3e0; None for other texts."""
    text = text.replace("\u2212", "-")  # a minus sign of typography
    if not _NUMBER.fullmatch(text):
        return None
    value = Decimal(text)
    return int(value) if value == value.to_integral_value() else None


def refuse_spellings(names: Sequence[str], counts: npt.NDArray[np.int64]) -> None:
    """Raise CatalogError if some classes, found in the labels, differ only in case, in spaces or in zeros."""
    alike: dict[object, list[str]] = {}
    shown = {name: f"{short(name)!r} ({_images(count)})" for name, count in zip(names, counts.tolist(), strict=True)}
    for name in names:
        alike.setdefault(_same(name), []).append(shown[name])
    pairs = [" and ".join(group) for group in alike.values() if len(group) > 1]
    if pairs:
        raise CatalogError(
            f"classes: expected names that differ in more than case, spaces and zeros, got {first_of(pairs, '; ')}. "
            "Spell each class in one way. If they are different classes, list all classes in their order with "
            "--classes (in a run --data.classes), or in alray-classes.txt"
        )


def _same(name: str) -> object:
    number = whole_number(name)
    return "".join(name.casefold().split()) if number is None else number


def _named(numbers: pa.Array, names: Sequence[str]) -> pa.Array:
    """Class names by number; numbers outside of the names become a text that is not a class, and -1 null."""
    numbers = pc.cast(numbers, pa.int64())
    known = pc.and_(pc.greater_equal(numbers, 0), pc.less(numbers, len(names)))
    named = pc.take(pa.array(names, pa.string()), pc.if_else(known, numbers, None))
    others = pc.binary_join_element_wise("number ", pc.cast(numbers, pa.string()), "")
    return pc.if_else(pc.equal(numbers, -1), pa.scalar(None, pa.string()), pc.if_else(known, named, others))


def _whole(column: pa.Array, where: Callable[[int], str]) -> pa.Array:
    """A floating-point column as int64, null for NaN."""
    column = pc.if_else(pc.is_nan(column), None, column)
    try:
        return pc.cast(column, pa.int64())
    except pa.ArrowInvalid:
        values = column.to_numpy(zero_copy_only=False).astype(np.float64)
        bad = ~np.isnan(values) & ((values != np.rint(values)) | (np.abs(values) >= 2**53))
        row = int(bad.argmax())
        raise CatalogError(
            f"{where(row)}: expected class names or whole numbers as labels, got {values[row]} ({int(bad.sum())} such "
            "values)"
        ) from None


def _check_utf8(column: pa.Array, where: Callable[[int], str]) -> None:
    try:
        pc.cast(column, pa.string())
    except pa.ArrowInvalid:
        for row, value in enumerate(column.to_pylist()):
            try:
                (value or b"").decode()
            except UnicodeDecodeError:
                raise CatalogError(f"{where(row)}: expected class names in UTF-8 as labels, got {value!r}") from None


def _first(column: pa.Array) -> tuple[int, Any]:
    """The first row with a value, and the value."""
    rows = np.flatnonzero(pc.is_valid(column))
    row = int(rows[0]) if len(rows) else 0
    return row, column[row].as_py() if len(column) else None


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    kind = "a list " if isinstance(value, list) else "an object " if isinstance(value, dict) else ""
    return kind + (text if len(text) <= 60 else f"{text[:57]}...")


def _digits(texts: list[str | None], known: set[str]) -> list[str | None]:
    """Whole numbers as digits, if all labels that are not a known class are whole numbers, or if the known classes are
    names, so that a number can only be the number of a class."""
    numbers = {text: whole_number(text) for text in texts if text is not None and text not in known}
    named = bool(known) and are_names(known)
    all_whole = None not in numbers.values() and all(whole_number(name) is not None for name in known)
    if not named and not all_whole:
        return texts
    written = {text: str(number) for text, number in numbers.items() if number is not None and not text.isdecimal()}
    return [written.get(text, text) if text is not None else None for text in texts]


def _notes(given: list[str], clean: list[str], kept: list[str | None], counts: npt.NDArray[np.int64]) -> list[str]:
    composed, trimmed, whole, unlabeled = _Changes(), _Changes(), _Changes(), _Changes()
    for before, text, after, count in zip(given, clean, kept, counts.tolist(), strict=True):
        if after is None:
            if text not in ("", "-1"):
                unlabeled.add(repr(text), count)
            continue
        composes = unicodedata.normalize("NFC", before)
        if before != composes:
            composed.add(ascii(before), count)
        if composes != text:
            trimmed.add(f"{short(before)!r} is {short(text)!r}", count)
        if text != after:
            whole.add(f"{text!r} is {after!r}", count)
    sentences = (
        (composed, "the letters of the label were put into Unicode form NFC"),
        (trimmed, "spaces around the label were removed"),
        (whole, "the label was read as a whole number"),
        (unlabeled, "the label stands for no label, so they are unlabeled"),
    )
    return [f"{changes.images}: {what} ({changes.few})." for changes, what in sentences if changes.found]


@dataclass
class _Changes:
    """What was changed, in words, with the number of images."""

    found: dict[str, int] = field(default_factory=dict)

    def add(self, words: str, count: int) -> None:
        """Count some images."""
        self.found[words] = self.found.get(words, 0) + count

    @property
    def images(self) -> str:
        """The number of images, in words."""
        return _images(sum(self.found.values()))

    @property
    def few(self) -> str:
        """The first of the changes."""
        return first_of(list(self.found))


def _doubts(names: list[str], counts: npt.NDArray[np.int64], known: set[str]) -> list[str]:
    """Sentences on classes that may be none."""
    empty, parts = _Changes(), _Changes()
    for name, count in zip(names, counts.tolist(), strict=True):
        if name in known:
            continue
        if name.lower() in _DOUBTFUL:
            empty.add(repr(name), count)
        elif _NUMBER.fullmatch(name) and whole_number(name) is None:
            parts.add(repr(name), count)
    sentences = (
        (empty, "if this means that the class is not known, leave the label empty"),
        (parts, "if this is a measurement, it is no class"),
    )
    return [f"{changes.images} of the class {changes.few}: {what}." for changes, what in sentences if changes.found]


def _images(number: int) -> str:
    return f"{number:,} image{'' if number == 1 else 's'}"
