"""The files of a source: of a folder, of a glob, or one file. Also which symbolic links are followed."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from alray.checksums import is_list
from alray.data.sources import refused
from alray.data.sources.own import MARKS, Own, left_out, own_in, own_in_folder
from alray.data.sources.scan import CatalogError, amount, file_name, is_hidden, is_image_name, suffixes, table
from alray.reasons import utf8_name
from alray.store import StoreError, absolute, filesystem, is_remote

_SHOWN = 3  # suffixes in a message
_PART = 1 << 16  # files
# time: when the file was last changed, in nanoseconds since 1970; null where the store does not tell it.
FILES = pa.schema([("name", pa.string()), ("uri", pa.string()), ("size", pa.int64()), ("time", pa.int64())])
NO_FILES = pa.Table.from_batches([], FILES)  # unlike `empty_table`, it does not import pandas

Found = tuple[str, int | None, int | None]  # name, size, time


@dataclass(frozen=True)
class Listing:
    """The files of a source, a table of the schema FILES, sorted by name. notes: sentences on links that were not
    followed and on what alray wrote, with counts."""

    files: pa.Table
    notes: tuple[str, ...] = ()

    def with_extension(self, source: str, extensions: Sequence[str]) -> pa.Table:
        """The files with one of the extensions. Raises CatalogError if there are none."""
        keep = [
            name.lower().endswith(tuple(extensions)) and not is_hidden(name) for name in self.files["name"].to_pylist()
        ]
        if not any(keep):
            raise self.without(f"{source}: expected a {' or '.join(extensions)} file")
        return self.files.filter(pa.array(keep))

    def without(self, expected: str) -> CatalogError:
        """The error for a source that has no file of the expected kind."""
        counts = suffixes(self.files["name"].to_pylist()).most_common(_SHOWN)
        first = ", ".join(f"{suffix} {number:,}" for suffix, number in counts)
        got = f"{amount(len(self.files), 'file')} of other kinds" + (f" ({first})" if first else "")
        got = got if len(self.files) else "none: it has no file"
        reason = refused.first_reason(self.files["name"].to_pylist())
        return CatalogError("; ".join([f"{expected}, got {got}", *filter(None, [reason]), *self.notes]))


def list_files(source: str, links: str = "all") -> pa.Table:
    """The files of a source, as `listing` finds them."""
    return listing(source, links).files


def listing(source: str, links: str = "inside") -> Listing:
    """List the files of a directory and its subdirectories, of a glob, or the single file; sorted by name.

    A name is relative to the directory (for a glob, to the last directory before the first wildcard). links: which
    symbolic links in a local directory are followed, as in `IndexConfig.links`. What alray wrote there (`sources.own`)
    is left out. Raises CatalogError if nothing exists there or a directory cannot be read.
    """
    uri = absolute(source)
    try:
        fs, path = filesystem(uri)
        kind = fs.get_file_info(path).type
        if kind == pafs.FileType.File:
            info = fs.get_file_info(path)
            known = {"name": [file_name(uri)], "uri": [uri], "size": [info.size], "time": [info.mtime_ns]}
            return Listing(table(FILES, known))
        if kind == pafs.FileType.Directory:
            return _walk(uri, links, recursive=True)
        if re.search(r"[*?\[]", uri):
            return _glob(uri, links)
    except (OSError, StoreError) as error:
        raise CatalogError(f"{source}: cannot be read: {error}") from error
    raise CatalogError(f"{source}: no such file or directory")


def _glob(uri: str, links: str) -> Listing:
    place = uri[: re.search(r"[*?\[]", uri).start()].rpartition("/")[0]  # type: ignore[union-attr]
    pattern = uri[len(place) + 1 :].split("/")
    found = _walk(place, links, recursive=len(pattern) > 1)
    keep = [_matches(name, pattern) for name in found.files["name"].to_pylist()]
    if not any(keep):
        folders = _folders(uri, place, pattern)
        reason = _match_folders(uri, place, folders, links) if folders else "no file matches"
        raise CatalogError("; ".join([f"{uri}: {reason}", *found.notes]))
    return Listing(found.files.filter(pa.array(keep)), found.notes)


def _folders(uri: str, place: str, pattern: Sequence[str]) -> list[str]:
    """The paths or URIs of the folders that a glob matches, sorted. place: its part before the first wildcard."""
    if not is_remote(uri):
        return sorted(path for path in glob.glob(uri) if os.path.isdir(path))
    fs, path = filesystem(place)
    start = len(path.strip("/")) + 1
    infos = fs.get_file_info(pafs.FileSelector(path, recursive=len(pattern) > 1))
    names = [info.path.lstrip("/")[start:] for info in infos if info.type == pafs.FileType.Directory]
    return sorted(f"{place}/{name}" for name in names if _matches(name, pattern))


def _matches(name: str, pattern: Sequence[str]) -> bool:
    parts = name.split("/")
    return len(parts) == len(pattern) and all(map(fnmatch.fnmatchcase, parts, pattern))


def _match_folders(uri: str, place: str, folders: Sequence[str], links: str) -> str:
    """Why a glob that matches folders is refused, and what to give: one that reaches as deep as the largest image, or
    else file, of the first one."""
    inside = _walk(folders[0], links, recursive=True).files
    names, sizes = inside["name"].to_pylist(), inside["size"].to_pylist()
    data = max(
        zip(map(is_image_name, names), (size or 0 for size in sizes), names, strict=True), default=(False, 0, "")
    )
    deep = "*/" * data[2].count("/") + "*" + os.path.splitext(data[2])[1]
    return (
        f"it matches {amount(len(folders), 'folder')}, the first {file_name(folders[0])}, and no file; give the folder "
        f"above them, {place}, or a glob of files, such as '{uri}/{deep}'"
    )


def _walk(uri: str, links: str, recursive: bool) -> Listing:
    if is_remote(uri):
        fs, path = filesystem(uri)
        infos = fs.get_file_info(pafs.FileSelector(path, recursive=recursive))
        start = len(path.strip("/")) + 1
        files = [info for info in infos if info.type == pafs.FileType.File]
        own = _own_folders(fs, files, path.strip("/"))
        kept = [info for info in files if not _is_own(info.path.strip("/"), own)] if own else files
        found = _files(uri, ((info.path.lstrip("/")[start:], info.size, info.mtime_ns) for info in kept))
        return Listing(found, tuple(left_out((folder[start:] for folder in own), len(files) - len(kept))))
    walk = _LocalWalk(absolute(uri), links)
    found = _files(uri, walk.files(recursive))
    return Listing(found, tuple(utf8_name(note) for note in walk.notes()))


def _own_folders(fs: pafs.FileSystem, files: Iterable[pafs.FileInfo], top: str) -> dict[str, Own]:
    """The folders in which alray wrote something, and what, without those inside of whole ones."""
    marked: dict[str, set[str]] = {}
    for info in files:
        if info.base_name in MARKS:
            marked.setdefault(info.path.strip("/").rpartition("/")[0], set()).add(info.base_name)
    own = dict[str, Own]()
    for folder in sorted(marked):

        def read(name: str, folder: str = folder) -> bytes:
            with fs.open_input_file(f"{folder}/{name}") as file:
                return bytes(file.read())

        found = None if _is_own(f"{folder}/", own) else own_in(marked[folder], read)
        if found is not None and not (found.whole and folder == top):
            own[folder] = found
    return own


def _is_own(path: str, own: Mapping[str, Own]) -> bool:
    """Whether alray wrote a file."""
    folder, _, name = path.rpartition("/")
    if folder in own and own[folder].has(name):
        return True
    above = (folder[:at] for at, sign in enumerate(folder) if sign == "/")
    return any(place in own and own[place].whole for place in above)


def _files(uri: str, found: Iterable[Found]) -> pa.Table:
    """A table of the schema FILES, sorted by name. It is made in parts: a million tuples would take much memory."""
    schema, parts = FILES.remove(1), []  # without the URI
    columns: tuple[list[Any], ...] = ([], [], [])

    def end_part() -> None:
        arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
        parts.append(pa.record_batch(arrays, schema))
        for column in columns:
            column.clear()

    names, sizes, times = columns
    for name, size, time in found:
        # The lists of checksums of images that alray wrote are no files of the data set.
        if name.endswith(".json") and is_list(file_name(name)):
            continue
        if not name.isascii() and (shown := utf8_name(name)) != name:
            name, size, time = shown, None, None
        names.append(name)
        sizes.append(size)
        times.append(time)
        if len(names) == _PART:
            end_part()
    end_part()
    files = pa.Table.from_batches(parts, schema).sort_by("name").combine_chunks()
    return files.add_column(1, "uri", pc.binary_join_element_wise(pa.scalar(uri.rstrip("/")), files["name"], "/"))


@dataclass
class _LocalWalk:
    """The files below a local directory.

    With links "inside", a link to a file below the directory is that file. A link to a folder below it is not followed,
    because that folder is listed under its own name: so every folder is listed once, and no link can loop. With "all"
    every link is followed, unless it leads to a folder that it is in.
    """

    top: str
    links: str
    outside: list[str] = field(default_factory=list)  # names of links that lead out of the directory
    again: list[str] = field(default_factory=list)  # of links to folders that are listed anyway
    unused: list[str] = field(default_factory=list)  # of all links, where none may be followed
    own: list[str] = field(default_factory=list)  # of folders that alray wrote
    own_files: int = 0  # in these

    def files(self, recursive: bool) -> Iterator[Found]:
        """Yield each file. A broken link has no size."""
        top = os.path.realpath(self.top)
        way: tuple[str, ...] = (top,)  # the real paths of a folder and of those above it
        waiting = [("", self.top, way)]  # the name below the top, the path
        while waiting:
            inside, folder, way = waiting.pop()
            own = own_in_folder(folder)
            if own is not None and (inside or not own.whole):
                self.own.append(inside.rstrip("/"))
            if own is not None and own.whole and inside:
                self.own_files += sum(len(files) for _, _, files in os.walk(folder))
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    name, real = inside + entry.name, ""
                    if own is not None and not own.whole and own.has(entry.name) and entry.is_file():
                        self.own_files += 1
                        continue
                    if entry.is_symlink():
                        real = os.path.realpath(entry.path)
                        if not os.path.exists(real):
                            yield name, None, None
                            continue
                        if not self._follows(name, real, entry.is_dir(), top, way):
                            continue
                    if entry.is_dir():
                        waiting.append((f"{name}/", entry.path, (*way, real or f"{way[-1]}/{entry.name}")))
                    else:
                        stat = entry.stat()
                        yield name, stat.st_size, stat.st_mtime_ns
            if not recursive:
                return

    def _follows(self, name: str, real: str, is_folder: bool, top: str, way: tuple[str, ...]) -> bool:
        """Whether a link is followed; if not, it is noted."""
        is_inside = real == top or real.startswith(f"{top.rstrip('/')}/")
        if self.links == "none":
            self.unused.append(name)
        elif is_folder and (real in way or (is_inside and self.links == "inside")):
            self.again.append(name)
        elif not is_inside and self.links == "inside":
            self.outside.append(name)
        else:
            return True
        return False

    def notes(self) -> Iterator[str]:
        """Sentences on links that were not followed, and on folders that were left out."""
        yield from left_out(self.own, self.own_files)
        if self.outside:
            yield (
                f"{_links(self.outside)} out of {self.top} and {_were(self.outside)} left out; --links all follows "
                "links wherever they lead"
            )
        if self.again:
            yield (
                f"{_links(self.again)} to a folder whose files are listed under its own name, and "
                f"{_were(self.again)} not followed"
            )
        if self.unused:
            yield f"{_links(self.unused)} to other files or folders and {_were(self.unused)} left out (--links none)"


def _links(names: list[str]) -> str:
    first = min(names)
    return f"1 link, {first}, leads" if len(names) == 1 else f"{len(names):,} links, the first {first}, lead"


def _were(names: list[str]) -> str:
    return "was" if len(names) == 1 else "were"
