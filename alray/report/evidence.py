"""What a finished run left behind, read back for a report (`alray.rundir` knows the files)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from alray.data.catalog import Catalog
from alray.features.arrays import EMBEDDING, Array, Rows
from alray.features.table import FeatureTable
from alray.models.head import Head
from alray.report.runs import RunHistory
from alray.rundir import Bought, Missing, RunDir

__all__ = ["Bought", "Missing"]


def catalog_of(run: RunHistory) -> Catalog:
    """The catalog a run was made on. Raises Missing."""
    return RunDir(run.dir).catalog()


def seed_set(run: RunHistory) -> Rows:
    """The rows labeled before the first query, ascending: drawn, or chosen by a cold start. Raises Missing."""
    return RunDir(run.dir).seed_set()


def cold_start(run: RunHistory) -> Bought | None:
    """The seed set, where a pretext task or k-means chose it."""
    return RunDir(run.dir).cold_start()


def bought(run: RunHistory) -> Iterator[Bought]:
    """What each round bought, as far as the run got."""
    return RunDir(run.dir).bought()


def features(run: RunHistory, number: int) -> FeatureTable:
    """The embeddings a round selected by. Raises Missing where they were deleted."""
    return RunDir(run.dir).round(number).selected_by()


def head(run: RunHistory, number: int) -> Head:
    """The head of a round's model. Raises Missing."""
    return RunDir(run.dir).round(number).head()


def pool(run: RunHistory) -> Rows:
    """All rows that were labeled or could have been, ascending. Raises Missing."""
    return RunDir(run.dir).pool()


def frozen(run: RunHistory) -> bool:
    """Whether all rounds share one table of embeddings."""
    return bool(run.about["identity"]["train"]["mode"] == "linear")


def embeddings(table: FeatureTable, rows: Rows) -> Array:
    """(k, d) float32."""
    return np.asarray(table.read(rows, EMBEDDING), np.float32)
