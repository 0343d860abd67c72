"""Image folders: one directory per class, which may be nested deeper, or one flat directory without labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from alray.data.sources.files import with_class_files
from alray.data.sources.label_text import tidy
from alray.data.sources.layout import places, understand
from alray.data.sources.listing import FILES, listing
from alray.data.sources.published import LAYOUTS, are_lists, with_lists
from alray.data.sources.scan import (
    EXTENSIONS,
    IMAGES,
    PROBLEMS,
    CatalogError,
    Scan,
    ScanOptions,
    are_images,
    concat,
    read_classes,
    suffixes,
    table,
)
from alray.data.sources.source import IMAGE_OPTIONS, Image, Source
from alray.spelling import composed
from alray.store import Store, absolute

_WRITERS = 16


class Folder(Source):
    """A folder with one file per image."""

    name: ClassVar[str] = "folder"
    about: ClassVar[str] = (
        "A folder with one file per image, at any depth. It is what a folder is that holds neither tars nor Parquet or "
        f"Arrow files. Images end in {', '.join(EXTENSIONS)}, in any case; other files are counted and ignored."
    )
    labels: ClassVar[str] = (
        "The class is the path between the split folder and the file. A folder called images is no class, and masks "
        "beside images are left out. Images in no such folder have no label."
    )
    keys: ClassVar[str] = "The path below the folder."
    layouts: ClassVar[Mapping[str, str]] = LAYOUTS
    by_folders: ClassVar[bool] = True
    uses: ClassVar[frozenset[str]] = IMAGE_OPTIONS | {"class_depth", "links"}
    writable: ClassVar[bool] = True

    def scan(self, source: str, options: ScanOptions) -> Scan:
        """References to all image files. The key of an image is its path relative to the source.

        With an empty label column the directories are not classes. Raises CatalogError if there is no image.
        """
        found = listing(source, options.links)
        is_image = are_images(found.files["name"])
        files = found.files.filter(is_image)
        if not len(files):
            raise found.without(f"{source}: expected images")
        labels = bool(options.label_column)
        layout = understand(files["name"], options, labels)
        names = files["name"].filter(pa.array(layout.keep))
        others = found.files.filter(pc.invert(is_image))
        if len(others):
            layout = with_lists(layout, names, others, labels)
        images = files.filter(pa.array(layout.keep))
        prefix = "" if len(images) and not layout.split.null_count else options.prefix
        keys = pc.utf8_slice_codeunits(images["name"], len(layout.start)) if layout.start else images["name"]
        columns = {
            "key": pc.binary_join_element_wise(prefix, keys, "").combine_chunks(),
            "uri": images["uri"].combine_chunks(),
            "size": images["size"].combine_chunks(),
            "label": layout.label,
            "split": layout.split,
        }
        return Scan(
            table(IMAGES, columns),
            PROBLEMS.empty_table(),
            read_classes(absolute(source)),
            suffixes(others["name"].to_pylist()),
            left_out=len(files) - len(images),
            notes=(*found.notes, *layout.notes),
            doubts=layout.doubts,
            named=layout.named,
            files=with_class_files(
                concat([files, others.filter(are_lists(others["name"]))], FILES), [absolute(source)]
            ),
        )

    def reads(self, names: pa.ChunkedArray) -> pa.ChunkedArray:
        """Which are images, or lists of classes and splits that published data sets have."""
        return pc.or_(are_images(names), are_lists(names))

    def class_places(self, source: str, used: pa.Table) -> set[str]:
        """The folder itself."""
        return {absolute(source)}

    def unused(self, given: Mapping[str, Any]) -> list[str]:
        """As `Source.unused`. An empty label column says that the folders are no classes; there are no other ones."""
        return [name for name in super().unused(given) if name != "label_column" or given[name]]

    def check_keys(self, keys: Sequence[str], labels: Sequence[str | None], is_test: Any) -> None:
        """Raise CatalogError unless the directories of every key are the image's split and class, in any Unicode form,
        and if two keys are the same text in two forms, of which some filesystems keep one file."""
        for key, split, found, label, test in zip(keys, *places(keys), labels, is_test.tolist(), strict=True):
            if (split == "test") != test or (found and tidy(found)) != label:
                raise CatalogError(says_otherwise(key, split, found, label, test))
        same: dict[str, str] = {}
        for key in keys:
            if not key.isascii() and (other := same.setdefault(composed(key), key)) != key:
                raise CatalogError(
                    f"{other!a} and {key!a} are one name in two Unicode forms, of which some filesystems keep one file"
                )

    def name_in(self, key: str, label: str) -> str:
        """The image lies in the directory of its class."""
        return f"{label}/{key.replace('/', '__')}"

    def write(self, store: Store, is_test: bool, images: Iterator[list[Image]], most_bytes: int) -> None:
        """Write each image to the path that is its key."""
        with ThreadPoolExecutor(_WRITERS) as pool:
            for chunk in images:
                list(pool.map(lambda image: store.write_bytes(image[0], image[1]), chunk))


def says_otherwise(key: str, split: str | None, found: str | None, label: str | None, test: bool) -> str:
    """The error message for a key whose directories are not the split and class that the catalog has."""
    return (
        f"{key}: expected the directories of the key to be {_said('test' if test else 'train', label)}, got "
        f"{_said(split or 'train', found)}"
    )


def _said(split: str, label: str | None) -> str:
    return f"{split}, {'no class' if label is None else f'class {label}'}"


FOLDER = Folder()
