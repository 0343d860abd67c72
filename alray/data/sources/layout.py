"""What the folders that images are in mean: a split, a class, annotations, or nothing.

A split folder may be at any one depth. The class of an image is the path between its split folder and its file,
without folders as `images`; or the path above the split folders where there is none below. Every decision is made once
for each folder, not for each image. Where a decision could be wrong, there is a sentence that says what to pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from alray.data.sources.folder_names import annotates, holds_images
from alray.data.sources.scan import CatalogError, ScanOptions, amount
from alray.data.sources.split_names import split_role
from alray.reasons import first_of

_SHOWN = 3


@dataclass(frozen=True)
class Layout:
    """What was understood of n names. Images of left-out folders are not among `split` and `label`.

    keep (n,) bool: whether the image is an image of the data set; split, label (k,) string for the k images that are
    kept: the folder that names the split, and the class; null where there is none. start: the path that all kept names
    begin with and that keys leave out, because masks have the same names below another folder. notes, doubts,
    named: as in `Scan`.
    """

    keep: npt.NDArray[np.bool_]
    split: pa.Array
    label: pa.Array
    start: str
    notes: tuple[str, ...]
    doubts: tuple[str, ...]
    named: frozenset[str]


@dataclass
class _Folder:
    """One distinct folder of images."""

    parts: tuple[str, ...]
    images: int
    split: str | None = None  # the name of its split folder
    above: tuple[str, ...] = ()  # the path before the split folder
    below: tuple[str, ...] = ()  # the path after it; the whole path where there are no splits
    label: str | None = None
    left_out: bool = False

    @property
    def path(self) -> str:
        return "/".join(self.parts) + "/" if self.parts else "."


@dataclass
class _Told:
    """Sentences for the user."""

    notes: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)


def understand(names: pa.Array | pa.ChunkedArray, options: ScanOptions, classes: bool = True) -> Layout:
    """What the folders of these image names (n,) mean. classes: whether folders may name classes at all."""
    paths = pc.replace_substring_regex(names, r"/?[^/]*$", "")
    encoded = (paths.combine_chunks() if isinstance(paths, pa.ChunkedArray) else paths).dictionary_encode()
    index = encoded.indices.to_numpy().astype(np.int64)
    sizes = np.bincount(index, minlength=len(encoded.dictionary)).tolist()
    folders = [
        _Folder(tuple(path.split("/")) if path else (), size)
        for path, size in zip(encoded.dictionary.to_pylist(), sizes, strict=True)
    ]
    told = _Told()
    given = options.split
    start = _leave_out(folders, given, told)
    kept = [folder for folder in folders if not folder.left_out]
    _find_splits(kept, given, told)
    kept = [folder for folder in kept if not folder.left_out]
    if classes:
        _find_classes(kept, options.class_depth, told)
    keep = ~np.array([folder.left_out for folder in folders], bool)[index]
    at = pa.array(index[keep])
    return Layout(
        keep,
        pa.array([folder.split for folder in folders], pa.string()).take(at),
        pa.array([folder.label for folder in folders], pa.string()).take(at),
        start,
        tuple(told.notes),
        tuple(told.doubts),
        frozenset(given.keys() & {part for folder in folders for part in folder.parts}) | (given.keys() & {"."}),
    )


def places(keys: Sequence[str], classes: bool = True) -> tuple[list[str | None], list[str | None]]:
    """The split (train or test) and the class of each key (n,) in a folder of files with these names; None where its
    folders name none.

    Raises CatalogError if such a folder could not be indexed with these keys.
    """
    layout = understand(pa.array(keys, pa.string()), ScanOptions(), classes)
    if not layout.keep.all() or layout.start:
        first = keys[int(np.argmin(layout.keep))]
        raise CatalogError(f"{first}: a file of this name would be left out: {'; '.join(layout.notes + layout.doubts)}")
    if layout.doubts:
        raise CatalogError(f"the keys could not be names of files again: {'; '.join(layout.doubts)}")
    return [split and split_role(split, {}) for split in layout.split.to_pylist()], layout.label.to_pylist()


def _leave_out(folders: list[_Folder], given: Mapping[str, str], told: _Told) -> str:
    """Leave out folders that the user ignores, and folders of masks. Returns the path that keys leave out."""
    beside: dict[tuple[str, ...], set[str]] = {}
    for folder in folders:
        for depth, part in enumerate(folder.parts):
            beside.setdefault(folder.parts[:depth], set()).add(part)
    masks = {
        (*parent, name)
        for parent, names in beside.items()
        for name in names
        if name not in given and annotates(name, names - {name})
    }
    ignored, annotations = Counter[str](), Counter[str]()
    for folder in folders:
        by_user = [part for part in folder.parts or (".",) if given.get(part) == "ignore"]
        of_masks = [place for depth in range(len(folder.parts)) if (place := folder.parts[: depth + 1]) in masks]
        if by_user:
            ignored[by_user[0]] += folder.images
        elif of_masks:
            annotations["/".join(of_masks[0])] += folder.images
        folder.left_out = bool(by_user or of_masks)
    for name, images in ignored.items():
        told.notes.append(f"{name}: {amount(images, 'image')} left out, as --split says")
    if annotations:
        told.notes.append(
            f"left out as masks or other annotations: {amount(annotations.total(), 'file')} in {_counted(annotations)} "
            f"(--split {next(iter(annotations)).rpartition('/')[2]} class makes it an ordinary folder)"
        )
    return _start([folder for folder in folders if not folder.left_out], masks, told)


def _start(kept: list[_Folder], masks: set[tuple[str, ...]], told: _Told) -> str:
    for parent in {place[:-1] for place in masks}:
        inside = {folder.parts[: len(parent) + 1] for folder in kept}
        if len(inside) == 1 and len(only := inside.pop()) == len(parent) + 1 and holds_images(only[-1]):
            told.notes.append(
                f"keys begin after {'/'.join(only)}/, so that masks in a folder beside it have the same names"
            )
            return "/".join(only) + "/"
    return ""


def _find_splits(folders: list[_Folder], given: Mapping[str, str], told: _Told) -> None:
    """Find the depth at which folders name splits, and what is above and below."""

    def role(folder: _Folder, depth: int) -> str | None:
        return split_role(folder.parts[depth], given) if depth < len(folder.parts) else None

    depths = range(max((len(folder.parts) for folder in folders), default=0))
    everywhere = (depth for depth in depths if all(role(folder, depth) for folder in folders))
    somewhere = (depth for depth in depths if any(role(folder, depth) for folder in folders))
    depth = next(everywhere, next(somewhere, None))
    for folder in folders:
        folder.below = folder.parts
    if depth is not None:
        _leave_out_others([folder for folder in folders if not role(folder, depth)], folders, depth, told)
        inside = [folder for folder in folders if not folder.left_out]
        end = depth + 1
        while all(role(folder, end) == role(folder, depth) for folder in inside):  # seg_train/seg_train/class
            end += 1
        for folder in inside:
            folder.split, folder.above, folder.below = folder.parts[depth], folder.parts[:depth], folder.parts[end:]
    common = _common([folder.below for folder in folders if not folder.left_out])
    images = max((depth + 1 for depth, part in enumerate(common) if holds_images(part)), default=0)
    for folder in folders:
        folder.below = folder.below[images:]  # VOC2012/JPEGImages: what is above the folder of all images is no class
        folder.above, folder.below = (
            tuple(part for part in parts if not holds_images(part) or given.get(part) == "class")
            for parts in (folder.above, folder.below)
        )


def _common(paths: list[tuple[str, ...]]) -> tuple[str, ...]:
    """The folders that all paths begin with."""
    first, last = min(paths, default=()), max(paths, default=())
    return first[: next((at for at, part in enumerate(first) if at >= len(last) or part != last[at]), len(first))]


def _leave_out_others(others: list[_Folder], folders: list[_Folder], depth: int, told: _Told) -> None:
    """Leave out images that are in no split folder, although there are split folders at this depth."""
    if not others:
        return
    names = Counter[str]()
    for folder in others:
        folder.left_out = True
        names[folder.parts[depth] if depth < len(folder.parts) else "."] += folder.images
    splits = sorted({folder.parts[depth] for folder in folders if not folder.left_out})
    total = sum(folder.images for folder in folders)
    name = next(iter(names))
    told.doubts.append(
        f"{_counted(names)}: {names.total():,} of {amount(total, 'image')} in no split folder; the split folders are "
        f"{', '.join(splits)}. Pass --split {name} train, --split {name} test or --split {name} "
        "ignore; --yes leaves them out"
        + (f". If {splits[0]} is a class here, pass --split {splits[0]} class" if len(splits) == 1 else "")
    )


def _find_classes(folders: list[_Folder], depth: int, told: _Told) -> None:
    """Name the class of each folder by its path below the split folder, or above it."""
    above = {folder.above for folder in folders}
    if len(above) > 1:
        if not any(folder.below for folder in folders):
            for folder in folders:
                folder.below = folder.above
            told.notes.append("the folders above those of the splits name the classes")
        else:
            first = sorted("/".join(path) or "." for path in above)[:_SHOWN]
            told.doubts.append(
                f"the split folders are in {len(above)} different folders ({', '.join(first)}...), and folders below "
                "them would name the classes. Index one of these folders alone; --yes indexes all of them, with the "
                "classes below the split folders"
            )
    _drop_common([folder for folder in folders if folder.below])
    if not depth:
        _check_depths(folders, told)
    if depth:
        _check_given_depth(folders, depth, told)
    for folder in folders:
        path = folder.below[:depth] if depth else folder.below
        folder.label = "/".join(path) if path and len(path) >= depth else None


def _check_given_depth(folders: list[_Folder], depth: int, told: _Told) -> None:
    """Doubt a depth that the user gave where images lie in fewer folders: they would get no class."""
    short = [folder for folder in folders if len(folder.below) < depth]
    images, without = (sum(folder.images for folder in some) for some in (folders, short))
    if without:
        told.doubts.append(
            f"--class-depth {depth}: {without:,} of {amount(images, 'image')} lie in fewer folders, as in "
            f"{short[0].path or '.'}, and get no class. Pass the number of folders that name the class"
        )


def _drop_common(folders: list[_Folder]) -> None:
    """Take off folders that all images are in: they tell no classes apart."""
    while len({folder.below[0] for folder in folders}) == 1 and all(len(folder.below) > 1 for folder in folders):
        for folder in folders:
            folder.below = folder.below[1:]


def _check_depths(folders: list[_Folder], told: _Told) -> None:
    """Doubt classes at different depths. A split without any folder has no classes, which is no doubt here."""
    named = {folder.split for folder in folders if folder.below}
    depths: dict[int, list[_Folder]] = {}
    for folder in folders:
        if folder.split in named:
            depths.setdefault(len(folder.below), []).append(folder)
    if len(depths) < 2:
        return
    found = [
        f"{amount(sum(folder.images for folder in depths[depth]), 'image')} {depth} deep ({depths[depth][0].path})"
        for depth in sorted(depths)
    ]
    least = min(depth for depth in depths if depth)
    told.doubts.append(
        f"folders name the classes at different depths: {', '.join(found)}. Pass --class-depth {least} to take so many "
        "folders as the class, or --label-column '' if the folders are no classes; --yes takes the whole path"
        + (", and leaves images at depth 0 without a label" if 0 in depths else "")
    )


def _counted(names: Counter[str]) -> str:
    return first_of([f"{name} ({images:,})" for name, images in names.most_common()], most=_SHOWN)
