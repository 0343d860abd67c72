"""What a finished run left behind, read back for a report: its features, its pool, what each round labeled.

Features are deleted by default when fine-tuning goes on to the next round, and catalogs may be gone or elsewhere:
everything here either is there and fits, or says why not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from alray.data import splits
from alray.data.catalog import Catalog, CatalogError
from alray.features.arrays import EMBEDDING, Array, Rows
from alray.features.table import MANIFEST, FeatureTable
from alray.models.head import FILE, Head
from alray.report.runs import RunHistory
from alray.store import Store, StoreError, resolve

_ACCOUNT, _LABELS, _PICKS = "selection.json", "labels.parquet", "picks.parquet"
_SPLITS, _SEED_SET = "splits.parquet", "seed_set.parquet"


class Missing(Exception):  # noqa: N818  not an error: a report says so and goes on
    """Something a section needs is not there; the message is a sentence for the reader."""


@dataclass(frozen=True)
class Bought:
    """What one round bought, in order of choice: rows (k,), labels (k,), scores (k,); round None: a cold start."""

    round: int | None
    rows: Rows
    labels: Array
    scores: Array


def catalog_of(run: RunHistory) -> Catalog:
    """The catalog a run was made on. Raises Missing."""
    try:
        catalog = Catalog.open(run.about.get("catalog", "unknown"))
    except (CatalogError, StoreError, OSError) as error:
        raise Missing(f"the catalog is not there any more ({error})") from None
    if catalog.fingerprint != run.about["identity"]["data_fingerprint"]:
        raise Missing(f"{catalog.uri} is another catalog now than the one of the run")
    return catalog


def seed_set(run: RunHistory) -> Rows:
    """The rows labeled before the first query, ascending: drawn, or chosen by a cold start. Raises Missing."""
    chosen = cold_start(run)
    rows = _drawn(run, "seed") if chosen is None else np.sort(chosen.rows)
    if not len(rows):
        raise Missing("the run does not say what its seed set was")
    return rows


def held_out(run: RunHistory) -> Rows:
    """The rows of the validation set, ascending. Raises Missing."""
    return _drawn(run, "held_out")


def _drawn(run: RunHistory, role: str) -> Rows:
    store = Store(run.dir)
    if not store.has(_SPLITS):
        raise Missing("the run does not say what its seed set and its validation set were")
    table = store.read_table(_SPLITS)
    return np.sort(table["row"].to_numpy()[np.asarray(table["role"].to_pylist()) == role])


def cold_start(run: RunHistory) -> Bought | None:
    """The seed set, where a pretext task or k-means chose it."""
    store = Store(run.dir)
    if not store.has(_SEED_SET):
        return None
    table = store.read_table(_SEED_SET)
    return _bought(None, table, table)


def bought(run: RunHistory) -> Iterator[Bought]:
    """What each round bought, as far as the run got."""
    for number in range(len(run.rounds)):
        store = Store(run.dir).child(f"round_{number:02d}")
        if store.has(_LABELS) and store.has(_PICKS):
            yield _bought(number, store.read_table(_PICKS), store.read_table(_LABELS))


def _bought(number: int | None, picks: pa.Table, labels: pa.Table) -> Bought:
    return Bought(number, picks["row"].to_numpy(), labels["label"].to_numpy(), picks["score"].to_numpy())


def features(run: RunHistory, number: int) -> FeatureTable:
    """The embeddings a round selected by. Raises Missing where they were deleted."""
    store = Store(run.dir).child(f"round_{number:02d}")
    account = store.read_json(_ACCOUNT) if store.has(_ACCOUNT) else {}
    if not account.get("features"):
        raise Missing("the run does not say where its embeddings are")
    beside = resolve(account["features"], run.dir.rsplit("/", 1)[0])
    for uri in (beside, account.get("features_at", beside)):  # a folder that was moved alone left them behind
        if Store(uri).has(MANIFEST):
            return FeatureTable.open(uri)
    raise Missing("the embeddings were deleted (features.keep=all keeps them)")


def head(run: RunHistory, number: int) -> Head:
    """The head of a round's model. Raises Missing."""
    store = Store(run.dir).child(f"round_{number:02d}", "checkpoint")
    if not store.has(FILE):
        raise Missing("the heads of the models were not kept")
    return Head.load(store)


def pool(run: RunHistory, catalog: Catalog) -> Rows:
    """All rows that were labeled or could have been, ascending. Raises Missing where that cannot be rebuilt."""
    identity = run.about["identity"]
    is_test, share = catalog.is_test(), identity["split"]["test_share"]
    rows = np.flatnonzero(~is_test)
    if share:
        rows = np.setdiff1d(rows, splits.draw_random(rows, round(len(rows) * share), 0, "test"), assume_unique=True)
    rows = np.setdiff1d(rows, held_out(run), assume_unique=True)
    first = run.rounds[0]
    if len(rows) != first["unlabeled"] + first["labels"]:
        raise Missing("the pool was cut (imbalance or a list), which a report does not repeat")
    return rows


def frozen(run: RunHistory) -> bool:
    """Whether all rounds share one table of embeddings."""
    return bool(run.about["identity"]["train"]["mode"] == "linear")


def embeddings(table: FeatureTable, rows: Rows) -> Array:
    """(k, d) float32."""
    return np.asarray(table.read(rows, EMBEDDING), np.float32)
