"""Images with the same bytes: how many there are, in which splits, and with which labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from alray.data.sources.scan import amount

Groups = npt.NDArray[np.int64]


def copy_notes(images: pa.Table, classes: Sequence[str]) -> list[str]:
    """Sentences on images whose bytes are the same. Only images that were read count: those with a hash.

    images: columns key, size, label, split, hash in row order.
    """
    rows, group = _grouped(images)
    if not len(rows):
        return []
    groups, keys = int(group[-1]) + 1, images["key"]
    split = images["split"].combine_chunks().take(pa.array(rows))
    label = pc.fill_null(images["label"], -1).to_numpy()[rows]

    def named(*places: int) -> str:
        return " and ".join(keys[int(rows[place])].as_py() for place in places)

    of = f"{amount(len(rows), 'image')} with the same bytes as another one"
    notes = [f"{of} ({amount(groups, 'set')} of equal ones), as {named(0, 1)}"]
    test = pc.equal(split, "test").to_numpy(zero_copy_only=False)
    both = _in(group[test], groups) & _in(group[~test], groups)
    if both.any():
        leaked = int(both[group[test]].sum())
        notes.append(f"{amount(leaked, 'test image')} with the same bytes as one that is not in the test split")
    known = label >= 0
    low, high = np.full(groups, len(classes)), np.full(groups, -1)
    np.minimum.at(low, group[known], label[known])
    np.maximum.at(high, group[known], label[known])
    unequal = low < high
    if unequal.any():
        number, own = int((unequal[group] & known).sum()), np.flatnonzero((group == np.argmax(unequal)) & known)
        pair = named(own[0], own[label[own] != label[own[0]]][0])
        notes.append(f"{amount(number, 'image')} with the same bytes as one of another label, as {pair}")
    return notes


def _grouped(images: pa.Table) -> tuple[npt.NDArray[np.int64], Groups]:
    """The rows of images that have copies, and for each the number of its group of equal ones, ascending in both."""
    known = np.flatnonzero(pc.is_valid(images["hash"]).to_numpy())
    hashes = pc.fill_null(images["hash"], 0).to_numpy()[known]
    sizes = pc.fill_null(images["size"], -1).to_numpy()[known]
    order = np.lexsort((sizes, hashes))  # stable: rows ascend in each group
    new = np.ones(len(order), bool)
    new[1:] = (np.diff(hashes[order]) != 0) | (np.diff(sizes[order]) != 0)
    number = np.cumsum(new) - 1
    again = np.bincount(number, minlength=1)[number] > 1 if len(number) else new[:0]
    rows, number = known[order][again], number[again]
    _, first, group = np.unique(number, return_index=True, return_inverse=True)
    place = np.argsort(np.argsort(rows[first]))  # groups in the order of their first rows
    group = place[group]
    by_group = np.lexsort((rows, group))
    return rows[by_group], group[by_group].astype(np.int64)


def _in(group: Groups, groups: int) -> npt.NDArray[np.bool_]:
    """Which of the groups have any of these members."""
    return np.bincount(group, minlength=groups) > 0
