"""Random numbers as a function of (seed, stream, row) alone, and not of what was drawn before.

A row's priority depends on nothing but its own number, the seed and the name of the stream, so a draw is the same for
any number of shards, any block size and after any restart (contract C4).
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def stream_key(seed: int, stream: str) -> int:
    """The 64-bit key of a named stream, e.g. ``stream_key(0, "random/round=3")``."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=8).digest(), "little")


def priorities(seed: int, stream: str, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """Uniform 64-bit priorities, one per row.

    rows (n,) int64 -> (n,) uint64. SplitMix64 (Steele et al. 2014) of the row, started from the stream's key.
    """
    return by_key(np.uint64(stream_key(seed, stream)), rows)


def by_key(key: np.uint64 | npt.NDArray[np.uint64], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """The priorities of rows (n,) in the streams with these keys: one for all rows, or one for each, (n,)."""
    x = np.asarray(rows).astype(np.uint64) * _GOLDEN + key
    for _ in range(2):  # once mixes well; twice also separates keys that differ in one bit
        x = x + _GOLDEN
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return x


def uniform(seed: int, stream: str, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The priorities as numbers in [0, 1), multiples of 2^-53."""
    return fractions(priorities(seed, stream, rows))


def fractions(priorities: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Priorities as numbers in [0, 1), multiples of 2^-53."""
    return (priorities >> np.uint64(11)).astype(np.float64) * 2.0**-53


def order(seed: int, stream: str, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The rows in a random order that depends on (seed, stream) alone. Rows of equal priority are in row order."""
    rows = np.asarray(rows, dtype=np.int64)
    return rows[np.lexsort((rows, priorities(seed, stream, rows)))]


def generator(seed: int, stream: str) -> np.random.Generator:
    """A NumPy generator of its own for a named stream; the global random state is never touched."""
    return np.random.Generator(np.random.Philox(key=stream_key(seed, stream)))
