"""The images of a training over all of its epochs, in the passes that a plan counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from alray.planning.probe import Decoded, Speed


@dataclass(frozen=True)
class Pass:
    """So many images at this speed. read: whether each is read from storage."""

    images: float
    speed: Speed
    read: bool = True


def passes(
    speed: Speed,
    images: float,
    epochs: int,
    *,
    workers: int,
    kept_bytes: int,
    rows: float,
    decoded: Callable[[], Decoded],
) -> list[Pass]:
    """All epochs of a training, of so many images each. kept_bytes: of decoded images that may be kept between epochs;
    rows: how many images there are to keep, each by every worker; decoded: measures what is spared, if it is asked."""
    from alray.data.kept import pays

    if not kept_bytes or not pays(epochs, workers) or rows * (each := decoded()).bytes > kept_bytes:
        return [Pass(epochs * images, speed)]
    spared = min(speed.decode, each.seconds)
    again = replace(speed, decode=speed.decode - spared)
    return [Pass(workers * rows, Speed(spared, 0.0)), Pass(epochs * images, again, read=False)]
