"""Bytes of the rows asked for and no others (contract C2)."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from image_sources import SOURCES, items

from alray.data.catalog import index
from alray.data.fetch import ImageError, fetch, take


@pytest.mark.parametrize("name", SOURCES)
def test_only_the_files_asked_for_are_opened(name: str, tmp_path: Path) -> None:
    write, key = SOURCES[name]
    found = {item.key: item.data for item in items()}
    catalog = index(write(items(), tmp_path / "source"), str(tmp_path / "out"), key=key)
    everything = catalog.references(np.arange(len(catalog)))
    uri = everything["uri"][3].as_py()
    wanted = catalog.references(
        np.array([row for row, at in enumerate(everything["uri"].to_pylist()) if at == uri][:3])
    )
    kept = Path(uri).rename(tmp_path / "kept")
    shutil.rmtree(tmp_path / "source")
    Path(uri).parent.mkdir(parents=True)
    kept.rename(uri)
    assert fetch(wanted, catalog.source, catalog.image_column) == [found[name] for name in wanted["key"].to_pylist()]


@pytest.mark.parametrize("name", ["tars by directory", "parquet", "hugging face"])
def test_only_the_bytes_asked_for_are_read(name: str, tmp_path: Path) -> None:
    """What lies before the image in the same tar, or in another row group, is overwritten: nobody reads it."""
    write, key = SOURCES[name]
    found = {item.key: item.data for item in items()}
    catalog = index(write(items(), tmp_path / "source"), str(tmp_path / "out"), key=key)
    everything = catalog.references(np.arange(len(catalog)))
    uri = everything["uri"][0].as_py()
    places = zip(*(everything[name].to_pylist() for name in ("offset", "row", "uri")), strict=True)
    last = max((offset, row) for offset, row, of in places if of == uri)
    start = (
        last[0] if name.startswith("tars") else pq.ParquetFile(uri).metadata.row_group(0).column(0).file_offset + 200
    )
    data = bytearray(Path(uri).read_bytes())
    data[4:start] = bytes(start - 4)
    Path(uri).write_bytes(data)
    wanted = catalog.references(np.array([last[1]]))
    assert fetch(wanted, catalog.source, catalog.image_column) == [found[wanted["key"][0].as_py()]]


@pytest.mark.parametrize("name", SOURCES)
def test_any_rows_in_any_order(name: str, tmp_path: Path) -> None:
    write, key = SOURCES[name]
    found = {item.key: item.data for item in items()}
    catalog = index(write(items(), tmp_path / "source"), str(tmp_path / "out"), key=key)
    references = catalog.references(np.arange(0, len(catalog), 2))
    rows = np.array([8, 2, 20, 8])
    some = take(references, rows)
    assert some["row"].to_pylist() == rows.tolist()
    assert fetch(some, catalog.source, catalog.image_column) == [found[key] for key in some["key"].to_pylist()]
    with pytest.raises(KeyError, match=r"\[3, 99\]"):
        take(references, np.array([2, 3, 99]))
    assert fetch(references.slice(0, 0), catalog.source, catalog.image_column) == []


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_that_changed_is_told_by_key(name: str, tmp_path: Path) -> None:
    write, key = SOURCES[name]
    catalog = index(write(items(), tmp_path / "source"), str(tmp_path / "out"), key=key)
    references = catalog.references(np.array([5]))
    (uri,), (image,) = references["uri"].to_pylist(), references["key"].to_pylist()
    data = Path(uri).read_bytes()
    Path(uri).write_bytes(data[:100])
    with pytest.raises(ImageError, match=f"^{image}: (changed|missing) image: "):
        fetch(references, catalog.source, catalog.image_column)
    Path(uri).unlink()
    with pytest.raises(ImageError, match=f"^{image}: missing image: "):
        fetch(references, catalog.source, catalog.image_column)
