"""Tasks: one object for classification and one for segmentation, with everything in which they differ.

Besides the configuration, whose sections check that their values fit the task, no other module checks which task a
run has. A third task is a third class here, one line in `TASKS`, and its name in `RunConfig.task`.
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
from alray.data.examples import class_notes, refuse_few_classes
from alray.data.mask_check import mask_sizes, with_masks
from alray.data.masks import masks_of
from alray.data.oracle import HiddenLabels, Oracle, Status
from alray.data.pool import Labels, Pool, Rows
from alray.rundir import Shared
from alray.selection.protocol import Strategy
from alray.selection.registry import build, build_for_segmentation
from alray.store import weights_fingerprint
from alray.train.learner import Learner

if TYPE_CHECKING:
    from alray.models.checkpoint import LoadReport


class Task(ABC):
    """Defines what a run learns and what its labels are."""

    name: ClassVar[str]
    class_per_image: ClassVar[bool] = False  # whether the label of an image is its class
    classes_can_come: ClassVar[bool] = False  # whether labels may add classes while the run goes on
    answers: ClassVar[Status] = Status.LABEL  # what people give for an image: a class or a mask

    def index_config(self, data: DataConfig) -> DataConfig:
        """The configuration for indexing the source. By default it is the run's."""
        return data

    @abstractmethod
    def classes(self, data: DataConfig, catalog: Catalog) -> tuple[str, ...]:
        """The classes to learn; empty if neither the configuration nor the catalog has any."""

    def annotated(
        self, config: RunConfig, catalog: Catalog, pool: Rows, test: Rows, *, simulated: bool
    ) -> tuple[Catalog, list[str]]:
        """Check annotations of these rows other than classes, such as masks. simulated: whether the source gives the
        labels, so that every row needs one. Returns the catalog with a fingerprint that includes them, and sentences
        for the user. Raises CatalogError."""
        return catalog, []

    @abstractmethod
    def hidden_labels(self, catalog: Catalog) -> Oracle:
        """The oracle that answers with the labels of the source."""

    @abstractmethod
    def pool(self, catalog: Catalog, rows: Rows) -> Pool:
        """A pool of these rows without labels."""

    @abstractmethod
    def testable(self, catalog: Catalog, rows: Rows) -> Rows:
        """The test rows that have a label or a mask."""

    @abstractmethod
    def source_labels(self, config: RunConfig, catalog: Catalog) -> Labels:
        """(n,) int32: the label in a pool of every row that has one in the source, -1 for the others."""

    def labeled(self, config: RunConfig, catalog: Catalog, rows: Rows) -> Rows:
        """The rows that have a label or a mask in the source."""
        return rows[self.source_labels(config, catalog)[rows] >= 0]

    def check_classes(self, catalog: Catalog, pool: Rows, test: Rows, *, simulated: bool) -> list[str]:
        """Sentences on classes without examples. pool, test: rows; simulated: whether the source gives the labels.
        Raises ConfigError where there is nothing to learn. By default nothing is known before masks are read."""
        return []

    @abstractmethod
    def pool_counts(self, catalog: Catalog, rows: Rows) -> list[int] | None:
        """The number of images per class among these rows; None unless the source knows the class of each."""

    @abstractmethod
    def strategy(self, name: str, options: Mapping[str, Any]) -> Strategy:
        """Build a strategy for this task. Raises SelectionError for an unknown name or bad options."""

    @abstractmethod
    def learner(self, config: RunConfig, catalog: Catalog) -> type[Learner]:
        """The class of the learner. Raises ConfigError if the catalog does not allow the configured one."""

    def embedded_test(self, rows: Rows) -> Rows:
        """The test rows that must be embedded for the evaluation."""
        return rows

    def build(self, config: RunConfig, classes: int) -> str:
        """Build the network once on the driver, so that a wrong name or checkpoint is found before any worker starts.

        Returns a sentence about the loaded weights, empty if there are none.
        """
        content = ""
        with suppress(OSError):  # building the network gives a better message
            content = weights_fingerprint(config.model.checkpoint)
        return built(self.name, config.model.model_dump_json(), classes, config.transform.size, content)

    @abstractmethod
    def create(self, model: ModelConfig, classes: int, size: int) -> LoadReport | None:
        """Build the network. Returns a report of the loaded weights, or None for fresh weights."""


class Classification(Task):
    """Every image has one class."""

    name: ClassVar[str] = "classification"
    class_per_image: ClassVar[bool] = True
    classes_can_come: ClassVar[bool] = True

    def classes(self, data: DataConfig, catalog: Catalog) -> tuple[str, ...]:
        """The classes of the catalog."""
        return catalog.classes

    def hidden_labels(self, catalog: Catalog) -> Oracle:
        """An oracle with the labels of the catalog."""
        return HiddenLabels(catalog.labels())

    def pool(self, catalog: Catalog, rows: Rows) -> Pool:
        """A pool with the classes of the catalog."""
        return Pool.of(len(catalog), rows, len(catalog.classes))

    def testable(self, catalog: Catalog, rows: Rows) -> Rows:
        """The test rows with a label."""
        return rows[catalog.labels()[rows] >= 0]

    def source_labels(self, config: RunConfig, catalog: Catalog) -> Labels:
        """The classes."""
        return catalog.labels()

    def check_classes(self, catalog: Catalog, pool: Rows, test: Rows, *, simulated: bool) -> list[str]:
        """Sentences on classes without examples, as far as labels are known. Raises ConfigError for fewer than two
        classes."""
        labels = catalog.labels()
        refuse_few_classes(catalog.classes, labels[pool] if simulated else None)
        known = (labels[pool] >= 0).all()
        return class_notes(catalog.classes, labels[pool] if known else None, labels[test])

    def pool_counts(self, catalog: Catalog, rows: Rows) -> list[int] | None:
        """The number of images per class; None if a label is unknown."""
        labels = catalog.labels()[rows]
        return None if (labels < 0).any() else np.bincount(labels, minlength=len(catalog.classes)).tolist()

    def strategy(self, name: str, options: Mapping[str, Any]) -> Strategy:
        """Build the strategy for whole images."""
        return build(name, options)

    def learner(self, config: RunConfig, catalog: Catalog) -> type[Learner]:
        """The learner for `train.mode`."""
        from alray.train.learners import learner_kind

        return learner_kind(config, catalog)

    def create(self, model: ModelConfig, classes: int, size: int) -> LoadReport | None:
        """Build a backbone with a linear head."""
        from alray.models.backbone import create  # torch and timm take seconds to import

        return create(model, classes, 0, size).report


class Segmentation(Task):
    """Every image has a mask of classes. In the pool every labeled image has class 0: it has a
    mask. The classes of the masks are in the catalog or in data.classes."""

    name: ClassVar[str] = "segmentation"
    answers: ClassVar[Status] = Status.MASK

    def index_config(self, data: DataConfig) -> DataConfig:
        """Index without labels: classes come from masks, not from the names of folders."""
        return data.model_copy(update={"label_column": ""})

    def classes(self, data: DataConfig, catalog: Catalog) -> tuple[str, ...]:
        """The classes of the masks, without the ignored class."""
        return masks_of(data, catalog).names if data.classes or catalog.classes else ()

    def annotated(
        self, config: RunConfig, catalog: Catalog, pool: Rows, test: Rows, *, simulated: bool
    ) -> tuple[Catalog, list[str]]:
        """Check the masks, and return the catalog with a fingerprint that includes them. Masks that people draw are
        checked when they come."""
        if not simulated:
            pool, test = (self.labeled(config, catalog, rows) for rows in (pool, test))
            if not len(pool) + len(test):
                return catalog, []
        return with_masks(config.data, catalog, pool, test, Shared(config.root).masks)

    def hidden_labels(self, catalog: Catalog) -> Oracle:
        """An oracle whose answer is always a mask. Masks are read when they are needed."""
        return HiddenLabels(np.zeros(len(catalog), np.int32), Status.MASK)

    def pool(self, catalog: Catalog, rows: Rows) -> Pool:
        """A pool with one class."""
        return Pool.of(len(catalog), rows, 1)

    def testable(self, catalog: Catalog, rows: Rows) -> Rows:
        """All test rows, because each has a mask."""
        return rows

    def source_labels(self, config: RunConfig, catalog: Catalog) -> Labels:
        """0 for the rows with a mask."""
        masks = masks_of(config.data, catalog)
        if not masks.in_source:
            return np.full(len(catalog), -1, np.int32)
        return np.minimum(mask_sizes(masks, catalog), 0).astype(np.int32)

    def pool_counts(self, catalog: Catalog, rows: Rows) -> list[int] | None:
        """None, because the masks of the pool are not read."""
        return None

    def strategy(self, name: str, options: Mapping[str, Any]) -> Strategy:
        """Build the strategy with scores that are means over the pixels of an image."""
        return build_for_segmentation(name, options)

    def learner(self, config: RunConfig, catalog: Catalog) -> type[Learner]:
        """The learner that trains a network with a decoder."""
        from alray.train.segment import SegmentationLearner

        return SegmentationLearner

    def embedded_test(self, rows: Rows) -> Rows:
        """No rows, because the evaluation compares predictions with masks."""
        return rows[:0]

    def create(self, model: ModelConfig, classes: int, size: int) -> LoadReport | None:
        """Build a backbone with a decoder."""
        from alray.models.segmenter import create_segmenter

        return create_segmenter(model, classes, 0, size).report


TASKS: dict[str, Task] = {task.name: task for task in (Classification(), Segmentation())}


def task_of(config: RunConfig) -> Task:
    """The task of a configuration."""
    return TASKS[config.task]


@lru_cache(maxsize=64)
def built(task: str, model: str, classes: int, size: int, content: str) -> str:
    """Build a network, and return a sentence about the loaded weights. The result is cached, so all settings and trials
    of a sweep in one process build a network only once.

    content: fingerprint of the checkpoint's content, so that a changed file is loaded again.
    """
    report = TASKS[task].create(ModelConfig.model_validate_json(model), classes, size)
    return str(report) if report else ""
