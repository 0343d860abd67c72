"""A list with the classes of test images that have none of their own, such as ImageNet's flat validation folder.

The official list of ImageNet holds numbers from 1 to 1000 in the order of its own IDs, which is not that of the class
names; torchvision and timm count from 0 in the sorted names. A wrong guess would give every image a wrong class, so
numbers are read only with the official table (meta.mat) or where the user says how they count.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from alray.config import IndexConfig
from alray.data.sources.files import with_file
from alray.data.sources.scan import CatalogError, Scan, amount, file_name
from alray.data.sources.split_names import split_role
from alray.data.sources.text_files import decoded
from alray.reasons import not_utf8
from alray.spelling import composed
from alray.store import absolute, is_file, join, read_bytes

OFFICIAL = "ILSVRC2012_validation_ground_truth.txt"
_META = ("meta.mat", "data/meta.mat", "../meta.mat", "../../data/meta.mat")  # as in ILSVRC2012_devkit_t12/data
_WNID = re.compile(r"n\d{8}")


def with_test_labels(scans: Sequence[Scan], config: IndexConfig) -> list[Scan]:
    """The scans of the root and of the test root, where test images without a class have that of config.test_labels.

    Raises CatalogError if the list cannot be read, does not fit the images, or holds numbers whose meaning is not
    known."""
    place = config.test_labels
    rows = _rows(place)
    bare = [(number, row) for number, scan in enumerate(scans) for row in _without_class(scan, config.split)]
    if not bare:
        raise CatalogError(
            f"test_labels: expected test images without a class, to which {place} could give one, got none"
        )
    keys = [scan.images["key"].to_pylist() for scan in scans]
    names = [keys[number][row] for number, row in bare]
    if all(len(row) == 1 for row in rows):
        listed = _in_order([row[0] for row in rows], names, place)
    else:
        listed = _by_name(rows, names, place)
    if not listed:
        raise CatalogError(
            f"test_labels: {place}: expected lines that name the test images, such as {names[0]}, got {rows[0][0]!r} "
            "and others"
        )
    classes = _spelled(listed, scans, place, config.test_label_numbers)
    given = {at: classes[name] for at, name in zip(bare, names, strict=True) if name in classes}
    note = f"the classes of {len(given):,} of {amount(len(bare), 'test image')} are those of {place}"
    first, *others = [
        _labeled(scan, {row: text for (at, row), text in given.items() if at == number})
        for number, scan in enumerate(scans)
    ]
    return [replace(first, notes=(*first.notes, note), files=with_file(first.files, absolute(place))), *others]


def _rows(place: str) -> list[list[str]]:
    """The lines of the list as their fields: the image and its class, or only the class."""
    try:
        text = decoded(read_bytes(absolute(place)))
    except UnicodeDecodeError as error:
        raise CatalogError(f"test_labels: {place}: {not_utf8(error)}") from None
    except OSError as error:
        raise CatalogError(f"test_labels: {place}: cannot be read: {error}") from error
    rows = [_fields(line) for line in text.splitlines() if line.strip()]
    if not rows:
        raise CatalogError(f"test_labels: {place}: expected one class a line, got an empty file")
    if len({len(row) for row in rows}) > 1:
        raise CatalogError(f"test_labels: {place}: expected lines of one kind, got some with and some without a name")
    return rows


def _fields(line: str) -> list[str]:
    """The image and the first word of what follows it, or the class alone."""
    first, mark, rest = [*re.split(r"([,;\t])", line.strip(), maxsplit=1), "", ""][:3]
    return [first.strip(), *rest.split()[:1]] if mark else line.split()[:2]


def _without_class(scan: Scan, given: Mapping[str, str]) -> list[int]:
    """The numbers of the rows of test images without a class. given: `IndexConfig.split`."""
    names = pc.unique(scan.images["split"]).drop_null().to_pylist()
    test = pa.array([name for name in names if split_role(name, given) == "test"], pa.string())
    wanted = pc.and_(pc.is_in(scan.images["split"], value_set=test), pc.is_null(scan.images["label"]))
    found: list[int] = pc.indices_nonzero(wanted).to_pylist()
    return found


def _in_order(classes: Sequence[str], names: Sequence[str], place: str) -> dict[str, str]:
    """One class a line, in the order of the images' names."""
    if len(classes) != len(names):
        raise CatalogError(
            f"test_labels: {place}: expected {len(names):,} lines, one for each test image without a class in the "
            f"order of their names, got {len(classes):,}"
        )
    return dict(zip(sorted(names, key=file_name), classes, strict=True))


def _by_name(rows: Sequence[Sequence[str]], names: Sequence[str], place: str) -> dict[str, str]:
    """The class by the image's name: its key, the end of its key, its file name, or that without the extension; accents
    may be in the other Unicode form."""
    listed: dict[str, str] = {}
    for name, label in rows:
        if listed.setdefault(name, label) != label:
            raise CatalogError(f"test_labels: {place}: {name}: expected one class, got {listed[name]} and {label}")
    found, other_forms = {}, _in_one_form(listed, names, place)
    for key in names:
        text = _first(listed, key) or _first(other_forms, composed(key))
        if text is not None:
            found[key] = text
    return found


def _in_one_form(listed: Mapping[str, str], names: Sequence[str], place: str) -> dict[str, str]:
    """The same by the composed name. Two forms of one name may have two classes only where both are names of images."""
    found: dict[str, str] = {}
    images = set(names)
    for name, label in listed.items():
        if found.setdefault(composed(name), label) != label and name not in images:
            raise CatalogError(
                f"test_labels: {place}: {name}: expected one class, got {found[composed(name)]} and {label}, under one "
                f"name in two Unicode forms"
            )
    return found


def _first(listed: Mapping[str, str], key: str) -> str | None:
    """The class under one of the names of an image."""
    ways = (key, *(key.split("/", depth)[-1] for depth in range(1, key.count("/") + 1)))
    ways += (file_name(key).rpartition(".")[0],)
    return next((listed[way] for way in ways if way in listed), None)


def _spelled(listed: Mapping[str, str], scans: Sequence[Scan], place: str, numbers: str) -> dict[str, str]:
    """The classes as the source spells them. Numbers become names where their meaning is known."""
    known = sorted({text for scan in scans for text in pc.unique(scan.images["label"]).drop_null().to_pylist()})
    values = set(listed.values())
    if not all(text.isdecimal() for text in values):
        return dict(listed)
    if known and all(name.isdecimal() for name in known):  # 16 is the class 00016
        by_number = {int(name): name for name in known}
        return {name: by_number.get(int(text), text) for name, text in listed.items()}
    if numbers == "sorted":
        if max(map(int, values)) >= len(known):
            raise CatalogError(
                f"test_labels: {place}: expected numbers below {len(known)}, one for each class, got "
                f"{max(values, key=int)}; the official list of ImageNet counts from 1 in another order"
            )
        return {name: known[int(text)] for name, text in listed.items()}
    table = next((join(folder, meta) for folder in [absolute(place).rpartition("/")[0]] for meta in _META
                  if is_file(join(folder, meta))), None)  # fmt: skip
    if table is None:
        raise CatalogError(
            f"test_labels: {place} holds numbers ({min(values, key=int)} to {max(values, key=int)}), which could be "
            "the IDs of ImageNet (from 1, in an order of their own) or positions in the sorted class names (from 0). "
            f"For the official {OFFICIAL} put meta.mat of ILSVRC2012_devkit_t12/data beside it; for the others pass "
            "--test-label-numbers sorted (in a run --data.test-label-numbers sorted); or give a list of class names, "
            "such as LOC_val_solution.csv of Kaggle"
        )
    wnids = official_ids(table)
    unknown = sorted(values - {str(number) for number in wnids}, key=int)
    if unknown:
        raise CatalogError(f"test_labels: {place}: expected numbers that {table} has, got {', '.join(unknown[:5])}")
    return {name: wnids[int(text)] for name, text in listed.items()}


def official_ids(table: str) -> dict[int, str]:
    """The WordNet ID by the number of ImageNet, from the devkit's meta.mat. Raises CatalogError."""
    from scipy.io import loadmat

    try:
        synsets = loadmat(io.BytesIO(read_bytes(table)), squeeze_me=True)["synsets"]
        found = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets.ravel()}
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise CatalogError(
            f"{table}: expected the synsets of ImageNet's devkit, got something else: {error}"
        ) from error
    wrong = next((text for text in found.values() if not _WNID.fullmatch(text)), "")
    if wrong:
        raise CatalogError(f"{table}: expected IDs such as n01440764, got {wrong!r}")
    return found


def _labeled(scan: Scan, given: Mapping[int, str]) -> Scan:
    labels = scan.images["label"].to_pylist()
    for row, text in given.items():
        labels[row] = text
    column = scan.images.schema.get_field_index("label")
    return replace(scan, images=scan.images.set_column(column, "label", pa.array(labels, pa.string())))
