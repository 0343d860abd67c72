"""The linear head of a classifier as plain arrays. Linear evaluation trains it, and strategies read it.

Letters: c classes, d width of the embedding.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alray.keyed import generator
from alray.store import Store

FILE = "head.npz"
_INITIAL_STD = 1e-3  # as in the code of Emam et al. 2021


class HeadError(ValueError):
    """A file or a pair of arrays is not a linear head."""


@dataclass(frozen=True)
class Head:
    """logits = embedding @ weight.T + bias. weight (c, d) float32, bias (c,) float32."""

    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.weight.ndim != 2 or self.bias.shape != self.weight.shape[:1]:
            raise HeadError(
                f"head: expected weight (c, d) and bias (c,), got shapes {self.weight.shape} and {self.bias.shape}"
            )

    def save(self, out: Store) -> None:
        """Write weight and bias to the file head.npz, atomically. Raises StoreError."""
        buffer = io.BytesIO()
        np.savez(buffer, weight=self.weight, bias=self.bias)
        out.write_bytes(FILE, buffer.getvalue())

    @classmethod
    def load(cls, out: Store) -> Head:
        """Read the head.npz in a directory. Raises FileNotFoundError, Damaged, HeadError."""
        try:
            with np.load(io.BytesIO(out.read_bytes(FILE)), allow_pickle=False) as arrays:
                return cls(arrays["weight"].astype(np.float32), arrays["bias"].astype(np.float32))
        except (KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
            raise HeadError(f"{out.at(FILE)}: expected .npz with weight (c, d) and bias (c,): {error}") from error


def initial_head(num_classes: int, dim: int, seed: int) -> Head:
    """A fresh head. Its weights are normal with standard deviation 0.001, its bias is zero; both depend on (seed, c, d)
    alone."""
    weight = generator(seed, "head").normal(0.0, _INITIAL_STD, (num_classes, dim))
    return Head(weight.astype(np.float32), np.zeros(num_classes, np.float32))
