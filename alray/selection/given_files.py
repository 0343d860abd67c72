"""Arrays that are memory-mapped files: a shard gets their path and opens them itself, instead of their numbers.

Every node must reach the same file by the same path; a node that does not is named in the error. Letters: n rows.
"""

from __future__ import annotations

import mmap
import os
import platform
import zlib
from dataclasses import dataclass

import numpy as np

from alray.features.arrays import Array, Column, Scaled
from alray.selection.protocol import SelectionError

_ENDS = 1 << 16  # bytes at the start and at the end of a file that tell it from others


@dataclass(frozen=True, eq=False)
class FilePart:
    """A column (n, ...) inside a file: where its first number is, its type, shape and strides in bytes; the size and a
    checksum of the ends of the whole file, by which another node recognises it; and the scale of its stored numbers,
    float32 () or (w,), where it has one."""

    path: str
    offset: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    size: int
    ends: int
    scale: Array | None = None

    @classmethod
    def of(cls, column: Column) -> FilePart | None:
        """Where this column is in a file; None if it is not a view of a file that is mapped for reading."""
        array, scale = (column.stored, column.scale) if isinstance(column, Scaled) else (column, None)
        base = array
        while isinstance(base, np.ndarray) and not (isinstance(base, np.memmap) and isinstance(base.base, mmap.mmap)):
            base = base.base  # type: ignore[assignment]
        if not isinstance(base, np.memmap) or base.mode != "r" or base.filename is None or min(array.strides) < 0:
            return None
        offset = base.offset + array.ctypes.data - base.ctypes.data
        path = os.path.abspath(base.filename)
        try:
            return cls(path, offset, array.dtype.str, array.shape, array.strides, *_recognised(path), scale)
        except OSError:  # it was removed after it had been mapped
            return None

    def open(self) -> Column:
        """Map the file. Raises SelectionError, which names the path and the node, if it is not there or is another
        one."""
        where = f"{self.path}, on the node {platform.node()}"
        remedy = "put the file on a path that every node reaches, or give the array itself, which is then sent"
        try:
            found = _recognised(self.path)
            if found != (self.size, self.ends):
                raise SelectionError(f"{where}: expected the file that the selection began with, got another; {remedy}")
            dtype = np.dtype(self.dtype)
            length = sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True)) + dtype.itemsize
            length = 0 if 0 in self.shape else length
            data = np.memmap(self.path, np.uint8, "r", self.offset, (length,)) if length else np.empty(0, np.uint8)
        except OSError as error:
            raise SelectionError(f"{where}: cannot be opened ({error.strerror}); {remedy}") from None
        array: Array = np.ndarray(self.shape, dtype, data, 0, self.strides)
        return array if self.scale is None else Scaled(array, self.scale)


def _recognised(path: str) -> tuple[int, int]:
    """The size of a file, and a checksum of its start and its end."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        start = file.read(_ENDS)
        file.seek(max(0, size - _ENDS))
        return size, zlib.crc32(file.read(_ENDS), zlib.crc32(start))
