"""Image folders: a directory per class (nested deeper as well), or flat and unlabeled."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from alray.data.sources.scan import (
    IMAGES,
    PROBLEMS,
    CatalogError,
    Options,
    Scan,
    is_image_name,
    list_files,
    read_classes,
    splits_and_labels,
    table,
)
from alray.store import absolute


def scan(source: str, options: Options) -> Scan:
    """Every image file; the key is the path relative to the source. Raises CatalogError where there is no image.

    With an empty label column the directories are no classes.
    """
    files = list_files(source)
    images = files.filter(pa.array([is_image_name(name) for name in files["name"].to_pylist()], pa.bool_()))
    if not len(images):
        raise CatalogError(f"{source}: no images in it ({len(files)} files of other kinds)")
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
