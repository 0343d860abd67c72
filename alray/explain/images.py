"""Finds the image that a user means in a catalog: by key, URI, or the end of its key's path."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from alray.data.catalog import Catalog
from alray.reasons import from_terminal, near, similar, terminal
from alray.spelling import apart, composed, same_end, spellings


class UnknownImage(ValueError):  # noqa: N818  it is an error by its base
    """No image, or more than one, has this name. The message names similar keys."""


def find(catalog: Catalog, name: str) -> int:
    """The row of the image with this key, with this URI, or with the only key whose path ends so; accents may be
    written in the other Unicode form, and characters as alray shows them, such as \\n and \\u0301. Raises
    UnknownImage."""
    keys = catalog.keys().cast(pa.string())
    for meant in dict.fromkeys([name, from_terminal(name)]):
        exact: int = pc.index(keys, meant).as_py()
        rows = np.array([exact]) if exact >= 0 else _rows(catalog, keys, pa.array(spellings(meant)))
        if len(rows):
            break
    if len(rows) == 1:
        return int(rows[0])
    if len(rows):
        some = " and ".join(apart([terminal(keys[row].as_py()) for row in rows[:2].tolist()]))
        raise UnknownImage(f"{name!r} fits {len(rows):,} images, among them {some}; give the whole key")
    raise UnknownImage(
        f"{name!r} is not the key of one of the {len(keys):,} images of the catalog{_similar(keys, name)}"
    )


def _rows(catalog: Catalog, keys: pa.Array, names: pa.Array) -> npt.NDArray[np.int64]:
    """The rows of the images that have one of these names as their key; if there are none, as their URI; if there are
    none, as the end of their key. names: the spellings of one name."""
    rows = _true(pc.is_in(keys, value_set=names))
    if not len(rows):
        uris = catalog.references(np.arange(len(catalog)))["uri"].cast(pa.string())
        rows = _true(pc.is_in(uris, value_set=names))
    if len(rows):
        return rows
    paths = [name.replace("\\", "/") for name in names.to_pylist()]
    tails = {path.rpartition("/")[2] for path in paths} - {""}
    ending = np.unique(np.concatenate([rows, *(_true(pc.ends_with(keys, tail)) for tail in tails)]))
    wanted = composed(paths[0])
    return np.array([row for row in ending.tolist() if same_end(composed(keys[row].as_py()), wanted)], np.int64)


def _true(mask: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    return np.flatnonzero(np.asarray(mask.to_numpy(zero_copy_only=False), bool))


def _similar(keys: pa.Array, name: str) -> str:
    """A part of a sentence with similar keys, among those that are sorted near the name."""
    name = from_terminal(name)
    nearby = near(name, len(keys), lambda at: str(keys[at].as_py()))
    close = similar(name, nearby, 3)
    said = f"; similar keys: {', '.join(close)}" if close else f"; keys look like {nearby[len(nearby) // 2]}"
    return terminal(said)
