"""The headers of a tar: where the bytes of its images are, and which classes its label members name."""

from __future__ import annotations

import io
import posixpath
import tarfile
from array import array
from collections import Counter
from dataclasses import dataclass, field
from itertools import compress

import numpy as np
import pyarrow as pa

from alray.data.sources.damaged import NOT_UTF8, why_unreadable
from alray.data.sources.samples import class_texts, is_label_member, kind_and_stem, read_label
from alray.data.sources.scan import EXTENSIONS, file_name, is_image_name, problem, suffixes
from alray.data.sources.tar_blocks import BLOCK
from alray.data.sources.tar_headers import Members, PlainHeaders
from alray.reasons import utf8_name, why
from alray.store import filesystem

_READ_AHEAD = 4096  # bytes; a small label member is read together with its header
_TAIL = 1 << 20  # bytes that are looked at after the end of a tar, where zeros are usual
_BROKEN = (tarfile.TarError, EOFError, OverflowError, MemoryError)  # the last two: for sizes that no file has
_CLASS = ".cls"
_HOPS = 40  # links that lead to links, as many as Linux follows
_USUAL = frozenset({_CLASS, *(f".{suffix}" for name in EXTENSIONS for suffix in (name, name.upper()))})


@dataclass
class Tar:
    """The content of one tar, according to its headers. Each image has a place in `names`, `offsets` and `sizes`."""

    uri: str
    name: str  # relative to the source, without .tar
    names: list[str] = field(default_factory=list)  # of the images
    offsets: array[int] = field(default_factory=lambda: array("q"))
    sizes: array[int] = field(default_factory=lambda: array("q"))
    labels: dict[str, dict[str, str | None]] = field(default_factory=dict)  # `samples.Labels`
    problems: list[pa.Table] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)  # members of other kinds, by suffix
    without_label: int = 0  # .json members without the label column
    links: dict[int, str] = field(default_factory=dict)  # where links lead, until followed, by place of the image
    label_links: dict[str, str] = field(default_factory=dict)  # the same, by the name of a label member

    def report(self, key: str, reason: str) -> None:
        """Note that a member, or the tar itself, cannot be used."""
        self.problems.append(problem(key, self.uri, reason))


def read_headers(uri: str, path: str, label_column: str) -> Tar:
    """Read the headers of a tar and its label members. path: its name relative to the source; label_column: the entry
    of .json members with the class. A damaged or truncated tar is among the problems of the result."""
    tar = Tar(uri, path[: -len(".tar")])
    try:
        _read(tar, label_column)
    except OSError as error:
        tar.report(file_name(uri), f"broken tar: {why_unreadable(uri, error)}")
    return tar


def _read(tar: Tar, label_column: str) -> None:
    uri = tar.uri
    fs, path = filesystem(uri)
    with fs.open_input_file(path) as file:
        size = file.size()
        plain = PlainHeaders(file, size)
        for members in plain.batches():
            _add_plain(tar, members, plain, size, label_column)
        buffered = io.BufferedReader(file, _READ_AHEAD)
        try:
            if plain.ended:
                _check_end(tar, buffered, plain.offset, size)
            else:
                _read_others(tar, buffered, plain.offset, size, label_column)
        finally:
            buffered.detach()


def _read_others(tar: Tar, file: io.BufferedReader, start: int, size: int, label_column: str) -> None:
    """Read the headers from `start` on with `tarfile`, which knows all kinds of members."""
    end = start
    file.seek(start)
    try:
        with tarfile.open(fileobj=file, mode="r:") as members:
            try:
                for member in members:
                    end = member.offset
                    if member.size < 0:  # it would lead back to a member before it, for ever
                        break
                    _add_other(tar, members, member, size, label_column)
                    if (end := members.offset) > size:  # what follows may be too far away for any file
                        break
            except _BROKEN:
                end = members.offset  # `_check_end` reports where reading stopped
    except _BROKEN as error:
        if not start:
            tar.report(file_name(tar.uri), f"broken tar: {why_unreadable(tar.uri, error)} ({size} bytes)")
            return
    follow(tar)
    _check_end(tar, file, end, size)


def _add_other(tar: Tar, members: tarfile.TarFile, member: tarfile.TarInfo, size: int, label_column: str) -> None:
    """Add a member that `tarfile` read."""
    name = member.name.removeprefix("./")
    if member.isdir():
        return
    if utf8_name(name) != name:
        tar.report(utf8_name(name), f"unreadable name: {NOT_UTF8}")
        return
    regular = member.isreg()
    if member.islnk() or member.issym():
        _add_link(tar, name, target_of(member))
        return
    if is_image_name(name) and (not regular or member.issparse()):
        got = "a sparse file" if member.issparse() else "a device or a pipe" if member.isdev() else "another kind"
        tar.report(name, f"broken member: expected one range of bytes, got {got}")
        return
    there = regular and member.offset_data + member.size <= size
    data = members.extractfile(member).read() if there and is_label_member(name) else None  # type: ignore[union-attr]
    others: list[str] = []
    _add(tar, name, member.offset_data, member.size, size, data, label_column, others)
    tar.ignored.update(suffixes(others))


def _add_link(tar: Tar, name: str, target: str) -> None:
    """Add a link, whose bytes are not known before all members are."""
    if is_image_name(name):
        tar.links[len(tar.names)] = target
        tar.names.append(name)
        tar.offsets.append(-1)
        tar.sizes.append(-1)
    elif is_label_member(name):
        tar.label_links[name] = target
    else:
        tar.ignored.update(suffixes([name]))


def _add_plain(tar: Tar, members: Members, plain: PlainHeaders, size: int, label_column: str) -> None:
    """Add plain files of a tar of `size` bytes."""
    names = members.names
    joined = "\0".join(names)
    if joined.startswith("./") or "\0./" in joined:
        names = [name.removeprefix("./") for name in names]
        joined = "\0".join(names)
    hidden = joined.startswith(".") or "\0." in joined or "/." in joined  # at least one of them
    ends = [name[-4:] for name in names]  # .cls and .jpg; other names take longer
    if not _USUAL.issuperset(ends):
        ends = [name[name.rfind(".") :] for name in names]
    if not hidden and _USUAL.issuperset(ends) and _add_usual(tar, members._replace(names=names), ends, plain, size):
        return
    others = list[str]()
    for name, offset, length in zip(names, members.offsets.tolist(), members.sizes.tolist(), strict=True):
        there = is_label_member(name) and not is_image_name(name) and offset + length <= size
        data = plain.data([offset], [length])[0] if there else None
        _add(tar, name, offset, length, size, data, label_column, others)
    tar.ignored.update(suffixes(others))


def _add_usual(tar: Tar, members: Members, ends: list[str], plain: PlainHeaders, size: int) -> bool:
    """Add plain files that are images or .cls members. Returns whether it could: if one is not usual, none is added.
    ends: those of their names."""
    if members.names and members.offsets[-1] + members.sizes[-1] > size:
        return False
    labels = np.array([end == _CLASS for end in ends], bool)
    try:
        classes = class_texts(plain.data(members.offsets[labels].tolist(), members.sizes[labels].tolist()))
    except UnicodeDecodeError:
        return False
    if classes:
        stems = [name[: -len(_CLASS)] for name in compress(members.names, labels.tolist())]
        tar.labels.setdefault(_CLASS, {}).update(zip(stems, classes, strict=True))
    tar.names += compress(members.names, (~labels).tolist())
    tar.offsets.frombytes(members.offsets[~labels].tobytes())
    tar.sizes.frombytes(members.sizes[~labels].tobytes())
    return True


def _add(
    tar: Tar, name: str, offset: int, length: int, size: int, data: bytes | None, label_column: str, others: list[str]
) -> None:
    """Add a file. size: bytes of the tar; data: those of a label member that can be read; others: the names of files
    that are neither, to be counted."""
    if is_image_name(name):
        if offset + length > size:
            tar.report(name, f"truncated member: the tar ends {offset + length - size} bytes before it")
        else:
            tar.names.append(name)
            tar.offsets.append(offset)
            tar.sizes.append(length)
    elif data is not None:
        _add_label(tar, name, data, label_column)
    else:
        others.append(name)


def _add_label(tar: Tar, name: str, data: bytes, label_column: str) -> None:
    try:
        found = read_label(name, data, label_column)
    except ValueError as error:
        tar.report(name, f"broken sidecar: {why(error)}")
        return
    if found is None:
        tar.without_label += 1
    else:
        kind, stem, label = found
        tar.labels.setdefault(kind, {})[stem] = label


def target_of(link: tarfile.TarInfo) -> str:
    """The name of the member where a link leads: a hard link names it, a symbolic link is a path from its folder."""
    there = link.linkname if link.islnk() else posixpath.join(posixpath.dirname(link.name), link.linkname)
    return posixpath.normpath(there)


def follow(tar: Tar) -> None:
    """Give links to members of the same tar the bytes, or the class, of these: the last one of several with the same
    name. Report those that lead nowhere."""
    for _ in range(_HOPS if tar.links or tar.label_links else 0):
        place = {name: at for at, name in enumerate(tar.names) if at not in tar.links}
        found = {at: place[target] for at, target in tar.links.items() if target in place}
        for at, there in found.items():
            tar.offsets[at], tar.sizes[at] = tar.offsets[there], tar.sizes[there]
            del tar.links[at]
        named = [name for name, target in tar.label_links.items() if _take_label(tar, name, target)]
        for name in named:
            del tar.label_links[name]
        if not found and not named:
            break
    for at, target in tar.links.items():
        tar.report(tar.names[at], f"broken link: it leads to {utf8_name(target)}, which is no image of the tar")
    if tar.links:
        keep = [at not in tar.links for at in range(len(tar.names))]
        tar.names = list(compress(tar.names, keep))
        tar.offsets, tar.sizes = (array("q", compress(column, keep)) for column in (tar.offsets, tar.sizes))
    for name, target in tar.label_links.items():
        if name.endswith(".json") and tar.without_label:  # such a one may be where it leads
            tar.without_label += 1
        else:
            tar.report(name, f"broken link: it leads to {utf8_name(target)}, which names no class in the tar")
    tar.links, tar.label_links = {}, {}


def _take_label(tar: Tar, name: str, target: str) -> bool:
    """Give a link the class that the member where it leads names. Returns whether there is one."""
    if not is_label_member(target):
        return False
    (kind, stem), (there, known) = kind_and_stem(name), kind_and_stem(target)
    if kind != there or known not in tar.labels.get(kind, {}):
        return False
    tar.labels[kind][stem] = tar.labels[kind][known]
    return True


def _check_end(tar: Tar, file: io.BufferedReader, end: int, size: int) -> None:
    """Report a tar that does not end with a block of zeros, because its last members may be missing, or that goes on
    after it, because nothing reads what is there."""
    file.seek(min(end, size))
    block = file.read(BLOCK)
    if block != bytes(BLOCK):
        what = "no end-of-archive mark" if len(block) < BLOCK else "no valid header"
        tar.report(file_name(tar.uri), f"truncated tar: there is {what} at byte {min(end, size)} of {size}")
    elif file.read(_TAIL).strip(b"\0"):
        tar.report(
            file_name(tar.uri),
            f"broken tar: data follows its end-of-archive mark at byte {min(end, size)} of {size}; if archives were "
            "joined, `tar --ignore-zeros` reads them all",
        )
