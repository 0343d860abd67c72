"""The labeled images of a run: as a CSV, as a folder with one directory per class, or as WebDataset tars."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from alray.data.catalog import Catalog, CatalogError
from alray.data.fetch import fetch
from alray.data.masks import masks_of
from alray.data.oracle import Status
from alray.data.sources.kinds import SOURCES
from alray.data.sources.scan import CLASSES_FILE, classes_text, is_image_name
from alray.data.sources.source import Image, Source
from alray.labeling import state
from alray.labeling.ledger import Ledger
from alray.rundir import RunDir
from alray.store import Store

CSV, MASKS = "labels.csv", "masks"
_IMAGES = 256  # images in memory at a time
_TAR_BYTES = 256 * 2**20


class ExportError(ValueError):
    """A model or labels cannot be exported. The message says why, and what can be."""


@dataclass(frozen=True)
class Labeled:
    """One labeled image. label: the class, or the place of the mask beside labels.csv; origin: "validation", "test",
    "seed set", "round N", "test N", or "extra" where nobody asked for it."""

    key: str
    uri: str
    label: str
    origin: str


def labeled(run: RunDir, catalog: Catalog) -> list[Labeled]:
    """All images of a run that have a label, with the latest one, in the order of the catalog. Raises RunError."""
    origin = _origins(run, catalog)
    given = state.given(run)
    answers = {key: name for key, (status, name) in given.items() if status == Status.LABEL}
    if drawn := [key for key, (status, _) in given.items() if status == Status.MASK]:
        masks = masks_of(run.settings().data, catalog)
        answers |= {key: f"{MASKS}/{masks.name(key)}" for key in drawn}
    places = catalog.references(catalog.rows_of(list(answers)))
    keys, uris = places["key"].to_pylist(), places["uri"].to_pylist()
    return [Labeled(key, uri, answers[key], origin.get(key, "extra")) for key, uri in zip(keys, uris, strict=True)]


def write_masks(images: list[Labeled], run: RunDir, catalog: Catalog, store: Store) -> None:
    """Write the mask of each image, byte for byte, under the name that `labeled` gives it. Raises ImageError."""
    masks = masks_of(run.settings().data, replace(catalog, masks=state.masks(run)))
    for start in range(0, len(images), _IMAGES):
        part = images[start : start + _IMAGES]
        references = catalog.references(catalog.rows_of([image.key for image in part]))
        for image, data in zip(part, masks.fetch(references), strict=True):
            store.write_bytes(image.label, data)


def _origins(run: RunDir, catalog: Catalog) -> dict[str, str]:
    parts = [("validation", run.held_out()[0]), ("test", run.asked_test()[0]), ("seed set", run.seed_set())]
    parts += [(f"round {step.round}", step.rows) for step in run.bought()]
    parts += [(batch.name, batch.requests["row"].to_numpy()) for batch in state.open_batches(run)]
    parts += [(f"test {number}", test.rows()) for number, test in enumerate(run.tests())]
    return {key: name for name, rows in parts for key in catalog.keys(rows).to_pylist()}


def skipped(run: RunDir) -> Mapping[str, int]:
    """The number of images without a label that people saw, by what they said."""
    said = [status for status, _ in Ledger(run.deliveries).answers().values()]
    return {status.name.lower(): said.count(status) for status in (Status.SKIP, Status.UNUSABLE)}


def as_csv(images: list[Labeled]) -> str:
    """Columns key, label, origin, uri. Keys and names are byte for byte those of the run, because alray reads them."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["key", "label", "origin", "uri"])
    writer.writerows([image.key, image.label, image.origin, image.uri] for image in images)
    return out.getvalue()


def check_images(images: list[Labeled], catalog: Catalog, format: str) -> tuple[Source, dict[str, str]]:
    """The kind of source in which images are written, and their names by key. format: its name. Raises ExportError
    where they cannot be written so."""
    if not catalog.source.decoded:
        raise ExportError(
            "the run used your own embeddings, so there are no images to write; --labels csv has the keys"
        )
    target = SOURCES.get(format)
    if target is None or not target.writable:
        known = ", ".join(["csv", *(name for name, source in SOURCES.items() if source.writable)])
        raise ExportError(f"--labels: expected one of {known}, got {format!r}")
    names = {image.key: target.name_in(image.key, image.label) for image in images}
    try:  # so that the images have these classes when somebody indexes them
        odd = [name for name in names.values() if not is_image_name(name) or "\0" in name]
        if odd or len(set(names.values())) < len(names):
            raise CatalogError(f"{odd[0]!r} is no name of an image" if odd else "two images would get the same name")
        target.check_keys([*names.values()], [image.label for image in images], np.zeros(len(images), bool))
    except CatalogError as error:
        others = " and ".join(["csv", *(name for name in SOURCES if SOURCES[name].writable and name != format)])
        reason = str(error).partition(". ")[0]  # what follows is advice for those who index
        raise ExportError(f"--labels {format} cannot hold these keys and classes: {reason}; {others} may") from None
    return target, names


def write_images(
    images: list[Labeled], catalog: Catalog, classes: list[str], format: str, store: Store,
    advance: Callable[[int], None] = lambda steps: None,
) -> None:  # fmt: skip
    """Write the images, byte for byte, with their labels. format: name of a kind of source. Raises ExportError."""
    target, names = check_images(images, catalog, format)

    def read() -> Iterator[list[Image]]:
        labels = {image.key: image.label for image in images}
        references = catalog.references(catalog.rows_of(list(labels))).sort_by(
            [("uri", "ascending"), ("offset", "ascending")]
        )
        for start in range(0, len(references), _IMAGES):
            chunk = references.slice(start, _IMAGES)
            found = fetch(chunk, catalog.source, catalog.image_column)
            keys = chunk["key"].to_pylist()
            yield [(names[key], data, labels[key]) for key, data in zip(keys, found, strict=True)]
            advance(len(keys))

    target.write(store, False, read(), _TAR_BYTES)
    store.write_bytes(CLASSES_FILE, classes_text(classes))
