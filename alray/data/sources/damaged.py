"""Why a file of a source cannot be read, in words that say what to do."""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from alray.data.sources.scan import CatalogError
from alray.reasons import is_lfs_pointer, why
from alray.store import filesystem, is_remote

NOT_UTF8 = "the name is not in UTF-8 (\\x.. stands for a byte of it); rename the file or folder"
# In a name that `alray.reasons.utf8_name` wrote: a byte that is not UTF-8.
NOT_UTF8_PATTERN = r"\\x[89a-f][0-9a-f]"


def first_bytes(uri: str, size: int = 64) -> bytes:
    """The first bytes of a file; none if it cannot be read."""
    try:
        fs, path = filesystem(uri)
        with fs.open_input_file(path) as file:
            return bytes(file.read(size))
    except OSError:
        return b""


def why_unreadable(uri: str, error: BaseException) -> str:
    """The reason why a file cannot be read, given the error that reading it raised."""
    if isinstance(error, OSError) and re.search(NOT_UTF8_PATTERN, uri):
        return NOT_UTF8
    return why(error, first_bytes(uri))


@contextmanager
def reachable(source: str) -> Iterator[None]:
    """Context manager: raise CatalogError for errors of the file system, and for those of a client of an object store,
    which may be of any type."""
    try:
        yield
    except Exception as error:
        package = type(error).__module__.partition(".")[0]
        is_foreign = isinstance(error, OSError) or (is_remote(source) and package != "builtins")
        if package == "alray" or not is_foreign:
            raise
        raise CatalogError(f"{source}: cannot be read: {type(error).__name__}: {why(error)}") from error


def why_no_array(uri: str, error: BaseException) -> str:
    """The reason why a .npy or .npz cannot be read. NumPy takes all that is neither of both for pickled objects."""
    head = first_bytes(uri)
    pickled = "pickle" in str(error) or "Python objects" in str(error)
    if (pickled or uri.endswith((".npy", ".npz"))) and head and not is_lfs_pointer(head):
        if not head.startswith((b"\x93NUMPY", b"PK")):
            return f"it begins with {head[:12]!r}"
        if pickled:
            return "it holds Python objects, which only pickle can read; save numbers"
    return _cut_off(uri) or why(error, head)


def _cut_off(uri: str) -> str:
    """That a .npy is shorter than its header says; empty where it is not, or where there is no header."""
    import numpy as np

    file = io.BytesIO(first_bytes(uri, 1 << 16))
    try:
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(
            np.lib.format.read_magic(file)
        )
        if read is None:
            return ""
        shape, _, dtype = read(file)
        fs, path = filesystem(uri)
        size = fs.get_file_info(path).size
    except (OSError, ValueError):
        return ""
    needed = file.tell() + math.prod(shape) * dtype.itemsize
    if dtype.hasobject or size is None or size >= needed:
        return ""
    return f"the file is cut off: its header says {dtype} {shape}, {needed:,} bytes, and it has {size:,}; copy it again"


def instead(uri: str, error: BaseException) -> str:
    """What is there instead of a file that was expected, as the end of "expected row numbers, got ..."."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "no such file"
    if isinstance(error, IsADirectoryError) or os.path.isdir(uri):
        return "a directory"
    return f"something else ({why_no_array(uri, error)})"
