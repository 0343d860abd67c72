"""What people give for an image: a class or a mask. Each kind reads deliveries and checks what they hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from alray.data.catalog import Catalog
from alray.data.masks import masks_of
from alray.data.oracle import Status
from alray.labeling import deliveries
from alray.labeling.deliveries import Delivered
from alray.labeling.mask_deliveries import DrawnMasks
from alray.rundir import RunDir
from alray.store import Store
from alray.tasks import task_of


class Kind(Protocol):
    """Reads and checks deliveries. notes: sentences for people on what was read."""

    notes: list[str]

    def read(self, path: str, keys: Sequence[str]) -> list[Delivered]:
        """Read a delivery; keys: of the images that may be meant. Raises LabelError."""
        ...

    def problems(self, lines: Sequence[Delivered]) -> dict[str, str]:
        """Why answers that fit what was asked cannot be used all the same, by key."""
        ...

    def store(self, lines: Sequence[Delivered], masks: Store) -> None:
        """Write what a delivery names, before it is written."""
        ...


class Classes:
    """People name classes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def read(self, path: str, keys: Sequence[str]) -> list[Delivered]:
        """Read names of classes."""
        return deliveries.read(path)

    def problems(self, lines: Sequence[Delivered]) -> dict[str, str]:
        """None."""
        return {}

    def store(self, lines: Sequence[Delivered], masks: Store) -> None:
        """Write nothing: the delivery holds the names."""


def _masks(run: RunDir, catalog: Catalog) -> Kind:
    return DrawnMasks(masks_of(run.settings().data, catalog), catalog)


_KINDS: dict[Status, Callable[[RunDir], Kind]] = {
    Status.LABEL: lambda run: Classes(),
    Status.MASK: lambda run: _masks(run, run.catalog()),
}
COLUMN = {Status.LABEL: "label", Status.MASK: "mask"}  # of the batch's CSV, which people fill in


def advice_on(gives: Status, csv: str, sheet: str, command: str) -> str:
    """What people do with a batch. csv, sheet: names of its files, sheet empty if there is none; command: that takes
    the answers."""
    if gives == Status.MASK:
        return (
            f"draw a mask of each image in {csv} ({sheet} shows them). Then: {command} FOLDER, with PNG files of class "
            "numbers, each named after its image as in data.mask_root; or a JSON of COCO instances; or a CSV with the "
            "path of each mask"
        )
    page = f", or open {sheet} in a browser and save its CSV" if sheet else ""
    return f"fill in the labels in {csv}{page}. Then: {command} FILE"


def kind_of(run: RunDir) -> Kind:
    """What people give in a run. Raises CatalogError, Missing if the catalog is gone."""
    return _KINDS[task_of(run.settings()).answers](run)
