"""Tasks: everything that differs between classification and segmentation, in one object for each.

No other module asks which task a run has. A third task is a third class here, and one line in `TASKS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from alray.config import DataConfig, ModelConfig, RunConfig
from alray.data.catalog import Catalog
from alray.data.masks import masks_of, with_masks
from alray.data.oracle import HiddenLabels, Oracle, Status
from alray.data.pool import Pool, Rows
from alray.rundir import Shared
from alray.selection.protocol import Strategy
from alray.selection.registry import build, build_for_segmentation
from alray.store import weights_fingerprint
from alray.train.learner import Learner
from alray.train.learners import learner_kind

if TYPE_CHECKING:
    from alray.models.checkpoint import LoadReport


class Task(ABC):
    """What a run learns, and what its labels are."""

    name: ClassVar[str]

    def index_config(self, data: DataConfig) -> DataConfig:
        """How the source is indexed for this task."""
        return data

    @abstractmethod
    def classes(self, data: DataConfig, catalog: Catalog) -> tuple[str, ...]:
        """The classes that are learned; none where nobody says which there are."""

    def annotated(self, config: RunConfig, catalog: Catalog, rows: Rows) -> Catalog:
        """The catalog with what belongs to the data besides images and classes, checked for these rows. Raises
        CatalogError."""
        return catalog

    @abstractmethod
    def hidden_labels(self, catalog: Catalog) -> Oracle:
        """The oracle that replays what the source knows."""

    @abstractmethod
    def pool(self, catalog: Catalog, rows: Rows) -> Pool:
        """A pool of these rows in which nothing is labeled."""

    @abstractmethod
    def testable(self, catalog: Catalog, rows: Rows) -> Rows:
        """Those of the test rows that predictions can be compared with."""

    @abstractmethod
    def pool_counts(self, catalog: Catalog, rows: Rows) -> list[int] | None:
        """Images of every class among these rows, where the source knows the class of each."""

    @abstractmethod
    def strategy(self, name: str, options: Mapping[str, Any]) -> Strategy:
        """The strategy of that name, as it chooses for this task. Raises SelectionError."""

    @abstractmethod
    def learner(self, config: RunConfig, catalog: Catalog) -> type[Learner]:
        """The kind of learner. Raises ConfigError where the catalog does not allow the configured one."""

    def embedded_test(self, rows: Rows) -> Rows:
        """The test rows whose embeddings the evaluation reads."""
        return rows

    def build(self, config: RunConfig, classes: int) -> str:
        """Build the network once, on the driver: a wrong name or checkpoint is found before any worker starts. Returns
        what was loaded, in words."""
        content = ""
        with suppress(OSError):  # building the network says better what is wrong
            content = weights_fingerprint(config.model.checkpoint)
        return built(self.name, config.model.model_dump_json(), classes, config.transform.size, content)

    @abstractmethod
    def create(self, model: ModelConfig, classes: int, size: int) -> LoadReport | None:
        """Build the network; returns which weights were loaded."""


class Classification(Task):
    """Every image has one class."""

    name: ClassVar[str] = "classification"

    def classes(self, data: DataConfig, catalog: Catalog) -> tuple[str, ...]:
        """Those of the catalog."""
        return catalog.classes

    def hidden_labels(self, catalog: Catalog) -> Oracle:
        """The labels of the catalog."""
        return HiddenLabels(catalog.labels())

    def pool(self, catalog: Catalog, rows: Rows) -> Pool:
        """With the classes of the catalog."""
        return Pool.of(len(catalog), rows, len(catalog.classes))

    def testable(self, catalog: Catalog, rows: Rows) -> Rows:
        """Those with a label."""
        return rows[catalog.labels()[rows] >= 0]

    def pool_counts(self, catalog: Catalog, rows: Rows) -> list[int] | None:
        """None where a label is unknown."""
        labels = catalog.labels()[rows]
        return None if (labels < 0).any() else np.bincount(labels, minlength=len(catalog.classes)).tolist()

    def strategy(self, name: str, options: Mapping[str, Any]) -> Strategy:
        """As registered."""
        return build(name, options)

    def learner(self, config: RunConfig, catalog: Catalog) -> type[Learner]:
        """As `train.mode` says."""
        return learner_kind(config, catalog)

    def create(self, model: ModelConfig, classes: int, size: int) -> LoadReport | None:
        """Backbone and head."""
        from alray.models.backbone import create  # torch and timm take seconds to import

        return create(model, classes, 0, size).report


class Segmentation(Task):
    """Every image has a mask. A mask is one fact: "labeled" is the only class that an image of many classes has."""

    name: ClassVar[str] = "segmentation"

    def index_config(self, data: DataConfig) -> DataConfig:
        """Masks say what is in an image: its folder says nothing."""
        return data.model_copy(update={"label_column": ""})

    def classes(self, data: DataConfig, catalog: Catalog) -> tuple[str, ...]:
        """Those that count."""
        return masks_of(data, catalog).names if data.classes or catalog.classes else ()

    def annotated(self, config: RunConfig, catalog: Catalog, rows: Rows) -> Catalog:
        """With the masks in its fingerprint."""
        return with_masks(config.data, catalog, rows, Shared(config.root).masks)

    def hidden_labels(self, catalog: Catalog) -> Oracle:
        """The masks, which are read where they are needed."""
        return HiddenLabels(np.zeros(len(catalog), np.int32), Status.MASK)

    def pool(self, catalog: Catalog, rows: Rows) -> Pool:
        """With one class."""
        return Pool.of(len(catalog), rows, 1)

    def testable(self, catalog: Catalog, rows: Rows) -> Rows:
        """All: each has a mask."""
        return rows

    def pool_counts(self, catalog: Catalog, rows: Rows) -> list[int] | None:
        """None: the masks of the pool are not read."""
        return None

    def strategy(self, name: str, options: Mapping[str, Any]) -> Strategy:
        """Scores are means over the pixels of an image."""
        return build_for_segmentation(name, options)

    def learner(self, config: RunConfig, catalog: Catalog) -> type[Learner]:
        """A network with a decoder."""
        from alray.train.segment import SegmentationLearner

        return SegmentationLearner

    def embedded_test(self, rows: Rows) -> Rows:
        """None: predictions of the test images are compared with their masks."""
        return rows[:0]

    def create(self, model: ModelConfig, classes: int, size: int) -> LoadReport | None:
        """Backbone and decoder."""
        from alray.models.segmenter import create_segmenter

        return create_segmenter(model, classes, 0, size).report


TASKS: dict[str, Task] = {task.name: task for task in (Classification(), Segmentation())}


def task_of(config: RunConfig) -> Task:
    """The task of a configuration."""
    return TASKS[config.task]


@lru_cache(maxsize=64)
def built(task: str, model: str, classes: int, size: int, content: str) -> str:
    """What was loaded. All settings and trials of a sweep in one process build every network once.

    content: the fingerprint of the checkpoint's content, so that another file under the same name is built again.
    """
    report = TASKS[task].create(ModelConfig.model_validate_json(model), classes, size)
    return str(report) if report else ""
