"""Check the masks of a segmentation data set before a run: each image has one, each can be used, and together they
show the classes that the configuration declares."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from alray.config import DataConfig, fingerprint
from alray.data.catalog import Catalog, CatalogError
from alray.data.decode import DECODING, shown_size
from alray.data.fetch import ImageError, all_found, fetch_each
from alray.data.masks import VOID, Masks, check_size, masks_of
from alray.data.sources.files import infos
from alray.data.sources.listing import list_files
from alray.process import processors
from alray.spelling import places_of
from alray.store import Store, content_hash, filesystem

_READS = 16  # reads wait for a disk or a network, not for a CPU
_CHECKED = 256  # masks that one thread checks before it takes the next ones
_SHOWN, _NAMED = 5, 20  # masks, and classes, in a message
_CHECK, _CONTENT = "checked.json", "content.json"  # each alone in its directory: runs that start together write them
_NOTED = 2  # part of the name of a note: raise it where a check finds out more than before

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Contents:
    """What some masks hold together. pixels: the number of pixels of each channel; void: pixels that count nowhere;
    turned: images whose EXIF orientation turns or mirrors them and leaves their width and height as they are stored, so
    that the size of their mask does not tell whether it was drawn on the turned image."""

    masks: int
    pixels: tuple[int, ...]
    void: int
    turned: int

    def __add__(self, other: Contents) -> Contents:
        pixels = tuple(a + b for a, b in zip(self.pixels, other.pixels, strict=True))
        return Contents(self.masks + other.masks, pixels, self.void + other.void, self.turned + other.turned)


def with_masks(config: DataConfig, catalog: Catalog, pool: Rows, test: Rows, fine: Store) -> tuple[Catalog, list[str]]:
    """Check that each row of the pool and of the test set has a mask that can be used, and that the pool shows at least
    two of the declared classes.

    Masks are read once, and again when the times of their files have changed: what was found is kept in the store
    `fine`. Returns the catalog with a fingerprint that includes the masks, and sentences on what a user should know.
    Raises CatalogError.
    """
    masks = masks_of(config, catalog)
    sizes, times = mask_files(masks, catalog)
    check_masks(masks, catalog, np.union1d(pool, test), sizes)
    if config.check != "decode":
        return annotated(catalog, masks, sizes), []
    seen = [catalog.fingerprint, masks.root, masks.column, content_hash(sizes.tobytes() + times.tobytes())]
    known = f"{fingerprint(seen)}/{_CONTENT}"
    content = fine.read_json(known)["content"] if fine.has(known) else _content(masks, catalog, sizes)
    catalog = annotated(catalog, masks, sizes, content)
    marks = [content_hash(rows.tobytes()) for rows in (pool, test)]
    what = [catalog.fingerprint, masks.classes, masks.ignore, marks, DECODING, _NOTED]
    note = f"{fingerprint(what)}/{_CHECK}"
    if fine.has(note):
        found = fine.read_json(note)
        contents = [Contents(**{**found[part], "pixels": tuple(found[part]["pixels"])}) for part in ("pool", "test")]
    else:
        contents = check_pixels(masks, catalog, (pool, test))
        parts = {name: vars(one) for name, one in zip(("pool", "test"), contents, strict=True)}
        fine.write_json(note, {"catalog": catalog.uri, "classes": list(masks.names), **parts}, last=True)
    if not fine.has(known):
        fine.write_json(known, {"content": content}, last=True)
    return catalog, judged(masks, *contents)


def mask_files(masks: Masks, catalog: Catalog) -> tuple[Rows, Rows]:
    """(n,) int64 each: the size in bytes and the time (ns) of each row's mask file, -1 where there is no file or time.

    For Parquet it is the size of the column in the mask's row group. No mask is read. Raises CatalogError if there is
    no folder or no column of masks.
    """
    if not masks.in_source:
        raise CatalogError(
            f"data.mask_root: expected a folder of masks for a source of format {catalog.format}, got none (only "
            "Parquet files can hold masks beside the images); people can draw them (labels.oracle=files)"
        )
    references = catalog.references(np.arange(len(catalog), dtype=np.int64))
    if masks.root:
        uris, files = pa.array([masks.uri(key) for key in references["key"].to_pylist()]), list_files(masks.root)
    else:
        uris = references["uri"].combine_chunks()
        files = infos(pc.unique(uris).to_pylist())
    at = places_of(uris, files["uri"].combine_chunks())
    sizes, times = (pc.fill_null(files[name].take(at), -1).to_numpy() for name in ("size", "time"))
    return sizes if masks.root else _piece_sizes(masks.column, references), times


def mask_sizes(masks: Masks, catalog: Catalog) -> Rows:
    """The sizes of `mask_files`."""
    return mask_files(masks, catalog)[0]


def _content(masks: Masks, catalog: Catalog, sizes: Rows) -> str:
    """A hash of the bytes of all masks. Every mask is read once."""
    references = catalog.references(np.flatnonzero(sizes >= 0)).sort_by([("uri", "ascending"), ("offset", "ascending")])
    chunks = [references.slice(start, _CHECKED) for start in range(0, len(references), _CHECKED)]

    def hashes(chunk: pa.Table) -> list[str]:
        return [content_hash(data if isinstance(data, bytes) else b"") for data in masks.fetch_each(chunk)]

    with ThreadPoolExecutor(processors()) as workers:
        found = np.array([one for part in workers.map(hashes, chunks) for one in part], "S16")
    return content_hash(found[np.argsort(references["row"].to_numpy())].tobytes())


def _piece_sizes(column: str, references: pa.Table) -> Rows:
    places = references["uri"].combine_chunks().dictionary_encode()
    file_of, offsets = places.indices.to_numpy(), references["offset"].to_numpy()
    sizes = np.full(len(references), -1, np.int64)
    with ThreadPoolExecutor(_READS) as pool:
        for number, (ends, pieces) in enumerate(pool.map(partial(_pieces, column), places.dictionary.to_pylist())):
            here = np.flatnonzero(file_of == number)
            sizes[here] = np.append(pieces, -1)[np.searchsorted(ends, offsets[here], side="right")]
    return sizes


def _pieces(column: str, uri: str) -> tuple[Rows, Rows]:
    """For each row group of a Parquet file: the row number at which it ends, and the column's size in bytes."""
    fs, path = filesystem(uri)
    with pq.ParquetFile(path, filesystem=fs) as file:
        names, metadata = file.schema_arrow.names, file.metadata
        if column not in names:
            raise CatalogError(f"{uri}: expected a column {column!r} for the masks, got {', '.join(names)}")
        leaves = [i for i in range(metadata.num_columns) if metadata.schema.column(i).path.split(".")[0] == column]
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        sizes = [sum(group.column(leaf).total_uncompressed_size for leaf in leaves) for group in groups]
        return np.cumsum([group.num_rows for group in groups]), np.array(sizes, np.int64)


def annotated(catalog: Catalog, masks: Masks, sizes: Rows, content: str = "") -> Catalog:
    """The catalog with the fingerprint "images+masks", so that other masks of the same images give another
    fingerprint. content: a hash of the masks, empty if they were not read."""
    column = "" if masks.root else masks.column
    mark = content_hash(repr(column).encode() + sizes.tobytes() + content.encode())
    return replace(catalog, fingerprint=f"{catalog.fingerprint}+{mark}")


def check_masks(masks: Masks, catalog: Catalog, rows: Rows, sizes: Rows) -> None:
    """Raise CatalogError, which counts the rows without a mask and names the first, if there are any. No mask is
    read."""
    keys = catalog.keys(rows).to_pylist() if masks.root else []
    strange = [key for key in keys if not key.endswith(masks.image_suffix)]
    if strange:
        raise CatalogError(
            f"data.image_suffix: expected the images' names to end with {masks.image_suffix}, got {len(strange)} of "
            f"{len(rows)} that do not, first {strange[0]}"
        )
    missing = rows[sizes[rows] < 0]
    if len(missing):
        key = catalog.keys(missing[:1])[0].as_py()
        where, expected = (masks.root, masks.uri(key)) if masks.root else (catalog.uri, "a row of its Parquet file")
        raise CatalogError(
            f"{where}: {len(missing)} of {len(rows)} images have no mask, first {key}: expected {expected}"
        )


def check_pixels(masks: Masks, catalog: Catalog, parts: Sequence[Rows]) -> list[Contents]:
    """Open every mask once, on all CPUs. Returns what the masks of each part hold together. Raises CatalogError, which
    counts the masks that cannot be used and names the first.

    A mask cannot be used if it cannot be decoded, has a number that is not a class, has another size than its image or
    is void everywhere.
    """
    broken: list[tuple[int, str]] = []
    contents: list[Contents] = []
    with ThreadPoolExecutor(processors()) as workers:
        for rows in parts:
            references = catalog.references(rows).sort_by([("uri", "ascending"), ("offset", "ascending")])
            chunks = [references.slice(start, _CHECKED) for start in range(0, len(references), _CHECKED)]
            total = Contents(0, (0,) * masks.num_classes, 0, 0)
            for found, bad in workers.map(partial(_check_chunk, masks, catalog), chunks):
                total, broken = total + found, broken + bad
            contents.append(total)
    if broken:
        first = [f"  {error}" for _, error in sorted(broken)[:_SHOWN]]
        count = sum(map(len, parts))
        raise CatalogError("\n".join([f"{len(broken):,} of {count:,} masks cannot be used; the first:", *first]))
    return contents


def _check_chunk(masks: Masks, catalog: Catalog, chunk: pa.Table) -> tuple[Contents, list[tuple[int, str]]]:
    """What the usable masks hold, and the row and the reason of each mask that cannot be used."""
    images = fetch_each(chunk, catalog.source, catalog.image_column)
    counts, turned, broken = np.zeros(256, np.int64), 0, []
    for row, key, image, data in zip(
        chunk["row"].to_pylist(), chunk["key"].to_pylist(), images, masks.fetch_each(chunk), strict=True
    ):
        try:
            found, unsure = check_one(masks, key, image, data)
            counts += found
            turned += unsure
        except ImageError as error:
            broken.append((row, str(error)))
    pixels = tuple(counts[: masks.num_classes].tolist())
    return Contents(len(chunk) - len(broken), pixels, int(counts[VOID]), turned), broken


def check_one(
    masks: Masks, key: str, image: bytes | ImageError, data: bytes | ImageError
) -> tuple[npt.NDArray[np.int64], bool]:
    """(256,) the pixels of each channel and of VOID; and whether the image is turned without a sign in its size. Raises
    ImageError for a mask that cannot be used."""
    encoded, encoded_mask = all_found((image, data))
    mask = masks.decode(encoded_mask, key)
    size, unsure = shown_size(encoded, key)
    check_size(mask, size, key)
    counts = np.bincount(mask.ravel(), minlength=256)
    if not counts[:VOID].any():
        raise ImageError(f"{key}: mask: expected some class, got only void pixels ({masks.ignore})")
    return counts, unsure


def judged(masks: Masks, pool: Contents, test: Contents) -> list[str]:
    """Sentences on declared classes that no mask shows, and on images whose masks may be drawn the other way round.

    Raises CatalogError where the masks of the pool show fewer than two of several declared classes: nothing can be
    learned from them.
    """
    if masks.num_classes > 1 and len(masks.names) - len(_absent(masks, pool)) < 2:
        raise CatalogError(_one_class(masks, pool))
    notes = [
        f"data.classes: no mask of the {part} has a pixel of {_listed(absent)} ({len(absent)} of {masks.num_classes} "
        f"classes, {contents.masks:,} masks)."
        for part, contents in (("pool", pool), ("test set", test))
        if contents.masks and (absent := _absent(masks, contents))
    ]
    if unsure := pool.turned + test.turned:
        notes.append(
            f"EXIF orientation turns or mirrors {unsure:,} of {pool.masks + test.masks:,} images without changing "
            "their size: their masks are taken to be drawn on the image as it is shown."
        )
    return notes


def _absent(masks: Masks, contents: Contents) -> list[str]:
    return [name for name, pixels in zip(masks.names, contents.pixels, strict=True) if not pixels]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED:,} others" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _one_class(masks: Masks, pool: Contents) -> str:
    absent = _absent(masks, pool)
    here = next((name for name in masks.names if name not in absent), "none")
    text = (
        f"data.classes: expected pixels of at least two classes in the masks of the pool, got {here} alone: no pixel "
        f"of {_listed(absent)} in {pool.masks:,} masks"
    )
    if pool.void:
        share = 100 * pool.void / (sum(pool.pixels) + pool.void)
        text += (
            f". {share:.1f} % of all pixels have the number {masks.ignore}, which is void (data.ignore_label) and "
            "counts nowhere; if they belong to a class, write the number of that class into the masks: 0 to "
            f"{len(masks.classes) - 1}, in the order of data.classes"
        )
    return text
