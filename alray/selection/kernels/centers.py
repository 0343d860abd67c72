"""The centers of a k-center: labeled rows and picks, as stored and as the filter sees them.

Letters: p centers, d width.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import torch

from alray.features.arrays import Array
from alray.selection.kernels.distance import Space, View, join
from alray.selection.kernels.logits import Positions

_BLOCKS = (64, 64, 128)  # centers compared at once: few at first, because most rows are dropped early; then 256
_BLOCK = 256


@dataclass
class Centers:
    """Labeled rows, then picks: as stored, and as the views that the filter uses. A copy of a center is left out,
    because its distances are the same."""

    space: Space | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    edges: list[int] = field(default_factory=lambda: [0])
    largest: float = 0.0
    _stored: list[Array] = field(default_factory=list)
    _known: set[bytes] = field(default_factory=set)
    _view: View | None = None

    def __len__(self) -> int:
        return self.edges[-1]

    @property
    def view(self) -> View:
        """What the filter uses."""
        assert self._view is not None
        return self._view

    @property
    def stored(self) -> Array:
        """The vectors as they were given."""
        if len(self._stored) > 1:
            self._stored = [np.concatenate(self._stored)]
        return self._stored[0]

    def add(self, stored: Array) -> None:
        """Append stored vectors (p, d)."""
        assert self.space is not None
        stored = stored[self._new(stored)]
        view = self.space.view(stored).to(self.device)
        self._stored.append(stored)
        self._view = view if self._view is None else join(self._view, view)
        self.largest = max(self.largest, view.largest)
        end = self.edges[-1] + len(stored)
        while self.edges[-1] < end:
            size = _BLOCKS[len(self.edges) - 1] if len(self.edges) <= len(_BLOCKS) else _BLOCK
            self.edges.append(min(end, self.edges[-1] + size))

    def _new(self, stored: Array) -> Positions:
        """The positions of vectors that are no copies of others."""
        new = []
        for at, vector in enumerate(np.ascontiguousarray(stored)):
            digest = hashlib.blake2b(vector.data, digest_size=16).digest()
            if digest not in self._known:
                self._known.add(digest)
                new.append(at)
        return np.array(new, np.intp)

    def blocks(self, seen: int) -> list[tuple[int, int]]:
        """Where the blocks behind the first `seen` centers start and end."""
        first = int(np.searchsorted(self.edges, seen))
        return list(zip(self.edges[first:-1], self.edges[first + 1 :], strict=True))
