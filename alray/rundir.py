"""The run directory: the names of its files, and the functions that write and read them (contract C6).

A run is `<root>/<name>-<fingerprint>` with one directory per round. Catalogs, features of a frozen backbone, pretext
tasks and checks of masks, which several runs can share, are beside the runs under the same root: see `Shared`.
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
from alray.store import Damaged, Store, StoreError, join, json_bytes, relative, resolve, table_bytes

CHECKPOINT, FEATURES_DIR = "checkpoint", "features"  # directories of a round
MODEL, SUMMARY = "model.pt", "train.json"  # files of a checkpoint
METRICS = "metrics.json"  # its existence commits a round
PROGRESS, RAY = "progress.json", "ray"  # of a training that is not finished
SWEEP = "sweep.json"  # in the folder of the runs of a sweep

_CONFIG, RUN, _CLUSTER, _PRETEXT = "config.json", "run.json", "cluster.json", "pretext.json"
_SPLITS, _POOL, _SEED_SET = "splits.parquet", "pool.parquet", "seed_set.parquet"
_PICKS, _ACCOUNT, _LABELS, _TIMINGS = "picks.parquet", "selection.json", "labels.parquet", "timings.json"
_PREDICTED, _PROBABILITY = "predicted", "probability"  # columns of labels.parquet, if the model saw the images
_ROUND = re.compile(r"round_(\d+)")
_MISSING_SPLITS = "the run has no record of its seed set and validation set"


class RunError(ValueError):
    """A run cannot start or continue. The message gives the reason and a remedy."""


class Missing(Exception):  # noqa: N818  not an error: a report mentions it and continues
    """A file that a finished run may have does not exist. The message is a sentence for the reader of a report."""


@dataclass(frozen=True)
class Bought:
    """The labels that one round bought, in order of choice: rows (k,), labels (k,), scores (k,). round: number of the
    round, None for a cold start. predicted (k,) int32, probability (k,) float64: the class that the round's model
    predicted before the label was known, and its probability; None where the model did not see the images."""

    round: int | None
    rows: Rows
    labels: Array
    scores: Array
    predicted: Array | None = None
    probability: Array | None = None


@dataclass(frozen=True)
class Shared:
    """The files that the runs under one root share. root: an absolute path or URI."""

    root: str

    @property
    def features(self) -> str:
        """The directory of tables of embeddings of frozen backbones. Each table is in a directory named by its
        fingerprint."""
        return join(self.root, FEATURES_DIR)

    @property
    def masks(self) -> Store:
        """The store that notes which masks were checked, in a directory for each check."""
        return Store(join(self.root, "masks"))

    @property
    def started(self) -> Store:
        """The store that notes which runs were started, by their configuration without the content of their files."""
        return Store(join(self.root, "started"), sums="")

    def catalog(self, name: str) -> str:
        """The directory of a catalog that alray made for a run."""
        return join(self.root, "catalogs", name)

    def pretext(self, name: str) -> Store:
        """The directory of a pretext task, with its weights and the losses that it measured."""
        return Store(join(self.root, "pretext", name))


@dataclass(frozen=True)
class RoundDir(Store):
    """The directory of one round."""

    @property
    def checkpoint(self) -> Store:
        """The directory with the weights of the round's model and the summary of its training."""
        return self.child(CHECKPOINT)

    @property
    def features(self) -> str:
        """The directory of the features that the round's model extracted."""
        return self.at(FEATURES_DIR)

    @property
    def committed(self) -> bool:
        """Whether the round has metrics. They are written last."""
        return self.has(METRICS)

    @property
    def labeled(self) -> bool:
        """Whether the round has labels of its picks. The last round of a run buys none."""
        return self.has(_LABELS)

    @property
    def chosen(self) -> bool:
        """Whether the round has picks."""
        return self.has(_PICKS)

    def metrics(self) -> dict[str, Any]:
        """The metrics of the round. Raises StoreError."""
        return dict(self.read_json(METRICS))

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Write the metrics, which commits the round."""
        self.write_json(METRICS, dict(metrics), last=True)

    def timings(self) -> dict[str, float]:
        """The seconds of each stage of the round so far, also from earlier starts."""
        return dict(self.read_json(_TIMINGS)) if self.has(_TIMINGS) else {}

    def write_timings(self, seconds: Mapping[str, float]) -> None:
        """Write the seconds of each stage."""
        self.write_json(_TIMINGS, dict(seconds))

    def picks(self) -> pa.Table:
        """The picks in order of choice: columns row, score, radius (of some strategies) and key."""
        return self.read_table(_PICKS)

    def write_picks(self, picks: pa.Table, account: Mapping[str, Any], features: FeatureTable | None) -> None:
        """Write the picks. Before them write the account of the selection and the place of the features that it read.

        The place is noted as an absolute path and as a path relative to the run's parent directory. The relative path
        still works after the run and the features were moved together.
        """
        beside = self.uri.rsplit("/", 2)[0]
        where = None if features is None else relative(features.uri, beside)
        at = {} if features is None else {"features_at": features.uri}
        described = json_bytes({**account, "features": where, **at})
        self.write_together({_ACCOUNT: described, _PICKS: table_bytes(picks)})

    def labels(self) -> tuple[Rows, Array]:
        """The labels that the oracle gave: rows and labels."""
        table = self.read_table(_LABELS)
        return table["row"].to_numpy(), table["label"].to_numpy()

    def write_labels(
        self, rows: Rows, labels: Array, predicted: Array | None = None, probability: Array | None = None
    ) -> None:
        """Write the labels that the oracle gave, and what the round's model had predicted, if it saw the images."""
        columns = {"row": rows, "label": np.asarray(labels, np.int32)}
        if predicted is not None and probability is not None:
            columns |= {_PREDICTED: np.asarray(predicted, np.int32), _PROBABILITY: np.asarray(probability, np.float64)}
        self.write_table(_LABELS, pa.table(columns))

    def selected_by(self) -> FeatureTable:
        """The features that the round's selection read. Raises Missing if they were deleted."""
        account = self.read_json(_ACCOUNT) if self.has(_ACCOUNT) else {}
        if not account.get("features"):
            raise Missing("the run has no record of where its embeddings are")
        beside = resolve(account["features"], self.uri.rsplit("/", 2)[0])
        for uri in (
            beside,
            account.get("features_at", beside),
        ):  # the second finds them after the run was moved without them
            if Store(uri).has(MANIFEST):
                return FeatureTable.open(uri)
        raise Missing("the embeddings were deleted (features.keep=all keeps them)")

    def head(self) -> Head:
        """The head of the round's model. Raises Missing."""
        if not self.checkpoint.has(HEAD):
            raise Missing("the heads of the models were not kept")
        return Head.load(self.checkpoint)

    def bought(self, number: int) -> Bought:
        """The labels that the round bought. number: number of the round."""
        return _bought(number, self.picks(), self.read_table(_LABELS))


@dataclass(frozen=True)
class RunDir(Store):
    """The directory of a run."""

    @property
    def exists(self) -> bool:
        """Whether the directory has a run."""
        return self.has(RUN)

    def about(self) -> dict[str, Any]:
        """The description of the run: name, fingerprint, identity, classes, catalog, versions, machine."""
        return dict(self.read_json(RUN))

    def write_about(self, about: Mapping[str, Any]) -> None:
        """Write the description of the run. It makes the directory that of the run and does not change afterwards."""
        self.write_json(RUN, dict(about))

    def write_config(self, config: str) -> None:
        """Write the configuration (JSON) of this start."""
        self.write_bytes(_CONFIG, config.encode())

    def config(self) -> dict[str, Any]:
        """The configuration of the latest start, as a tree of fields."""
        return dict(self.read_json(_CONFIG)) if self.has(_CONFIG) else {}

    def round(self, number: int) -> RoundDir:
        """The directory of a round. It need not exist yet."""
        return RoundDir(self.at(f"round_{number:02d}"))

    def committed(self) -> list[int]:
        """The numbers of the rounds that are committed, ascending."""
        numbers = sorted(int(match[1]) for match in map(_ROUND.fullmatch, self.names()) if match)
        return [number for number in numbers if self.round(number).committed]

    def finished(self, rounds: int) -> bool:
        """Whether the last of this number of rounds is committed."""
        return self.round(rounds - 1).committed

    def cluster(self) -> dict[str, Any]:
        """The resources of the run's cluster; empty if it needed none."""
        return dict(self.read_json(_CLUSTER)) if self.has(_CLUSTER) else {}

    def write_cluster(self, cluster: Mapping[str, Any]) -> None:
        """Write the resources of the run's cluster."""
        self.write_json(_CLUSTER, dict(cluster))

    def pin_pretext(self, weights: str) -> None:
        """Note the weights of the run's pretext task, which must stay the same: other weights order the pool
        differently.

        Training the task again gives other weights on a GPU. Raises RunError if the run had other weights before.
        """
        if not self.has(_PRETEXT):
            self.write_json(_PRETEXT, {"weights": weights})
        elif (before := self.read_json(_PRETEXT)["weights"]) != weights:
            raise RunError(
                f"{self.uri}: expected a pretext task with the weights {before}, as before, got {weights}: the task "
                "was trained again; restore the old one, or remove the run"
            )

    @property
    def split(self) -> bool:
        """Whether the validation set and the seed set were drawn."""
        return self.has(_SPLITS)

    def write_split(self, pool: Array, held_out: Rows, seed_set: Rows, labels: Array) -> None:
        """Write the pool, the validation set and the seed set that was drawn.

        pool (n,) bool: which catalog rows belong to the pool; labels: of the held-out rows, then of the seed set.
        """
        role = ["held_out"] * len(held_out) + ["seed"] * len(seed_set)
        rows = np.concatenate([held_out, seed_set])
        drawn = pa.table({"row": rows, "role": pa.array(role, pa.string()), "label": labels})
        self.write_together({_POOL: table_bytes(pa.table({"in_pool": pool})), _SPLITS: table_bytes(drawn)})

    def held_out(self) -> tuple[Rows, Array]:
        """The validation set: rows and labels. Raises Missing."""
        return self._drawn("held_out")

    def seed(self) -> tuple[Rows, Array]:
        """The seed set that was drawn: rows and labels, empty if a cold start chose it. Raises Missing."""
        return self._drawn("seed")

    def _drawn(self, role: str) -> tuple[Rows, Array]:
        if not self.split:
            raise Missing(_MISSING_SPLITS)
        table = self.read_table(_SPLITS)
        here = np.asarray(table["role"].to_pylist()) == role
        return table["row"].to_numpy()[here], table["label"].to_numpy()[here]

    def cold_start(self) -> Bought | None:
        """The seed set that a strategy chose; None if it was drawn."""
        if not self.has(_SEED_SET):
            return None
        table = self.read_table(_SEED_SET)
        return _bought(None, table, table)

    def write_cold_start(self, picks: pa.Table) -> None:
        """Write the seed set that a strategy chose. picks: their table, with labels."""
        self.write_table(_SEED_SET, picks)

    def seed_set(self) -> Rows:
        """The rows of the seed set, drawn or chosen, ascending. Raises Missing."""
        chosen = self.cold_start()
        rows = np.sort(self.seed()[0] if chosen is None else chosen.rows)
        if not len(rows):
            raise Missing("the run has no record of its seed set")
        return rows

    def pool(self) -> Rows:
        """The rows of the pool without the validation set, ascending. Raises Missing."""
        if not self.has(_POOL):
            raise Missing("the run has no record of its pool")
        rows = np.flatnonzero(self.read_table(_POOL)["in_pool"].to_numpy())
        return np.setdiff1d(rows, self.held_out()[0], assume_unique=True)

    def bought(self) -> Iterator[Bought]:
        """Yield the labels that each committed round bought."""
        for number in self.committed():
            found = self.round(number)
            if found.labeled and found.chosen:
                yield found.bought(number)

    def catalog(self) -> Catalog:
        """The catalog that the run used. Raises Missing if it does not exist or has changed."""
        about = self.about()
        try:
            catalog = Catalog.open(about.get("catalog", "unknown"))
        except Damaged:
            raise
        except (CatalogError, StoreError, OSError) as error:
            raise Missing(f"the catalog no longer exists ({error})") from None
        if catalog.fingerprint != about["identity"]["data_fingerprint"]:
            raise Missing(f"{catalog.uri} is no longer the catalog of the run")
        return catalog


def _bought(number: int | None, picks: pa.Table, labels: pa.Table) -> Bought:
    predicted, probability = (
        labels[name].to_numpy() if name in labels.column_names else None for name in (_PREDICTED, _PROBABILITY)
    )
    return Bought(
        number, picks["row"].to_numpy(), labels["label"].to_numpy(), picks["score"].to_numpy(), predicted, probability
    )
