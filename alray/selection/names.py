"""The keys of the rows of `alray select`, from a catalog or a file, and rows that are given by their keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from alray.data.sources.damaged import instead
from alray.data.sources.text_files import UTF_8, decoded, encoding_of, separator
from alray.features.arrays import Integers, Rows
from alray.selection.protocol import SelectionError
from alray.spelling import places_of
from alray.store import absolute, read_bytes

ROW, KEY = "row", "key"
_HEAD = 1 << 16  # bytes in which the first line of a table must end
TABLES = (".csv", ".tsv", ".parquet")  # endings of files that have columns


@dataclass(frozen=True, eq=False)
class Names:
    """keys (n,) of the rows 0 to n - 1; uris (n,), or None where they are not known; where: where they come from."""

    keys: pa.Array
    uris: pa.Array | None
    where: str
    apart: Rows | None = None  # the rows of the test and validation splits, where a catalog knows them

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def _dictionary(self) -> pa.Array:
        return self.keys.cast(pa.string())

    def rows_of(self, keys: Sequence[str], path: str) -> Rows:
        """The rows of these keys. path: of the file that has them, for messages. Raises SelectionError."""
        wanted = pa.array(keys, pa.string())
        found = places_of(wanted, self._dictionary)
        if found.null_count:
            first = keys[int(np.argmax(found.is_null().to_numpy(zero_copy_only=False)))]
            raise SelectionError(
                f"{path}: {found.null_count:,} of {len(keys):,} keys are not among the {len(self):,} keys of "
                f"{self.where}; the first is {first!r}"
            )
        return np.asarray(found.to_numpy(zero_copy_only=False), np.int64)

    def has(self, keys: Sequence[str]) -> bool:
        """Whether all of these are keys."""
        return not places_of(pa.array(keys, pa.string()), self._dictionary).null_count

    def held_out(self, rows: Rows) -> int:
        """How many of these rows are in the test or validation split."""
        return 0 if self.apart is None else int(np.isin(rows, self.apart).sum())

    def check(self, rows: Integers, numbered: bool) -> None:
        """Raise SelectionError unless there is one key for each of these ascending rows. numbered: whether a column has
        given the row numbers, so that some of them may be missing."""
        n = int(rows[-1]) + 1 if len(rows) else 0
        if n > len(self) or (n < len(self) and not numbered):
            raise SelectionError(f"{self.where}: expected {n:,} keys, one for each row, got {len(self):,}")

    def named(self, picks: pa.Table) -> pa.Table:
        """The table of picks with the columns key and, where they are known, uri."""
        for name, column in ((KEY, self.keys), ("uri", self.uris)):
            if column is not None:
                picks = picks.append_column(name, column.take(picks[ROW].combine_chunks()))
        return picks


def read_names(catalog: str, keys: str) -> Names | None:
    """The names of the rows from a catalog's directory, or from a file of keys in row order; None if neither is given.
    Raises SelectionError, CatalogError."""
    if catalog and keys:
        raise SelectionError("expected --catalog or --keys, got both")
    if catalog:
        from alray.data.catalog import Catalog

        opened = Catalog.open(catalog)
        places = opened.references(np.arange(len(opened)))
        apart = np.flatnonzero(opened.is_test() | opened.is_validation())
        return Names(places[KEY].combine_chunks(), places["uri"].combine_chunks(), f"the catalog {catalog}", apart)
    if not keys:
        return None
    return Names(_unique(_in_order(keys), keys), None, keys)


def names_in(path: str, names: Names | None) -> Names | None:
    """The names of the rows, where a Parquet file of features has a column key; else those that are known already.
    Raises SelectionError where the two differ: the file's rows may be in another order."""
    there = pq.read_schema(path).names if path.endswith(".parquet") else []
    if KEY not in there:
        return names
    table = pq.read_table(path, columns=[name for name in (ROW, KEY) if name in there])
    keys = table[KEY].cast(pa.string()).to_pylist()
    rows = table[ROW].to_numpy() if ROW in table.column_names else np.arange(len(keys))
    if names is None:
        whole = np.array_equal(np.sort(rows), np.arange(len(rows)))
        ordered = [keys[at] for at in np.argsort(rows)]
        return Names(_unique(ordered, path), None, path) if whole else None
    known = names.keys.cast(pa.string()).to_pylist()
    for row, key in zip(rows.tolist(), keys, strict=True):
        if not 0 <= row < len(known) or known[row] != key:
            other = f"{known[row]!r}" if 0 <= row < len(known) else "none"
            raise SelectionError(f"{path}: row {row:,} has the key {key!r}, and in {names.where} {other}")
    return names


def _in_order(path: str) -> list[str]:
    """The keys of a file: one a line, or the column key of CSV or Parquet, sorted by the column row if there is one."""
    if not path.endswith(TABLES):
        return read_lines(path)
    try:
        table = read_table(path)
    except (OSError, ValueError) as error:
        raise SelectionError(f"{path}: expected a table of keys, got {instead(path, error)}") from None
    if KEY not in table.column_names:
        raise SelectionError(f"{path}: expected a column 'key', got {', '.join(table.column_names)}")
    keys: list[str] = table[KEY].cast(pa.string()).to_pylist()
    if ROW not in table.column_names:
        return keys
    rows = table[ROW].to_numpy()
    if not np.array_equal(np.sort(rows), np.arange(len(rows))):
        raise SelectionError(f"{path}: expected the rows 0 to {len(rows) - 1:,} in the column 'row', each once")
    return [keys[at] for at in np.argsort(rows).tolist()]


def _unique(keys: list[str], path: str) -> pa.Array:
    seen: set[str] = set()
    for at, key in enumerate(keys):
        if not key:
            raise SelectionError(f"{path}: expected a key for each row, row {at:,} has none")
        if key in seen:
            raise SelectionError(f"{path}: expected each key once, got {key!r} again in row {at:,}")
        seen.add(key)
    return pa.array(keys, pa.string())


def read_table(path: str) -> pa.Table:
    """A CSV (separated by commas, semicolons or tabs), TSV or Parquet file; keys are text, also where they look like
    numbers. Raises OSError, ValueError."""
    if path.endswith(".parquet"):
        return pq.read_table(path)
    text = pacsv.ConvertOptions(column_types={KEY: pa.string(), "uri": pa.string()})
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    encoding = encoding_of(head)
    mark = "\t" if path.endswith(".tsv") else separator(head.decode(encoding, "ignore"))
    read = pacsv.ReadOptions(encoding="utf8" if encoding == UTF_8 else encoding)  # Arrow passes over a mark by itself
    return pacsv.read_csv(path, read, pacsv.ParseOptions(delimiter=mark), text)


def read_lines(path: str) -> list[str]:
    """The lines of a text file, without empty ones at the end. Raises SelectionError."""
    try:
        lines = decoded(read_bytes(absolute(path))).split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SelectionError(f"{path}: expected keys, one a line, got {instead(path, error)}") from None
    lines = [line.removesuffix("\r") for line in lines]
    while lines and not lines[-1]:
        lines.pop()
    return lines
