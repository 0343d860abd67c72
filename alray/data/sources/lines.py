"""Read a list, CSV or JSON lines, to the columns that are wanted; lines that cannot be read are told by number.

All columns of a CSV are text, so that keys keep their zeros. pyarrow reads the file. Only if something is wrong is the
file read again in Python, to find the numbers of the lines.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json

from alray.data.sources.label_text import scalar_text
from alray.data.sources.scan import CatalogError, file_name
from alray.reasons import LFS_POINTER, is_lfs_pointer, why
from alray.store import filesystem

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_JSON = (".jsonl", ".ndjson", ".json")
_COMPRESSED = (".gz", ".bz2", ".zst", ".lz4")
_HEAD = 1 << 20  # bytes in which the header of a CSV must end
_NEWLINE = b"\n"
_EXACT = 2**53  # from here on, not every whole number is a floating-point number

Choose = Callable[[Sequence[str]], Sequence[str]]  # the wanted columns, given the names of all; raises CatalogError


@dataclass
class Listing:
    """rows: the wanted columns, all text. broken: number of the line, from 1, and reason of each line that was left
    out. numbers: the line of each of some rows. notes: sentences for the user."""

    rows: pa.Table
    broken: list[tuple[int, str]]
    numbers: Callable[[Sequence[int]], list[int]]
    notes: list[str] = field(default_factory=list)


def read_list(uri: str, recognised: Callable[[Sequence[str]], bool], choose: Choose) -> Listing:
    """Read a CSV (separated by commas, semicolons, tabs or bars) or JSON lines, in UTF-8.

    recognised: whether a header has a column of images, which tells the separator. Raises CatalogError if the file does
    not exist, is not such a list, or is not in UTF-8.
    """
    data = _bytes(uri)
    try:
        if _is_json(uri):
            return _read_json(data, uri, choose)
        return _read_csv(data, uri, recognised, choose)
    except UnicodeDecodeError:
        raise _not_utf8(data, uri) from None


def _is_json(uri: str) -> bool:
    name = file_name(uri).lower()
    for end in _COMPRESSED:
        name = name.removesuffix(end)
    return name.endswith(_JSON)


def _bytes(uri: str) -> bytes:
    fs, path = filesystem(uri)
    try:
        with fs.open_input_stream(path) as file:  # it decompresses by the file's name
            data = bytes(file.read())
    except FileNotFoundError as error:
        raise CatalogError(f"{uri}: no such file") from error
    except (pa.ArrowException, OSError) as error:
        raise CatalogError(f"{uri}: cannot be read: {why(error)}") from error
    if is_lfs_pointer(data):
        raise CatalogError(f"{uri}: {LFS_POINTER}")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise CatalogError(f"{uri}: expected text in UTF-8, got UTF-16; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)")
    if (zero := data.find(b"\0")) >= 0:
        raise CatalogError(f"{uri}: line {data.count(_NEWLINE, 0, zero) + 1}: expected text, got a zero byte")
    return data.removeprefix(b"\xef\xbb\xbf")


def _not_utf8(data: bytes, uri: str) -> CatalogError:
    """The error for text in another encoding, with the number of the first such line."""
    bad = [(number, line) for number, line in enumerate(data.split(_NEWLINE), 1) if not _is_utf8(line)]
    number, line = bad[0] if bad else (1, data)
    more = f" and in {len(bad) - 1} other lines" if len(bad) > 1 else ""
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return CatalogError(
            f"{uri}: line {number}: {why(error)}{more}; save it as UTF-8 (from Latin-1: iconv -f LATIN1 -t UTF-8)"
        )
    return CatalogError(f"{uri}: expected text in UTF-8")


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


# ---- CSV


def _read_csv(data: bytes, uri: str, recognised: Callable[[Sequence[str]], bool], choose: Choose) -> Listing:
    if not data.strip():
        raise CatalogError(f"{uri}: expected a list of images, got an empty file")
    _refuse_open_quote(data, uri)
    separator, names, skip = _header(data, recognised)
    wanted = list(choose(names))
    at = [str(names.index(name)) for name in wanted]
    rows, skipped = _parse_csv(data, uri, separator, [str(i) for i in range(len(names))], at, skip)
    broken = _broken_rows(data, separator, len(names)) if skipped else []
    if skipped and not broken:
        raise CatalogError(f"{uri}: {skipped} lines have another number of columns than the first line, {len(names)}")

    def numbers(some: Sequence[int]) -> list[int]:  # it reads the file again, so that its bytes need not stay in memory
        good = [line for line, found in _records(_bytes(uri), separator) if found == len(names)]
        return [good[row] for row in some]

    notes = [] if separator == "," else [f"The columns of {file_name(uri)} are separated by {_SEPARATORS[separator]}."]
    return Listing(rows.rename_columns(wanted), broken, numbers, notes)


def _header(data: bytes, recognised: Callable[[Sequence[str]], bool]) -> tuple[str, list[str], int]:
    """The separator, the names of the columns without spaces around them, and the number of lines of the header.

    The separator is the first one that gives a column of images, or else the one that gives the most columns.
    """
    found = [(separator, *_first_record(data, separator)) for separator in _SEPARATORS]
    good = [one for one in found if recognised(one[1])]
    return max(good or found, key=lambda one: len(one[1]))


def _first_record(data: bytes, separator: str) -> tuple[list[str], int]:
    reader = csv.reader(_text_lines(data[:_HEAD], "ignore" if len(data) > _HEAD else "strict"), delimiter=separator)
    for record in reader:
        if record:
            return [name.strip().strip("\ufeff") for name in record], reader.line_num
    return [], 0


def _text_lines(data: bytes, errors: str = "strict") -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(data), "utf-8", errors, newline="")


def _parse_csv(
    data: bytes, uri: str, separator: str, names: list[str], wanted: list[str], skip: int
) -> tuple[pa.Table, int]:
    """The wanted columns as text, null where empty, and the number of rows with another number of columns."""
    skipped = 0

    def leave_out(_: object) -> str:
        nonlocal skipped
        skipped += 1
        return "skip"

    if len(data) < _HEAD and not data.endswith((b"\n", b"\r")):
        data += _NEWLINE  # pyarrow refuses a header without a line after it
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(data),
            read_options=pyarrow.csv.ReadOptions(column_names=names, skip_rows=skip),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=separator, newlines_in_values=b'"' in data, invalid_row_handler=leave_out
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(wanted, pa.string()), include_columns=wanted, strings_can_be_null=True,
                null_values=[""],
            ),
        )  # fmt: skip
    except pa.ArrowInvalid as error:
        if not _is_utf8(data):
            raise _not_utf8(data, uri) from None
        raise CatalogError(f"{uri}: cannot be read as CSV: {why(error)}") from error
    return table, skipped


def _records(data: bytes, separator: str) -> Iterator[tuple[int, int]]:
    """Line number and number of columns of each record after the header; empty lines are no records."""
    reader = csv.reader(_text_lines(data, "replace"), delimiter=separator)
    header, line = False, 1
    for record in reader:
        if record and header:
            yield line, len(record)
        header, line = header or bool(record), reader.line_num + 1


def _broken_rows(data: bytes, separator: str, columns: int) -> list[tuple[int, str]]:
    return [
        (line, f"expected {columns} columns, as in the first line, got {found}")
        for line, found in _records(data, separator)
        if found != columns
    ]


def _refuse_open_quote(data: bytes, uri: str) -> None:
    """Refuse a quote that is opened and never closed: it would swallow all lines after it."""
    if data.count(b'"') % 2 == 0:
        return
    for separator in _SEPARATORS:
        reader = csv.reader(_text_lines(data, "replace"), delimiter=separator, strict=True)
        start = 1
        try:
            for _ in reader:
                start = reader.line_num + 1
        except csv.Error as error:
            if "unexpected end of data" in str(error) or "field larger" in str(error):
                raise CatalogError(f'{uri}: line {start}: a quote (") is opened and never closed') from None


# ---- JSON lines


def _read_json(data: bytes, uri: str, choose: Choose) -> Listing:
    if not data.strip():
        raise CatalogError(f"{uri}: expected a list of images, got an empty file")
    try:
        table = _arrow_json(data)
        wanted = list(choose(table.column_names))
        if _are_plain(rows := table.select(wanted)):
            rows.validate(full=True)
            return Listing(rows, [], lambda some: _json_lines(_bytes(uri), some))
    except pa.ArrowInvalid:
        pass  # the slow way finds the lines
    objects, broken = _objects(data)
    if not objects:
        raise CatalogError(f"{uri}: line {broken[0][0]}: {broken[0][1]}")
    wanted = list(choose(list(dict.fromkeys(name for _, one in objects for name in one))))
    columns: dict[str, list[str | None]] = {name: [] for name in wanted}
    kept: list[int] = []
    for number, one in objects:
        try:
            texts = {name: _text(name, one.get(name)) for name in wanted}
        except ValueError as error:
            broken.append((number, str(error)))
            continue
        kept.append(number)
        for name, text in texts.items():
            columns[name].append(text)
    table = pa.table({name: pa.array(texts, pa.string()) for name, texts in columns.items()})
    return Listing(table, sorted(broken), lambda some: [kept[row] for row in some])


def _arrow_json(data: bytes) -> pa.Table:
    table = pyarrow.json.read_json(pa.BufferReader(data))
    # pyarrow takes a text such as 2020-01-01 for a time.
    times = [column.name for column in table.schema if pa.types.is_temporal(column.type)]
    if not times:
        return table
    schema = pa.schema([(name, pa.string()) for name in times])
    return pyarrow.json.read_json(
        pa.BufferReader(data), parse_options=pyarrow.json.ParseOptions(explicit_schema=schema)
    )


def _are_plain(rows: pa.Table) -> bool:
    """Whether all values are text, numbers, true and false, and no number was rounded."""
    for column in rows.columns:
        if pa.types.is_nested(column.type):
            return False
        if pa.types.is_floating(column.type):
            values = column.to_numpy()
            if (np.abs(values[np.isfinite(values)]) >= _EXACT).any():
                return False
    return True


def _objects(data: bytes) -> tuple[list[tuple[int, dict[str, object]]], list[tuple[int, str]]]:
    """The objects with their lines, and the lines that are none with reasons."""
    objects, broken = [], []
    for number, line in _nonempty(data):
        try:
            one = json.loads(line)
        except json.JSONDecodeError as error:
            broken.append((number, f"expected a JSON object, got something else: {error.msg} at character {error.pos}"))
            continue
        if isinstance(one, dict):
            objects.append((number, one))
        else:
            broken.append((number, f"expected a JSON object with a name for each value, got {line.decode()[:60]}"))
    return objects, broken


def _nonempty(data: bytes) -> Iterator[tuple[int, bytes]]:
    return ((number, line) for number, line in enumerate(data.splitlines(), 1) if line.strip())


def _json_lines(data: bytes, rows: Sequence[int]) -> list[int]:
    lines: Iterable[int] = (number for number, _ in islice(_nonempty(data), max(rows, default=-1) + 1))
    found = list(lines)
    return [found[row] for row in rows]


def _text(name: str, value: object) -> str | None:
    try:
        return scalar_text(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
