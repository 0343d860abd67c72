"""The scales of embeddings and logits that users store as int8 or uint8: the values are scale * stored, in float32.

There is no offset, so that a stored 0 is 0. The array stays as it is stored until a block of it is read
(`alray.features.arrays.floating`). Letters: n rows, w width of a column.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Collection, Mapping
from typing import Any
from zipfile import BadZipFile

import numpy as np

from alray.credentials import redacted
from alray.data.sources.damaged import instead
from alray.features.arrays import Array, Scaled
from alray.selection.protocol import SelectionError
from alray.selection.tables import read_npy, refuse_masked
from alray.store import absolute

_STORED = (np.int8, np.uint8)
_LEAST = float(np.finfo(np.float32).tiny)
_MOST = float(np.finfo(np.float32).max) / 256  # scale * 255 is finite


def read_scales(scales: Mapping[str, Any], given: Collection[str]) -> dict[str, Array]:
    """The scales that were given, by the name of their array, float32 () or (w,).

    scales: a number, an array (w,), the text of a number or the path of .npy by the name of the array; None where there
    is none. given: the names of the arrays that were given. Raises SelectionError.
    """
    found = {}
    for name, value in scales.items():
        if value is not None:
            if name not in given:
                raise SelectionError(f"{_option(name)}: expected {name} beside it, got none")
            found[name] = _read(_option(name), value)
    return found


def is_scaled(array: Array) -> bool:
    """Whether the array stays as it is stored, with a scale of 1 unless another one is given."""
    return array.dtype in _STORED


def scaled(name: str, array: Array, where: str, scale: Array | None) -> Scaled:
    """The array (n, w) of an argument with its scale. where: what was read. Raises SelectionError where
    they do not fit."""
    if not is_scaled(array):
        raise SelectionError(
            f"{_option(name)}: expected none, or {name} of int8 or uint8, whose values are scale * stored; "
            f"got {array.dtype} in {where}"
        )
    if scale is not None and scale.ndim and len(scale) != array.shape[1]:
        raise SelectionError(
            f"{_option(name)}: expected one number, or one for each of the {array.shape[1]:,} columns of {name}, "
            f"got {len(scale):,}"
        )
    return Scaled(array, np.ones((), np.float32) if scale is None else scale)


def _option(name: str) -> str:
    return f"{name}_scale"


def _read(option: str, value: Any) -> Array:
    """The scale of an argument, float32 () or (w,)."""
    if isinstance(value, str | bytes) or hasattr(value, "__fspath__"):
        value = _of_text(option, os.fsdecode(value))
    refuse_masked(option, value)
    try:
        wide = np.asarray(value)
    except (ValueError, TypeError, RuntimeError):  # PyTorch raises the last two
        wide = np.asarray(None)
    if wide.dtype.kind not in "iuf":
        what = type(value).__name__ if wide.dtype == object else f"an array of {wide.dtype}"
        raise SelectionError(f"{option}: expected a number, or one for each column, got {what}")
    if wide.ndim > 1:
        raise SelectionError(f"{option}: expected a number, or one for each column, got an array of shape {wide.shape}")
    wide = wide.astype(np.float64)  # float16 cannot be compared with these ends
    good = (wide >= _LEAST) & (wide <= _MOST)  # false for NaN
    if not good.all():
        at = int(np.argmin(good))
        column = f" for column {at}" if wide.ndim else ""
        raise SelectionError(
            f"{option}: expected finite numbers above zero, from {_LEAST:.1e} to {_MOST:.1e}, got "
            f"{wide.ravel()[at]:g}{column}"
        )
    return wide.astype(np.float32)


def _of_text(option: str, text: str) -> Any:
    """A number, or the array of a .npy file."""
    try:
        return float(text)
    except ValueError:
        pass
    absolute(text)  # refuses credentials
    try:
        found = np.array(read_npy(text))
        if found.dtype.kind == "U":  # the names in a .npz
            raise ValueError("several arrays, or texts")
        return found
    except FileNotFoundError:
        raise SelectionError(
            f"{option}: expected a number or the path of .npy, got {redacted(text)}, which is neither a number nor a "
            "file"
        ) from None
    except (OSError, ValueError, EOFError, KeyError, BadZipFile, zlib.error) as error:
        raise SelectionError(
            f"{option}: {redacted(text)}: expected a number, or .npy with one for each column, got "
            f"{instead(text, error)}"
        ) from None
