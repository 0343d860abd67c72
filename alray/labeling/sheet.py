"""A batch as people see it: a CSV, JSON lines, and contact sheets, which are HTML files that work without alray.

A contact sheet holds its thumbnails and loads nothing from a network. It shows one page of images; the keys 1 to 9 (or
a search box) give the class, answers are kept in the browser, and a button saves them as a CSV for `alray label`.
"""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
from jinja2 import Environment, PackageLoader, StrictUndefined

from alray.data.catalog import Catalog
from alray.data.decode import decode
from alray.data.fetch import ImageError, fetch_each
from alray.data.pool import Rows
from alray.store import Store

CSV, JSONL, SHEETS = "batch.csv", "batch.jsonl", "sheet-001.html"
_SIDE = 192  # pixels of the longer side of a thumbnail
_IMAGES = 500  # images of one sheet, about 5 MB


def write(
    store: Store, batch: pa.Table, catalog: Catalog, classes: Sequence[str], title: str, column: str
) -> list[str]:
    """Write the files of a batch, unless they are there. Returns their names.

    batch: a table of `alray.labeling.ledger.requests_table`; column: the name of the empty column that people fill in,
    label or mask; title: names the run and the batch on the page and in the
    browser's memory. A catalog without images (embeddings) gets no contact sheet.
    """
    records = batch.select(["key", "uri", "role", "predicted", "probability", "score"]).to_pylist()
    made: list[str] = []
    parts = range(0, len(records), _IMAGES) if catalog.source.decoded else range(0)
    for start in parts:
        name = f"sheet-{start // _IMAGES + 1:03d}.html"
        if not store.has(name):
            part = slice(start, start + _IMAGES)
            page = _page(records[part], thumbnails(catalog, batch["row"].to_numpy()[part]), classes, f"{title}, {name}")
            store.write_bytes(name, page.encode())
        made.append(name)
    store.write_bytes(JSONL, "".join(_line(record, column) for record in records).encode())
    store.write_bytes(CSV, _csv(records, column).encode())
    return [CSV, JSONL, *made]


def _line(record: dict[str, Any], column: str) -> str:
    return json.dumps({**record, column: None}, ensure_ascii=False) + "\n"


def _csv(records: Sequence[dict[str, Any]], column: str) -> str:
    """Columns key, label (or mask) and status, which people fill in, then what the model says. Keys are byte for byte
    those of the catalog, because alray reads them back."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["key", column, "status", "role", "predicted", "probability", "score", "uri"])
    for record in records:
        said = ["" if record[name] is None else record[name] for name in ("role", "predicted", "probability", "score")]
        writer.writerow([record["key"], "", "", *said, record["uri"]])
    return out.getvalue()


def thumbnails(catalog: Catalog, rows: Rows, side: int = _SIDE) -> list[str]:
    """A JPEG in base64 for every row, in their order; empty for an image that cannot be read. side: pixels of the
    longer side of a larger image."""
    references = catalog.references(rows)
    made = dict(zip(references["row"].to_pylist(), _jpegs(catalog, references, side), strict=True))
    return [made[int(row)] for row in rows]


def _jpegs(catalog: Catalog, references: pa.Table, side: int) -> Iterator[str]:
    found = fetch_each(references, catalog.source, catalog.image_column)
    for data, key in zip(found, references["key"].to_pylist(), strict=True):
        try:
            if isinstance(data, ImageError):
                raise data
            image = decode(data, key, catalog.pixel_range)
            image.thumbnail((side, side))
            out = io.BytesIO()
            image.save(out, "JPEG", quality=80)
            yield base64.b64encode(out.getvalue()).decode()
        except ImageError:
            yield ""


def _page(records: Sequence[dict[str, Any]], thumbnails: Sequence[str], classes: Sequence[str], title: str) -> str:
    environment = Environment(loader=PackageLoader("alray.labeling"), autoescape=True, undefined=StrictUndefined)
    images = [
        {**{name: record[name] for name in ("key", "predicted", "probability")}, "jpeg": jpeg}
        for record, jpeg in zip(records, thumbnails, strict=True)
    ]
    return environment.get_template("sheet.html.jinja").render(title=title, classes=list(classes), images=images)
