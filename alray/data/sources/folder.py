"""Image folders: one directory per class, which may be nested deeper, or one flat directory without labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from alray.data.sources.scan import (
    IMAGES,
    PROBLEMS,
    CatalogError,
    Scan,
    ScanOptions,
    is_image_name,
    list_files,
    read_classes,
    splits_and_labels,
    table,
)
from alray.data.sources.source import Image, Source
from alray.store import Store, absolute

_WRITERS = 16


class Folder(Source):
    """A folder with one file per image."""

    name: ClassVar[str] = "folder"
    writable: ClassVar[bool] = True

    def scan(self, source: str, options: ScanOptions) -> Scan:
        """References to all image files. The key of an image is its path relative to the source.

        With an empty label column the directories are not classes. Raises CatalogError if there is no image.
        """
        files = list_files(source)
        images = files.filter(pa.array([is_image_name(name) for name in files["name"].to_pylist()], pa.bool_()))
        if not len(images):
            raise CatalogError(f"{source}: expected images, got {len(files)} files of other kinds")
        splits, labels = splits_and_labels(images["name"].to_pylist())
        prefix = "" if all(splits) else options.prefix
        columns = {
            "key": pc.binary_join_element_wise(prefix, images["name"], "").combine_chunks(),
            "uri": images["uri"].combine_chunks(),
            "size": images["size"].combine_chunks(),
            "label": labels if options.label_column else [None] * len(labels),
            "split": splits,
        }
        ignored = len(files) - len(images)
        return Scan(table(IMAGES, columns), PROBLEMS.empty_table(), read_classes(absolute(source)), ignored)

    def check_keys(self, keys: Sequence[str], labels: Sequence[str | None], is_test: Any) -> None:
        """Raise CatalogError unless the directories of every key are the image's split and class."""
        splits, classes = splits_and_labels(keys)
        for key, split, found, label, test in zip(keys, splits, classes, labels, is_test.tolist(), strict=True):
            if (split == "test") != test or found != label:
                raise CatalogError(says_otherwise(key, split, found, label, test))

    def write(self, store: Store, is_test: bool, images: Iterator[list[Image]], most_bytes: int) -> None:
        """Write each image to the path that is its key."""
        with ThreadPoolExecutor(_WRITERS) as pool:
            for chunk in images:
                list(pool.map(lambda image: store.write_bytes(image[0], image[1]), chunk))


def says_otherwise(key: str, split: str | None, found: str | None, label: str | None, test: bool) -> str:
    """The error message for a key whose directories are not the split and class that the catalog has."""
    return (
        f"{key}: expected the directories of the key to be {'test' if test else 'train'}, class {label}, as in the "
        f"catalog, got {split or 'train'}, class {found}: index again with key='{{split}}/{{class}}/...'"
    )


FOLDER = Folder()
