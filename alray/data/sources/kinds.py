"""The kinds of sources that a catalog can be made from, by name."""

from __future__ import annotations

import os

import pyarrow.fs as pafs

from alray.data.sources.arrow import ARROW
from alray.data.sources.embeddings import EMBEDDINGS
from alray.data.sources.folder import FOLDER
from alray.data.sources.listing import list_files
from alray.data.sources.manifest import MANIFEST
from alray.data.sources.own import own_in
from alray.data.sources.parquet import PARQUET
from alray.data.sources.scan import CatalogError
from alray.data.sources.source import Source
from alray.data.sources.webdataset import WEBDATASET
from alray.remote import web_address
from alray.store import StoreError, absolute, filesystem

SOURCES: dict[str, Source] = {
    source.name: source for source in (FOLDER, WEBDATASET, PARQUET, ARROW, MANIFEST, EMBEDDINGS)
}
# The kinds that are recognised by the files in a directory. A manifest or an array beside images does not count.
_IN_DIRECTORIES = (PARQUET, WEBDATASET, ARROW)


def kind_of(source: str, wanted: str = "auto") -> Source:
    """The kind of a source: the one called `wanted`, or for "auto" the one that its file names show.

    Raises CatalogError for an unknown name, and for a URL of the web.
    """
    if reason := web_address(source):
        raise CatalogError(reason)
    if wanted in SOURCES:
        return SOURCES[wanted]
    if wanted != "auto":
        raise CatalogError(f"format: expected auto or one of {', '.join(SOURCES)}, got {wanted!r}")
    name = source.lower().rstrip("/")
    by_name = next((kind for kind in SOURCES.values() if kind.extensions and name.endswith(kind.extensions)), None)
    if by_name:
        return by_name
    try:
        names = [name.lower() for name in _some_names(source)]
    except StoreError:
        raise
    except OSError as error:
        raise CatalogError(f"{source}: cannot be read: {error}") from error
    inside = (kind for kind in _IN_DIRECTORIES if any(name.endswith(kind.extensions) for name in names))
    return next(inside, FOLDER)


def _bytes(fs: pafs.FileSystem, path: str) -> bytes:
    with fs.open_input_file(path) as file:
        return bytes(file.read())


def _some_names(source: str) -> list[str]:
    """File names of the directory, of its first subdirectory, and so on. Listing all files could take long."""
    fs, place = filesystem(absolute(source))
    if fs.get_file_info(place).type != pafs.FileType.Directory:
        found: list[str] = list_files(source)["name"].to_pylist()
        return found
    names: list[str] = []
    directories = [place]
    seen = set()  # a link may lead back to a folder above it
    while directories:
        first = min(directories)
        seen.add(os.path.realpath(first))
        try:
            infos = fs.get_file_info(pafs.FileSelector(first))
            files = {info.base_name: info.path for info in infos if info.type == pafs.FileType.File}
            own = own_in(files, lambda name: _bytes(fs, files[name]))  # noqa: B023
            if own is not None and own.whole and first != place:
                directories.remove(first)
                continue
            names += [name for name in files if own is None or not own.has(name)]
            directories = [info.path for info in infos if info.type == pafs.FileType.Directory]
        except UnicodeDecodeError:  # a name is not in UTF-8, which only `list_files` can read
            names = list_files(source)["name"].to_pylist()
            return names
        directories = [path for path in directories if os.path.realpath(path) not in seen]
    return names
