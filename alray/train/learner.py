"""What a round needs of training, and who gives it: one learner for each way to learn.

A learner trains on the labeled rows of a pool, gives features for any rows and evaluates; `alray.rounds` does not know
which of them it drives.
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
from alray.train.classify import Finetune, Linear
from alray.train.summary import TrainSummary


class Learner(Protocol):
    """What a round needs of training."""

    def begin(self, stages: Stages) -> None:
        """Whatever is done once for all rounds."""
        ...

    def start_features(self, rows: Rows, out: Store, stages: Stages) -> FeatureTable:
        """Embeddings of (at least) the given ascending rows by the model as it is before the first round."""
        ...

    def train(self, number: int, pool: Pool, out: Store, start: Store | None, stages: Stages) -> TrainSummary:
        """Train on what is labeled; nothing happens when `out` has this round's checkpoint already."""
        ...

    def embed(self, number: int, rows: Rows, out: Store, stages: Stages) -> FeatureTable | None:
        """Features of (at least) the given ascending rows by this round's model; None of no rows."""
        ...

    def head(self, out: Store) -> Head | None:
        """The head of this round's model, where it classifies images."""
        ...

    def predict(self, table: FeatureTable | None, rows: Rows, out: Store) -> tuple[Array | None, Array | None]:
        """What this round's model predicts of rows that it was shown: classes (k,) int32 and their probabilities (k,)
        float64, in the order given; None and None where it says nothing of them."""
        ...

    def evaluate(
        self, table: FeatureTable | None, rows: Rows, labels: Array, out: Store, stages: Stages
    ) -> dict[str, Any]:
        """Metrics of this round's model on the test rows."""
        ...

    def class_counts(self, pool: Pool) -> Array:
        """What is labeled so far of every class, (c,) int64."""
        ...


def learner(config: RunConfig, catalog: Catalog, cluster: Cluster | None) -> Learner:
    """The learner of a configuration."""
    if config.train.mode == "linear":
        return Linear(config, catalog, cluster)
    assert cluster is not None  # rounds start one for every run with images
    if config.task == "segmentation":
        from alray.train.segment import Segment

        return Segment(config, catalog, cluster)
    return Finetune(config, catalog, cluster)
