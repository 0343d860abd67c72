"""The scans of a source and of its separate test set, with the options of a configuration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from alray.config import IndexConfig
from alray.data.sources.damaged import reachable
from alray.data.sources.kinds import SOURCES
from alray.data.sources.scan import CatalogError, Scan, ScanOptions, with_roles
from alray.data.sources.source import Source
from alray.data.sources.split_names import split_role
from alray.data.test_labels import with_test_labels
from alray.store import absolute


def scans_of(config: IndexConfig, kind: Source) -> list[Scan]:
    """The scans of the root and of the test root. Raises CatalogError also for names of splits that neither has."""
    options = ScanOptions(
        config.key, config.label_column, config.image_column, "", config.classes or None, config.split,
        config.class_depth, config.links,
    )  # fmt: skip
    test_root = config.test_root
    if test_root and absolute(test_root) == absolute(config.root):
        raise CatalogError(
            f"test_root: expected test images that are not among those of the root, got the root itself, {test_root}"
        )
    raw = []
    if test_root:  # read first, because it is the smaller one: an error in it is told before the root is listed
        with reachable(test_root):
            raw.append(_all_test(kind.scan(test_root, replace(options, prefix="test/")), test_root))
    with reachable(config.root):
        raw.insert(0, kind.scan(config.root, replace(options, prefix="train/" if test_root else "")))
    if config.test_labels:
        raw = with_test_labels(raw, config)
    scans = [with_roles(raw[0], config.split), *(with_roles(scan, {}) for scan in raw[1:])]
    unknown = sorted(config.split.keys() - frozenset().union(*(scan.named for scan in scans)))
    if unknown:
        names = sorted({split.name for scan in scans for split in scan.splits if split.name})
        raise CatalogError(
            f"split: expected names of folders, shards or splits that {config.root} has, got {', '.join(unknown)}; its "
            f"splits are {', '.join(names) or 'not named'}"
        )
    return [replace(scans[0], notes=(*scans[0].notes, *_unused(config, kind))), *scans[1:]]


def _unused(config: IndexConfig, kind: Source) -> Iterator[str]:
    """A sentence on each option that the user gave and nothing reads."""
    given = {
        name: getattr(config, name)
        for name, about in IndexConfig.model_fields.items()
        if getattr(config, name) != about.get_default(call_default_factory=True)
    }
    for name in kind.unused(given):
        others = ", ".join(other.name for other in SOURCES.values() if name in other.uses)
        yield f"--{name.replace('_', '-')} was not used: it is for {others}, and this is {kind.name}"
    if "test_label_numbers" in given and not config.test_labels:
        yield "--test-label-numbers was not used: it is for --test-labels"


def image_column(scans: Sequence[Scan], config: IndexConfig) -> str:
    """The column that holds the images, which must be the same in all sources. Raises CatalogError."""
    found = {scan.image_column for scan in scans if scan.image_column}
    if len(found) > 1:
        raise CatalogError(
            f"test_root: expected the images in the same column as those of the root, got {' and '.join(sorted(found))}"
        )
    return next(iter(found), config.image_column)


def with_absolute_places(config: IndexConfig) -> IndexConfig:
    """The fields of IndexConfig alone, with absolute paths."""
    fields = {name: getattr(config, name) for name in IndexConfig.model_fields}
    places = {name: absolute(fields[name]) for name in ("root", "test_root", "test_labels") if fields[name]}
    return IndexConfig(**{**fields, **places})


def _all_test(scan: Scan, test_root: str) -> Scan:
    """The scan with nothing but test images, which is doubtful where the source itself has images for training."""
    n = len(scan.images)
    column = scan.images.schema.get_field_index("split")
    names = pc.unique(scan.images["split"]).drop_null().to_pylist()
    doubts = [
        f"{test_root} has images for training, {name}, but all its images would be test images. Pass the folder or "
        "file of its test images as --test-root"
        for name in names
        if split_role(name, {}) == "train"
    ]
    images = scan.images.set_column(column, "split", pa.array(["test"] * n, pa.string()))
    return replace(scan, images=images, doubts=(*scan.doubts, *doubts))
