"""The rings of a window that BADGE's race accepts: the driver's side (`alray.selection.kernels.race`).

Letters: m rings, p picks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from alray.features.arrays import Array
from alray.selection.kernels.gradients import Gradients
from alray.selection.kernels.logits import Floats, Positions
from alray.selection.kernels.matrices import Place, fetched
from alray.selection.kernels.rough import Near, Rough, near

if TYPE_CHECKING:
    import torch

_CHUNK = 128  # rings that are decided together
T = TypeVar("T")


class Window:
    """Rings that may be accepted (m,), in the order of time.

    A ring's row has a weight; it becomes smaller with every pick near it, and is minus infinity as soon as it is known
    to be no larger than the weight that the ring must exceed (`least`). Rings are decided in chunks: after each pick
    its distances to the rest of its chunk are considered, and after each chunk those of its picks to all later rings.
    """

    def __init__(self, gradients: Gradients, least: Floats, weight: Floats, place: Place) -> None:
        self._gradients, self._least, self._weight = gradients, least, weight
        self.picked: list[int] = []
        self._place = place
        self._on_device: Rough | None = None

    def accepted(self) -> Iterator[tuple[int, float]]:
        """The rings that are accepted, one after the other, and the weights that they have then: picks."""
        left = np.arange(len(self._least))
        while len(left):
            here, left = left[:_CHUNK], left[_CHUNK:]
            low, high = self._bounds(here)
            first = len(self.picked)
            for i, ring in enumerate(here.tolist()):
                if self._weight[ring] > self._least[ring]:
                    yield ring, float(self._weight[ring])
                    self.picked.append(ring)
                    later, bounds = here[i + 1 :], (low[i + 1 :, i : i + 1], high[i + 1 :, i : i + 1])
                    self._lower(later, here[i : i + 1], near(*bounds, self._weight[later]))
            picks = np.array(self.picked[first:], np.intp)
            if len(picks) and len(left):
                self._lower(left, picks, self._near(left, picks))
            left = left[self._weight[left] > self._least[left]]

    def _bounds(self, rings: Positions) -> tuple[Array, Array]:
        """Lower and upper bounds of the distances between rings (m, m)."""

        def told(rough: Rough) -> tuple[Array, Array]:
            low, high = rough[rings].bounds(rough[rings])
            return fetched(low), fetched(high)

        return self._told(told)

    def _near(self, rings: Positions, picks: Positions) -> Near:
        return self._told(lambda rough: rough[rings].near(rough[picks], self._weight[rings]))

    def _told(self, what: Callable[[Rough], T]) -> T:
        """What the gradients in float32 tell, which are sent to the GPU if this process uses one."""

        def there(device: torch.device) -> T | None:
            if self._on_device is None:
                if not (rough := self._gradients.rough).in_range():
                    return None
                self._on_device = rough.to(device)
            return what(self._on_device)

        def forget() -> None:
            self._on_device = None

        found = self._place.attempt(there, forget)
        return what(self._gradients.rough) if found is None else found

    def _lower(self, rings: Positions, picks: Positions, found: Near) -> None:
        """Bring the weights of rings (m,) up to date with picks (p,), from what the bounds of their distances tell."""
        gone = found.high <= self._least[rings]
        self._weight[rings[gone]] = -np.inf
        keep = ~gone[found.at]
        at, pick = found.at[keep], found.center[keep]
        if len(at):
            exact = self._gradients.pairs(self._gradients, rings[at], picks[pick])
            np.minimum.at(self._weight, rings[at], exact)

    def picks(self) -> Gradients:
        """The gradients of the picks."""
        return self._gradients[np.array(self.picked, np.intp)]
