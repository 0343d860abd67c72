"""What people give for an image: a class or a mask. Each kind reads deliveries and checks what they hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from alray.data.catalog import Catalog
from alray.data.masks import masks_of
from alray.data.oracle import OracleError, Status
from alray.labeling import deliveries
from alray.labeling.deliveries import Delivered
from alray.labeling.mask_deliveries import DrawnMasks
from alray.rundir import RunDir
from alray.store import Store
from alray.tasks import task_of


class Kind(Protocol):
    """Reads and checks deliveries. notes: sentences for people on what was read; contents: what answers name, by
    name, such as the masks that were read."""

    notes: list[str]
    contents: dict[str, bytes]

    def read(self, path: str, keys: Sequence[str]) -> list[Delivered]:
        """Read a delivery; keys: of the images that may be meant. Raises LabelError."""
        ...

    def of_task(self, name: str, at: int, task: Mapping[str, Any]) -> Iterator[Delivered]:
        """Read a task of Label Studio, as `alray.labeling.deliveries.of_task` does."""
        ...

    def drawn(self, line: Delivered, data: bytes) -> Delivered:
        """The answer that has a PNG as its mask. Raises OracleError if people give no masks."""
        ...

    def problems(self, lines: Sequence[Delivered]) -> dict[Delivered, str]:
        """Why answers that fit what was asked cannot be used all the same."""
        ...

    def together(self, lines: Sequence[Delivered]) -> list[Delivered]:
        """The answers of several people to one image, where what they gave can be put together; else as they are."""
        ...

    def store(self, lines: Sequence[Delivered], masks: Store) -> None:
        """Write what a delivery names, before it is written."""
        ...


class Classes:
    """People name classes."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.contents: dict[str, bytes] = {}

    def read(self, path: str, keys: Sequence[str]) -> list[Delivered]:
        """Read names of classes."""
        return deliveries.read(path)

    def of_task(self, name: str, at: int, task: Mapping[str, Any]) -> Iterator[Delivered]:
        """Read choices."""
        return deliveries.of_task(name, at, task)

    def drawn(self, line: Delivered, data: bytes) -> Delivered:
        """Raises OracleError."""
        raise OracleError(f"{line.where}: {line.key}: expected a class, got a mask")

    def problems(self, lines: Sequence[Delivered]) -> dict[Delivered, str]:
        """None."""
        return {}

    def together(self, lines: Sequence[Delivered]) -> list[Delivered]:
        """As they are."""
        return list(lines)

    def store(self, lines: Sequence[Delivered], masks: Store) -> None:
        """Write nothing: the delivery holds the names."""


def _masks(run: RunDir, catalog: Catalog) -> Kind:
    return DrawnMasks(masks_of(run.settings().data, catalog), catalog)


_KINDS: dict[Status, Callable[[RunDir], Kind]] = {
    Status.LABEL: lambda run: Classes(),
    Status.MASK: lambda run: _masks(run, run.catalog()),
}
COLUMN = {Status.LABEL: "label", Status.MASK: "mask"}  # of the batch's CSV, which people fill in


def advice_on(gives: Status, csv: str, sheet: str) -> tuple[str, str]:
    """What people do with a batch, and what `alray label RUN` takes then. csv, sheet: names of the batch's files, sheet
    empty if there is none."""
    if gives == Status.MASK:
        return (
            f"draw a mask of each image in {csv} ({sheet} shows them)",
            "FOLDER, with PNG files of class numbers, each named after its image as in data.mask_root; or a JSON of "
            "COCO instances; or a CSV with the path of each mask",
        )
    page = f", or open {sheet} in a browser and save its CSV" if sheet else ""
    return f"fill in the labels in {csv}{page}", "FILE"


def kind_of(run: RunDir, gives: Status | None = None) -> Kind:
    """What people give in a run. gives: the kind of answers; None: that of the run's task. Raises CatalogError, Missing
    if the catalog is gone."""
    return _KINDS[task_of(run.settings()).answers if gives is None else gives](run)
