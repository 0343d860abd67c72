"""The kinds of sources a catalog can be made from, by name."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow.fs as pafs

from alray.data.sources import embeddings, folder, manifest, parquet, webdataset
from alray.data.sources.scan import CatalogError, Options, Scan, list_files
from alray.store import absolute, filesystem

SOURCES: dict[str, Callable[[str, Options], Scan]] = {
    "folder": folder.scan,
    "webdataset": webdataset.scan,
    "parquet": parquet.scan,
    "manifest": manifest.scan,
    "embeddings": embeddings.scan,
}
_BY_EXTENSION = {
    ".tar": "webdataset",
    ".tar.gz": "webdataset",
    ".tgz": "webdataset",
    **dict.fromkeys(parquet.EXTENSIONS, "parquet"),
    **dict.fromkeys(manifest.EXTENSIONS, "manifest"),
    **dict.fromkeys(embeddings.EXTENSIONS, "embeddings"),
}


def kind_of(source: str, wanted: str = "auto") -> str:
    """The kind of a source: the wanted one, or by the names of its files. Raises CatalogError on an unknown name."""
    if wanted in SOURCES:
        return wanted
    if wanted != "auto":
        raise CatalogError(f"format: expected auto or one of {', '.join(SOURCES)}, got {wanted!r}")
    by_name = _kind_of_name(source)
    if by_name:
        return by_name
    names = _some_names(source)
    for extensions in (
        parquet.EXTENSIONS,
        (".tar", ".tar.gz", ".tgz"),
    ):  # a manifest or array beside images is no source
        if any(name.lower().endswith(extensions) for name in names):
            return _BY_EXTENSION[extensions[0]]
    return "folder"


def _some_names(source: str) -> list[str]:
    """File names on the way down the first directories: a million files need not be listed to know their kind."""
    fs, place = filesystem(absolute(source))
    if fs.get_file_info(place).type != pafs.FileType.Directory:
        found: list[str] = list_files(source)["name"].to_pylist()
        return found
    names: list[str] = []
    directories = [place]
    while directories:
        infos = fs.get_file_info(pafs.FileSelector(min(directories)))
        names += [info.base_name for info in infos if info.type == pafs.FileType.File]
        directories = [info.path for info in infos if info.type == pafs.FileType.Directory]
    return names


def _kind_of_name(source: str) -> str | None:
    name = source.lower().rstrip("/")
    return next((kind for extension, kind in _BY_EXTENSION.items() if name.endswith(extension)), None)
