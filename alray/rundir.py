"""The run directory: every file in it by name, who made it, and how it is read back (contract C6).

A run is `<root>/<name>-<fingerprint>` with one directory per round. What several runs share (catalogs, features of a
frozen backbone, pretext tasks, notes on masks) lies beside the runs, under the same root: see `Shared`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from alray.data.catalog import Catalog, CatalogError
from alray.features.arrays import Array, Rows
from alray.features.table import MANIFEST, FeatureTable
from alray.models.head import FILE as HEAD
from alray.models.head import Head
from alray.store import Store, StoreError, join, relative, resolve

CHECKPOINT, FEATURES_DIR = "checkpoint", "features"  # directories of a round
MODEL, SUMMARY = "model.pt", "train.json"  # files of a checkpoint
METRICS = "metrics.json"  # commits a round
SWEEP = "sweep.json"  # of the folder that holds the runs of a sweep

_CONFIG, RUN, _CLUSTER, _PRETEXT = "config.json", "run.json", "cluster.json", "pretext.json"
_SPLITS, _POOL, _SEED_SET = "splits.parquet", "pool.parquet", "seed_set.parquet"
_PICKS, _ACCOUNT, _LABELS, _TIMINGS = "picks.parquet", "selection.json", "labels.parquet", "timings.json"
_ROUND = re.compile(r"round_(\d+)")
_MISSING_SPLITS = "the run does not say what its seed set and its validation set were"


class RunError(ValueError):
    """A run that cannot start or go on; the message says why and what to do."""


class Missing(Exception):  # noqa: N818  not an error: a report says so and goes on
    """Something that a finished run could have left behind is not there; the message is a sentence for the reader."""


@dataclass(frozen=True)
class Bought:
    """What one round bought, in order of choice: rows (k,), labels (k,), scores (k,); round None: a cold start."""

    round: int | None
    rows: Rows
    labels: Array
    scores: Array


@dataclass(frozen=True)
class Shared:
    """What the runs under one root share. root: a path or URI, absolute."""

    root: str

    @property
    def features(self) -> str:
        """Tables of embeddings of frozen backbones, each in a directory called by its fingerprint."""
        return join(self.root, FEATURES_DIR)

    @property
    def masks(self) -> Store:
        """Notes on which masks were found to be usable."""
        return Store(join(self.root, "masks"))

    def catalog(self, name: str) -> str:
        """The catalog of a source that was not indexed by hand."""
        return join(self.root, "catalogs", name)

    def pretext(self, name: str) -> Store:
        """A pretext task: its weights and the losses it measured."""
        return Store(join(self.root, "pretext", name))


@dataclass(frozen=True)
class RoundDir(Store):
    """The directory of one round."""

    @property
    def checkpoint(self) -> Store:
        """The weights of the round's model, and how its training went."""
        return self.child(CHECKPOINT)

    @property
    def features(self) -> str:
        """The table of what the round's model said of the images it was shown."""
        return self.at(FEATURES_DIR)

    @property
    def committed(self) -> bool:
        """Whether the round has metrics, which are written last."""
        return self.has(METRICS)

    @property
    def labeled(self) -> bool:
        """Whether the labels of the round's picks are there (the last round of a run buys none)."""
        return self.has(_LABELS)

    @property
    def chosen(self) -> bool:
        """Whether the round's picks are there."""
        return self.has(_PICKS)

    def metrics(self) -> dict[str, Any]:
        """What the round measured. Raises StoreError."""
        return dict(self.read_json(METRICS))

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Commit the round."""
        self.write_json(METRICS, dict(metrics))

    def timings(self) -> dict[str, float]:
        """Seconds of each stage that an earlier start of this round went through."""
        return dict(self.read_json(_TIMINGS)) if self.has(_TIMINGS) else {}

    def write_timings(self, seconds: Mapping[str, float]) -> None:
        """Keep the seconds of each stage."""
        self.write_json(_TIMINGS, dict(seconds))

    def picks(self) -> pa.Table:
        """The picks in order of choice: row, score (radius), key."""
        return self.read_table(_PICKS)

    def write_picks(self, picks: pa.Table, account: Mapping[str, Any], features: FeatureTable | None) -> None:
        """Keep the picks, and before them what the selection took and which features it read.

        The place of the features is noted as it is seen from beside the run, so that folders which are moved together
        still find each other, and as it is.
        """
        beside = self.uri.rsplit("/", 2)[0]
        where = None if features is None else relative(features.uri, beside)
        at = {} if features is None else {"features_at": features.uri}
        self.write_json(_ACCOUNT, {**account, "features": where, **at})
        self.write_table(_PICKS, picks)

    def labels(self) -> tuple[Rows, Array]:
        """The rows that the oracle answered, and their labels."""
        table = self.read_table(_LABELS)
        return table["row"].to_numpy(), table["label"].to_numpy()

    def write_labels(self, rows: Rows, labels: Array) -> None:
        """Keep what the oracle answered."""
        self.write_table(_LABELS, pa.table({"row": rows, "label": np.asarray(labels, np.int32)}))

    def selected_by(self) -> FeatureTable:
        """The features that the round selected by. Raises Missing where they were deleted."""
        account = self.read_json(_ACCOUNT) if self.has(_ACCOUNT) else {}
        if not account.get("features"):
            raise Missing("the run does not say where its embeddings are")
        beside = resolve(account["features"], self.uri.rsplit("/", 2)[0])
        for uri in (beside, account.get("features_at", beside)):  # a run that was moved alone left them behind
            if Store(uri).has(MANIFEST):
                return FeatureTable.open(uri)
        raise Missing("the embeddings were deleted (features.keep=all keeps them)")

    def head(self) -> Head:
        """The head of the round's model. Raises Missing."""
        if not self.checkpoint.has(HEAD):
            raise Missing("the heads of the models were not kept")
        return Head.load(self.checkpoint)

    def bought(self, number: int) -> Bought:
        """What the round, which is the number-th, bought."""
        return _bought(number, self.picks(), self.read_table(_LABELS))


@dataclass(frozen=True)
class RunDir(Store):
    """The directory of a run."""

    @property
    def exists(self) -> bool:
        """Whether there is a run."""
        return self.has(RUN)

    def about(self) -> dict[str, Any]:
        """What the run is: name, fingerprint, identity, classes, catalog, versions, machine."""
        return dict(self.read_json(RUN))

    def write_about(self, about: Mapping[str, Any]) -> None:
        """Claim the directory: what the run is does not change afterwards."""
        self.write_json(RUN, dict(about))

    def write_config(self, config: str) -> None:
        """Keep the configuration (JSON) of this start."""
        self.write_bytes(_CONFIG, config.encode())

    def config(self) -> dict[str, Any]:
        """The configuration of the latest start, as a tree of fields."""
        return dict(self.read_json(_CONFIG)) if self.has(_CONFIG) else {}

    def round(self, number: int) -> RoundDir:
        """The directory of a round, which may not be there yet."""
        return RoundDir(self.at(f"round_{number:02d}"))

    def committed(self) -> list[int]:
        """The numbers of the rounds that are committed, ascending."""
        numbers = sorted(int(match[1]) for match in map(_ROUND.fullmatch, self.names()) if match)
        return [number for number in numbers if self.round(number).committed]

    def finished(self, rounds: int) -> bool:
        """Whether the last of so many rounds is committed."""
        return self.round(rounds - 1).committed

    def cluster(self) -> dict[str, Any]:
        """What the cluster of the run had; nothing where it needed none."""
        return dict(self.read_json(_CLUSTER)) if self.has(_CLUSTER) else {}

    def write_cluster(self, cluster: Mapping[str, Any]) -> None:
        """Keep what the cluster has."""
        self.write_json(_CLUSTER, dict(cluster))

    def pin_pretext(self, weights: str) -> None:
        """Hold the run to one pretext task: weights that were trained anew (on a GPU they differ) would order the pool
        differently. Raises RunError where the run had others before."""
        if not self.has(_PRETEXT):
            self.write_json(_PRETEXT, {"weights": weights})
        elif (before := self.read_json(_PRETEXT)["weights"]) != weights:
            raise RunError(
                f"{self.uri}: its pretext task had the weights {before}, expected the same, got {weights}: the task "
                "was trained anew; put the old one back, or remove the run"
            )

    @property
    def split(self) -> bool:
        """Whether the validation set and the seed set were drawn already."""
        return self.has(_SPLITS)

    def write_split(self, pool: Array, held_out: Rows, seed_set: Rows, labels: Array) -> None:
        """Keep the pool, and what of it was drawn before the first round.

        pool (n,) bool: which catalog rows belong to it; labels: of the held-out rows, then of the seed set.
        """
        role = ["held_out"] * len(held_out) + ["seed"] * len(seed_set)
        self.write_table(_POOL, pa.table({"in_pool": pool}))
        rows = np.concatenate([held_out, seed_set])
        self.write_table(_SPLITS, pa.table({"row": rows, "role": pa.array(role, pa.string()), "label": labels}))

    def held_out(self) -> tuple[Rows, Array]:
        """The validation set: rows and labels, as drawn. Raises Missing."""
        return self._drawn("held_out")

    def seed(self) -> tuple[Rows, Array]:
        """The seed set that was drawn: rows and labels; none where a cold start chose it. Raises Missing."""
        return self._drawn("seed")

    def _drawn(self, role: str) -> tuple[Rows, Array]:
        if not self.split:
            raise Missing(_MISSING_SPLITS)
        table = self.read_table(_SPLITS)
        here = np.asarray(table["role"].to_pylist()) == role
        return table["row"].to_numpy()[here], table["label"].to_numpy()[here]

    def cold_start(self) -> Bought | None:
        """The seed set, where a pretext task or k-means chose it."""
        if not self.has(_SEED_SET):
            return None
        table = self.read_table(_SEED_SET)
        return _bought(None, table, table)

    def write_cold_start(self, picks: pa.Table) -> None:
        """Keep the seed set that was chosen: the table of the picks with their labels."""
        self.write_table(_SEED_SET, picks)

    def seed_set(self) -> Rows:
        """The rows that were labeled before the first query, ascending: drawn or chosen. Raises Missing."""
        chosen = self.cold_start()
        rows = np.sort(self.seed()[0] if chosen is None else chosen.rows)
        if not len(rows):
            raise Missing("the run does not say what its seed set was")
        return rows

    def pool(self) -> Rows:
        """All rows that were labeled or could have been, ascending. Raises Missing."""
        if not self.has(_POOL):
            raise Missing("the run does not say what its pool was")
        rows = np.flatnonzero(self.read_table(_POOL)["in_pool"].to_numpy())
        return np.setdiff1d(rows, self.held_out()[0], assume_unique=True)

    def bought(self) -> Iterator[Bought]:
        """What each committed round bought."""
        for number in self.committed():
            found = self.round(number)
            if found.labeled and found.chosen:
                yield found.bought(number)

    def catalog(self) -> Catalog:
        """The catalog that the run was made on. Raises Missing."""
        about = self.about()
        try:
            catalog = Catalog.open(about.get("catalog", "unknown"))
        except (CatalogError, StoreError, OSError) as error:
            raise Missing(f"the catalog is not there any more ({error})") from None
        if catalog.fingerprint != about["identity"]["data_fingerprint"]:
            raise Missing(f"{catalog.uri} is another catalog now than the one of the run")
        return catalog


def _bought(number: int | None, picks: pa.Table, labels: pa.Table) -> Bought:
    return Bought(number, picks["row"].to_numpy(), labels["label"].to_numpy(), picks["score"].to_numpy())
