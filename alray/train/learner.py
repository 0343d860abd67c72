"""The protocol of learners. `alray.train.learners.learner_kind` chooses one.

A learner trains on the labeled rows of a pool, gives features of any rows and evaluates. `alray.rounds` works with any
of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from alray.cluster import Joined
from alray.config import RunConfig
from alray.data.catalog import Catalog
from alray.data.pool import Pool, Rows
from alray.features.arrays import Array
from alray.features.table import FeatureTable
from alray.models.head import Head
from alray.progress import Stages
from alray.store import Store
from alray.train.summary import TrainSummary

if TYPE_CHECKING:
    from alray.features.measures import Measure
    from alray.train.objective import Recipe


class Learner(ABC):
    """What a round needs of training, and what can be said of it before it starts."""

    frozen: ClassVar[bool] = False
    """Whether one table of embeddings serves all rounds and all runs on the same images and weights."""

    needs_cluster: ClassVar[bool] = True
    """Whether it trains on a Ray cluster. One that does not may still need a cluster to extract."""

    trains_in_driver: ClassVar[bool] = False
    """Whether it trains in the process that runs the loop, on that process's GPU where it has one."""

    def __init__(self, config: RunConfig, catalog: Catalog, joined: Joined) -> None:
        self.config, self.catalog, self.joined = config, catalog, joined

    @classmethod
    def refuse(cls, config: RunConfig) -> None:
        """Raise ConfigError for a configuration that it cannot learn with, as far as that can be told without PyTorch,
        whose import takes seconds."""
        return

    @classmethod
    def check(cls, config: RunConfig, catalog: Catalog, build: Callable[[], str]) -> str:
        """Refuse what can be told with PyTorch alone; returns which weights were loaded, in words.

        build: builds the network once. Raises ConfigError.
        """
        from alray.train.losses import check_loss  # imports torch

        check_loss(config.train.loss)
        return cls.loaded(config, catalog, build)

    @classmethod
    def loaded(cls, config: RunConfig, catalog: Catalog, build: Callable[[], str]) -> str:
        """Build the network, if the learner has one; returns which weights were loaded. Raises ConfigError."""
        return build()

    @classmethod
    @abstractmethod
    def described(cls, config: RunConfig) -> str:
        """The model and how it learns, in words for a report."""

    @abstractmethod
    def begin(self, stages: Stages) -> None:
        """Called before the first round: do what is done once for all rounds."""

    @abstractmethod
    def start_features(self, rows: Rows, out: Store, stages: Stages) -> FeatureTable:
        """Embeddings of (at least) the given ascending rows by the model before any training."""

    @abstractmethod
    def train(self, number: int, pool: Pool, out: Store, start: Store | None, stages: Stages) -> TrainSummary:
        """Train on the labeled rows; returns at once if `out` has this round's checkpoint.

        start: the round whose weights the training begins with (warm start), or None.
        """

    @abstractmethod
    def embed(self, number: int, rows: Rows, out: Store, stages: Stages) -> FeatureTable | None:
        """Features of (at least) the given ascending rows by this round's model; None for no rows."""

    @abstractmethod
    def head(self, out: Store) -> Head | None:
        """The linear head of this round's model; None if the model does not classify whole images."""

    @abstractmethod
    def predict(self, table: FeatureTable | None, rows: Rows, out: Store) -> tuple[Array | None, Array | None]:
        """The predictions of this round's model for some rows: classes (k,) int32 and their probabilities (k,) float64,
        in the given order; None and None if the table has no predictions of them."""

    @abstractmethod
    def evaluate(
        self, table: FeatureTable | None, rows: Rows, labels: Array, out: Store, stages: Stages
    ) -> dict[str, Any]:
        """Metrics of this round's model on the test rows."""

    def trial(self, rows: Rows, out: Store) -> Recipe | None:
        """A training on some rows with any labels, whose speed is measured before a run; None if no image is trained
        on."""
        return None

    def trial_rows(self, rows: Rows) -> Rows:
        """Those of some rows that `trial` can train on: all, as it needs no labels."""
        return rows

    def trial_measure(self) -> Measure | None:
        """What `embed` measures, with the starting weights; None if no image is measured."""
        return None

    def width(self) -> int:
        """Numbers of an embedding."""
        from alray.models.backbone import timm_model

        model: Any = timm_model(self.config.model, self.config.transform.size)
        return int(model.num_features)

    def head_seconds(self, labels: int) -> float:
        """Seconds of training on so many labels in this process, if it trains there: measured on random numbers."""
        return 0.0

    @abstractmethod
    def class_counts(self, pool: Pool) -> Array:
        """Labeled images (or pixels) of every class so far, (c,) int64."""
