"""What a round needs of training, and who gives it: one learner for each way to learn.

A learner trains on the labeled rows of a pool, gives features for any rows and evaluates; `alray.rounds` does not know
which of them it drives.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from alray.cluster import Cluster
from alray.config import RunConfig
from alray.data.catalog import Catalog
from alray.data.pool import Pool, Rows
from alray.features.arrays import Array
from alray.features.table import FeatureTable
from alray.models.head import Head
from alray.progress import Stages
from alray.store import Store
from alray.train.summary import TrainSummary


class Learner(ABC):
    """What a round needs of training, and what can be said of it before it starts."""

    frozen: ClassVar[bool] = False
    """Whether one table of embeddings serves all rounds and all runs on the same images and weights."""

    needs_cluster: ClassVar[bool] = True
    """Whether it trains or extracts on a Ray cluster."""

    trains_in_driver: ClassVar[bool] = False
    """Whether it trains in the process that runs the loop, on that process's GPU where it has one."""

    def __init__(self, config: RunConfig, catalog: Catalog, cluster: Cluster | None) -> None:
        self.config, self.catalog, self.cluster = config, catalog, cluster

    @property
    def joined(self) -> Cluster:
        """The cluster, for learners that need one."""
        assert self.cluster is not None
        return self.cluster

    @classmethod
    def check(cls, config: RunConfig, build: Callable[[], str]) -> str:
        """Refuse a configuration that it cannot learn with; returns which weights were loaded, in words.

        build: builds the network once. Raises ConfigError.
        """
        return build()

    @abstractmethod
    def begin(self, stages: Stages) -> None:
        """Whatever is done once for all rounds."""

    @abstractmethod
    def start_features(self, rows: Rows, out: Store, stages: Stages) -> FeatureTable:
        """Embeddings of (at least) the given ascending rows by the model as it is before the first round."""

    @abstractmethod
    def train(self, number: int, pool: Pool, out: Store, start: Store | None, stages: Stages) -> TrainSummary:
        """Train on what is labeled; nothing happens when `out` has this round's checkpoint already."""

    @abstractmethod
    def embed(self, number: int, rows: Rows, out: Store, stages: Stages) -> FeatureTable | None:
        """Features of (at least) the given ascending rows by this round's model; None of no rows."""

    @abstractmethod
    def head(self, out: Store) -> Head | None:
        """The head of this round's model, where it classifies images."""

    @abstractmethod
    def predict(self, table: FeatureTable | None, rows: Rows, out: Store) -> tuple[Array | None, Array | None]:
        """What this round's model predicts of rows that it was shown: classes (k,) int32 and their probabilities (k,)
        float64, in the order given; None and None where it says nothing of them."""

    @abstractmethod
    def evaluate(
        self, table: FeatureTable | None, rows: Rows, labels: Array, out: Store, stages: Stages
    ) -> dict[str, Any]:
        """Metrics of this round's model on the test rows."""

    @abstractmethod
    def class_counts(self, pool: Pool) -> Array:
        """What is labeled so far of every class, (c,) int64."""
