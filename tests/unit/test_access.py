"""What `alray index` says of Parquet files from which a single image is dear to read; compared with bytes that are
read."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alray.data.catalog import Catalog, index
from alray.data.fetch import fetch

COUNTER = Path("/proc/self/io")
NOTE = re.compile(r"Reading one random image reads ([\d.]+) MB for ([\d.]+) kB \(([\d,]+) times\), because Parquet")


def in_parquet(place: Path, group: int, struct: bool, compression: str = "snappy") -> Catalog:
    """600 random images of 4 to 12 kB (they are not decoded), in two files, beside another large column."""
    rng = np.random.default_rng(0)
    images = [rng.bytes(4000 + int(size)) for size in rng.integers(0, 8000, 600)]
    column = [{"bytes": data, "path": f"{number}.jpg"} for number, data in enumerate(images)] if struct else images
    for number in range(2):
        part = slice(300 * number, 300 * (number + 1))
        table = pa.table({"image": column[part], "mask": images[part], "label": [1, 2, 3] * 100})
        pq.write_table(table, place / f"{number}.parquet", row_group_size=group, compression=compression)
    return index(str(place), str(place / "catalog"), format="parquet", check="none", yes=True)


@pytest.mark.skipif(not COUNTER.exists(), reason="counts the bytes that this process reads, as Linux tells them")
@pytest.mark.parametrize("struct", [False, True])
@pytest.mark.parametrize("compression", ["snappy", "zstd", "none"])
def test_what_is_said_is_what_is_read(struct: bool, compression: str, tmp_path: Path) -> None:
    catalog = in_parquet(tmp_path, 200, struct, compression)
    (note,) = [note for note in catalog.notes() if NOTE.match(note)]
    said = NOTE.match(note)
    assert said and "`alray repack CATALOG --out DIRECTORY`" in note
    wanted, before = 0, int(COUNTER.read_text().split()[1])
    for row in range(0, 600, 15):
        wanted += len(fetch(catalog.references(np.array([row])), catalog.source, "image")[0])
    read = int(COUNTER.read_text().split()[1]) - before
    assert read / 40 / 1e6 == pytest.approx(float(said[1]), rel=0.1)
    assert wanted / 40 / 1e3 == pytest.approx(float(said[2]), rel=0.1)
    assert read / wanted == pytest.approx(float(said[3]), rel=0.1)


@pytest.mark.parametrize("group", [1, 10, 50])
def test_cheap_reads_are_not_worth_a_word(group: int, tmp_path: Path) -> None:
    assert not [note for note in in_parquet(tmp_path, group, struct=False).notes() if "Parquet" in note]
