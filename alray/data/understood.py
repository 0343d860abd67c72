"""What was understood of a source, in sentences for the user, and what of it looks wrong.

A wrong guess about a structure costs a whole run. So it is said what was understood; and where that is seldom what
anybody means, no catalog is written until the user says more, or accepts it with --yes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from alray.data.assemble import Assembled
from alray.data.problems import UNKNOWN_CLASS, counts, in_words, lost, other_labels
from alray.data.sources.kinds import SOURCES
from alray.data.sources.scan import Scan, SplitCount, amount
from alray.data.sources.split_names import ROLES, VALIDATION, kind_of_split
from alray.reasons import first_of, short, some_classes, terminal

_ANNOTATIONS = (".txt", ".xml", ".json")  # files of annotations: as many as there are images are nothing strange
_LISTS = 5  # and some more, such as lists of classes


@dataclass(frozen=True)
class Understood:
    """lines: what was understood, to be printed; doubts: what looks wrong, each with what to pass."""

    lines: tuple[str, ...]
    doubts: tuple[str, ...]

    def accepted(self) -> list[str]:
        """The sentences for a catalog that is written all the same, without what one could have passed."""
        return [*self.lines, *(f"accepted by --yes: {doubt.partition('. ')[0]}" for doubt in self.doubts)]

    def refusal(self, source: str) -> str:
        """The error message if something looks wrong, else an empty text."""
        if not self.doubts:
            return ""
        understood = [f"{source}: this looks wrong, so no catalog was written. What was understood:", *self.lines]
        wrong = ["What looks wrong:", *self.doubts]
        end = "Pass --yes if it is right as it is (in a run --data.yes, --data.split and so on)."
        return "\n".join(["\n  ".join(map(terminal, understood)), "\n  ".join(map(terminal, wrong)), end])


@dataclass(frozen=True)
class _Counts:
    """Numbers of images. train, test, validation (c,) int64: with each class, of the images for training and so on."""

    images: int
    train: npt.NDArray[np.int64]
    test: npt.NDArray[np.int64]
    validation: npt.NDArray[np.int64]
    train_images: int
    test_images: int
    validation_images: int

    @property
    def by_class(self) -> npt.NDArray[np.int64]:
        return self.train + self.test + self.validation


def understood(
    scans: Sequence[Scan], found: Assembled, given: Collection[str], *, from_folders: bool, wants_test: bool
) -> Understood:
    """What the scans of a source, with roles, and the images assembled from them hold.

    given: names whose meaning the user gave (`IndexConfig.split`); from_folders: whether names of folders may be the
    classes; wants_test: whether missing test images look wrong.
    """
    numbers = _count(found)
    splits = [split for scan in scans for split in scan.splits if split.images]
    ignored: Counter[str] = sum((Counter(scan.ignored) for scan in scans), Counter())
    lines = [
        _splits_line(numbers, splits),
        _classes_line(numbers, found.classes),
        _labels_line(numbers),
        *_counted_otherwise(scans, found),
        _ignored_line(ignored),
        *_notes(splits, numbers),
        *dict.fromkeys([*(note for scan in scans for note in scan.notes), *found.notes]),
    ]
    doubts = [
        *(doubt for scan in scans for doubt in scan.doubts),
        *_twice([split for split in splits if split.name not in given]),
        *_split_doubts(splits, numbers, wants_test),
        *_class_doubts(numbers, found.classes, given, from_folders),
        *_loss_doubts(found, from_folders),
        *_ignored_doubts(ignored, sum(len(scan.images) + scan.left_out for scan in scans)),
    ]
    return Understood(tuple(lines), tuple(dict.fromkeys(doubts)))


def _count(found: Assembled) -> _Counts:
    labels = pc.fill_null(found.images["label"], len(found.classes)).to_numpy()
    size = len(found.classes) + 1  # the last one counts images without a label
    parts = [pc.equal(found.images["split"], role).to_numpy() for role in ROLES]
    train, test, held_out = (np.bincount(labels[rows], minlength=size)[:-1] for rows in parts)
    return _Counts(len(labels), train, test, held_out, *(int(rows.sum()) for rows in parts))


def _splits_line(counts: _Counts, splits: Sequence[SplitCount]) -> str:
    def part(role: str, images: int) -> str:
        names = Counter[str]()
        for split in splits:
            if split.role == role:
                names[split.name or "without a name"] += split.images
        if names.keys() <= {role, "without a name"}:
            return f"{images:,} {role}"
        shown = ", ".join(f"{name} {number:,}" if len(names) > 1 else name for name, number in names.items())
        return f"{images:,} {role} ({shown})"

    held_out = f", {part(VALIDATION, counts.validation_images)}" if counts.validation_images else ""
    return (
        f"{amount(counts.images, 'image')}: {part('train', counts.train_images)}, {part('test', counts.test_images)}"
        f"{held_out}"
    )


def _classes_line(counts: _Counts, classes: Sequence[str]) -> str:
    if not classes:
        return "no classes"
    sizes = counts.by_class
    large, small = int(sizes.argmax()), int(sizes.argmin())
    number = amount(len(classes), "class", "classes")
    if not sizes.any():
        return f"{number} that no image has so far: {some_classes(classes)}"
    if sizes[large] == sizes[small]:
        return f"{number} of {amount(sizes[large], 'image')} each: {some_classes(classes)}"
    return (
        f"{len(classes):,} classes, the largest {short(classes[large])!r} with {amount(sizes[large], 'image')}, the "
        f"smallest {short(classes[small])!r} with {sizes[small]:,}: {some_classes(classes)}"
    )


def _labels_line(counts: _Counts) -> str:
    train = counts.train_images - int(counts.train.sum())
    test = counts.test_images - int(counts.test.sum())
    held_out = counts.validation_images - int(counts.validation.sum())
    if not train + test + held_out:
        return "every image has a label"
    more = f", {held_out:,} {VALIDATION}" if held_out else ""
    return f"{amount(train + test + held_out, 'image')} without a label ({train:,} train, {test:,} test{more})"


def _counted_otherwise(scans: Sequence[Scan], found: Assembled) -> Iterator[str]:
    """A sentence on counts that were made before images were left out."""
    if len(found.problems) and any(scan.doubts for scan in scans):
        kinds = counts(found.problems)
        yield f"the {lost(kinds)} left out ({in_words(kinds)}) are not among these, but where folders are counted"


def _by_size(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def _ignored_line(ignored: Mapping[str, int]) -> str:
    if not ignored:
        return "no file was ignored"
    first = first_of([f"{suffix} {number:,}" for suffix, number in sorted(ignored.items(), key=_by_size)])
    return f"{amount(sum(ignored.values()), 'file')} of other kinds ignored: {first}"


def _notes(splits: Sequence[SplitCount], counts: _Counts) -> Iterator[str]:
    kinds = dict.fromkeys(kind_of_split(split.name) for split in splits if split.role == "test")
    if {"val", "test"} <= kinds.keys():
        each = [split for split in splits if split.role == "test" and split.name]
        names = " and ".join(f"{split.name} ({split.images:,})" for split in each)
        first = next(split.name for split in each if kind_of_split(split.name) == "val")
        yield (
            f"{names} are both used as test images; --split {first} train puts {first} into the pool, "
            f"--split {first} validation makes it the validation set, and --split {first} ignore leaves it out"
        )
    labeled = int(counts.by_class.sum())
    for split in splits:
        if labeled and split.role == "test" and split.unlabeled:
            yield (
                f"{split.name or 'test'}: {split.unlabeled:,} of {amount(split.images, 'image')} without a label, "
                "which cannot be used for testing"
            )


def _twice(splits: Sequence[SplitCount]) -> Iterator[str]:
    by_kind: dict[tuple[str | None, str], dict[str, int]] = {}
    for split in splits:
        names = by_kind.setdefault((kind_of_split(split.name), split.role), {})
        names[split.name] = names.get(split.name, 0) + split.images
    for (kind, _), names in by_kind.items():
        if kind and len(names) > 1:
            each = ", ".join(f"{name} ({number:,})" for name, number in names.items())
            yield (
                f"{each}: these names mean the same split, and one may be a copy of another. Pass --split "
                f"{min(names)} ignore to leave one out; --yes uses all of them"
            )


def _split_doubts(splits: Sequence[SplitCount], counts: _Counts, wants_test: bool) -> Iterator[str]:
    labeled = int(counts.by_class.sum())
    if counts.images and not counts.train_images:
        name = next((split.name for split in splits if split.name), "NAME")
        others = "test or validation images" if counts.validation_images else "test images"
        yield f"all images are {others}, and none is left to learn from. Pass --split {name} train to change that"
    elif wants_test and labeled and not counts.test_images:
        yield (
            "there are no test images. Pass --test-root FOLDER, or --split NAME test if they have another name; with "
            "--yes there are none, and a run can set some aside (--split.test-share 0.1)"
        )
    elif wants_test and labeled and not counts.test.sum():
        yield (
            f"none of the {counts.test_images:,} test images has a label, so no accuracy can be measured. Put them "
            "into one folder per class, pass --test-labels FILE with a list of their classes, or list all images in a "
            "CSV file (path, label, split); with --yes they stay without labels"
        )


def _class_doubts(counts: _Counts, classes: Sequence[str], given: Collection[str], from_folders: bool) -> Iterator[str]:
    sizes = counts.by_class
    present = [name for name, size in zip(classes, sizes.tolist(), strict=True) if size]
    named = [name for name in present if any(kind_of_split(part) for part in name.split("/") if part not in given)]
    if named and 2 * len(named) >= len(present):
        yield (
            f"{some_classes(named)}: these classes have the names of splits. "
            + ("Index the folder whose folders are the splits" if from_folders else "Pass another --label-column")
            + (f", or pass --split {named[0]} class if it is a class" if from_folders else "")
        )
    elif len(present) == 1:
        yield (
            f"all labels are {short(present[0])!r}, so there is nothing to learn. Index the folder above if its "
            "folders are the classes, or pass --label-column '' if the images have no labels"
            if from_folders
            else f"all labels are {short(present[0])!r}, so there is nothing to learn. Pass another --label-column, or "
            "--label-column '' if the images have no labels"
        )
    unknown = [classes[number] for number in np.flatnonzero((counts.test > 0) & (counts.train == 0)).tolist()]
    if unknown and counts.train.sum():
        yield (
            f"{len(unknown):,} of {len(present):,} classes have test images but no training image: "
            f"{some_classes(unknown)}. {other_labels(from_folders)}"
        )


def _loss_doubts(found: Assembled, from_folders: bool) -> Iterator[str]:
    """Doubt a catalog that would have fewer images than are left out."""
    kept = len(found.images)
    if kept and len(found.problems) > kept:
        kinds = counts(found.problems)
        other = "Pass the folder or list of the images that are meant"
        advice = other_labels(from_folders) if UNKNOWN_CLASS in kinds else other
        left = f"{lost(kinds)}, and {amount(kept, 'image')} used ({in_words(kinds)})"
        yield f"most images would be left out, {left}. {advice}"


def _ignored_doubts(ignored: Mapping[str, int], images: int) -> Iterator[str]:
    strange = {
        suffix: number
        for suffix, number in ignored.items()
        if suffix != "hidden" and not (suffix in _ANNOTATIONS and number <= images + _LISTS)
    }
    if sum(strange.values()) > images:
        most = max(strange, key=lambda suffix: strange[suffix])
        other = next((kind.name for kind in SOURCES.values() if most in kind.extensions), "")
        yield (
            f"most files are not images that can be read here: {sum(strange.values()):,} others, most of them {most}, "
            f"and {images:,} images." + (f" Pass --format {other} to read these" if other else "")
        )
