"""The protocol of learners, and the one place that chooses one.

A learner trains on the labeled rows of a pool, gives features of any rows and evaluates. `alray.rounds` works with any
of them.
"""

from __future__ import annotations

from typing import Any, Protocol

from alray.cluster import Cluster
from alray.config import RunConfig
from alray.data.catalog import Catalog
from alray.data.pool import Pool, Rows
from alray.features.arrays import Array
from alray.features.table import FeatureTable
from alray.models.head import Head
from alray.progress import Stages
from alray.store import Store
from alray.train.classify import FinetuneLearner, LinearLearner
from alray.train.summary import TrainSummary


class Learner(Protocol):
    """What a round needs of training."""

    def begin(self, stages: Stages) -> None:
        """Called before the first round: do what is done once for all rounds."""
        ...

    def start_features(self, rows: Rows, out: Store, stages: Stages) -> FeatureTable:
        """Embeddings of (at least) the given ascending rows by the model before any training."""
        ...

    def train(self, number: int, pool: Pool, out: Store, start: Store | None, stages: Stages) -> TrainSummary:
        """Train on the labeled rows; returns at once if `out` has this round's checkpoint.

        start: the round whose weights the training begins with (warm start), or None.
        """
        ...

    def embed(self, number: int, rows: Rows, out: Store, stages: Stages) -> FeatureTable | None:
        """Features of (at least) the given ascending rows by this round's model; None for no rows."""
        ...

    def head(self, out: Store) -> Head | None:
        """The linear head of this round's model; None if the model does not classify whole images."""
        ...

    def predict(self, table: FeatureTable | None, rows: Rows, out: Store) -> tuple[Array | None, Array | None]:
        """The predictions of this round's model for some rows: classes (k,) int32 and their probabilities (k,) float64,
        in the given order; None and None if the table has no predictions of them."""
        ...

    def evaluate(
        self, table: FeatureTable | None, rows: Rows, labels: Array, out: Store, stages: Stages
    ) -> dict[str, Any]:
        """Metrics of this round's model on the test rows."""
        ...

    def class_counts(self, pool: Pool) -> Array:
        """Labeled images (or pixels) of every class so far, (c,) int64."""
        ...


def learner(config: RunConfig, catalog: Catalog, cluster: Cluster | None) -> Learner:
    """The learner of a configuration."""
    if config.train.mode == "linear":
        return LinearLearner(config, catalog, cluster)
    assert cluster is not None  # rounds start one for every run with images
    if config.task == "segmentation":
        from alray.train.segment import SegmentationLearner

        return SegmentationLearner(config, catalog, cluster)
    return FinetuneLearner(config, catalog, cluster)
