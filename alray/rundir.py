"""The run directory: the names of its files, and the functions that write and read them (contract C6).

A run is `<root>/<name>-<fingerprint>` with one directory per round. Catalogs, features of a frozen backbone, pretext
tasks and checks of masks, which several runs can share, are beside the runs under the same root: see `Shared`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from alray.config import RunConfig
from alray.config.fields import validated
from alray.data.catalog import Catalog, CatalogError
from alray.data.oracle import SEED_SET, START
from alray.data.sources import own
from alray.features.arrays import Array, Rows
from alray.rounddir import (
    CHECKPOINT,
    FEATURES_DIR,
    METRICS,
    BatchDir,
    Bought,
    DrawDir,
    Missing,
    RoundDir,
    RunError,
    bought,
)
from alray.store import Damaged, Store, StoreError, join, table_bytes

__all__ = [
    "BATCHES", "CHECKPOINT", "FEATURES_DIR", "METRICS", "MODEL", "PLAN", "PROGRESS", "RAY", "RUN", "STARTED",
    "SUMMARY", "SWEEP", "TRACKED", "BatchDir", "Bought", "DrawDir", "Missing", "RoundDir", "RunDir", "RunError",
    "Shared",
]  # fmt: skip

MODEL, SUMMARY = "model.pt", "train.json"  # files of a checkpoint
PROGRESS, RAY = "progress.json", "ray"  # what passes: of a run, and of a training that is not finished
SWEEP = "sweep.json"  # in the folder of the runs of a sweep

RUN, _CONFIG = own.RUN
_CLUSTER, _PRETEXT = "cluster.json", "pretext.json"
PLAN, TRACKED = "plan.json", "mlflow.json"
_SPLITS, _POOL, _SEED_SET = "splits.parquet", "pool.parquet", "seed_set.parquet"
_NEW_CLASSES, _MASKS = "new_classes.json", "masks"
STARTED = "started"  # a directory of notes on runs, beside them
BATCHES = "batches"  # of files that people work with, so they have no checksums
_BATCH, _DELIVERIES, _START = "batch", "deliveries", "start"
_ROUND, _BATCH_OF_ROUND = re.compile(r"round_(\d+)"), re.compile(r"round (\d+)")
_TESTS, _TEST, _BATCH_OF_TEST = "tests", re.compile(r"test_(\d+)"), re.compile(r"test (\d+)")
_MISSING_SPLITS = "the run has no record of its seed set and validation set"


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

    def catalog(self, name: str) -> str:
        """The directory of a catalog that alray made for a run."""
        return join(self.root, "catalogs", name)

    def pretext(self, name: str) -> Store:
        """The directory of a pretext task, with its weights and the losses that it measured."""
        return Store(join(self.root, "pretext", name))


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

    def settings(self) -> RunConfig:
        """The configuration of the latest start. Raises ConfigError if it is not one of this version."""
        return validated(RunConfig, self.config())

    def listed_classes(self) -> tuple[str, ...]:
        """The classes that the configuration of the latest start lists."""
        return tuple(self.config().get("data", {}).get("classes", ()))

    def round(self, number: int) -> RoundDir:
        """The directory of a round. It need not exist yet."""
        return RoundDir(self.at(f"round_{number:02d}"))

    def new_classes(self) -> tuple[str, ...]:
        """The classes that came with labels and have a number: labels or models were written with it. The list only
        grows."""
        return tuple(self.read_json(_NEW_CLASSES)["names"]) if self.has(_NEW_CLASSES) else ()

    def write_new_classes(self, names: Sequence[str]) -> None:
        """Write the classes that came with labels, before their numbers are used."""
        self.write_json(_NEW_CLASSES, {"names": list(names)})

    @property
    def deliveries(self) -> Store:
        """The directory of the answers that people gave."""
        return self.child(_DELIVERIES)

    @property
    def masks(self) -> Store:
        """The directory of the masks that people drew, by hashes of their bytes."""
        return self.child(_MASKS)

    def batch(self, name: str) -> BatchDir:
        """The directory of a batch. name: as in `Requests.batch`."""
        round, test = _BATCH_OF_ROUND.fullmatch(name), _BATCH_OF_TEST.fullmatch(name)
        if test:
            return self.test(int(test[1]))
        return BatchDir(self.round(int(round[1])).at(_BATCH) if round else self.at(_START, name.replace(" ", "_")))

    def skipped_before(self, number: int) -> Rows:
        """The rows that people skipped, or left without an answer, just before a round, so that it does not ask for
        them."""
        if number:
            return self.round(number - 1).left_out("skipped")
        return np.union1d(*(self.batch(name).left_out("skipped") for name in (START, SEED_SET)))

    def chosen_by(self, number: int) -> int | None:
        """The round whose model chose the batch of this number; None if it is not chosen yet. It is the batch's own
        round, or an earlier one (labels.overlap)."""
        out = self.round(number)
        return int(out.account().get("model", number)) if out.chosen else None

    def batch_files(self, name: str) -> Store:
        """The directory of the files of a batch that people read and write, so they have no checksums."""
        return Store(self.at(BATCHES, name.replace(" ", "_")), "")

    def test(self, number: int) -> DrawDir:
        """The directory of a test. It need not exist yet."""
        return DrawDir(self.at(_TESTS, f"test_{number:02d}"))

    def tests(self) -> list[DrawDir]:
        """The tests whose images were drawn, in their order."""
        names = self.child(_TESTS).names()
        found = [self.test(int(match[1])) for match in map(_TEST.fullmatch, names) if match]
        return [test for test in found if test.drawn]

    def rounds(self) -> list[int]:
        """The numbers of the rounds that have a directory, ascending."""
        return sorted(int(match[1]) for match in map(_ROUND.fullmatch, self.names()) if match)

    def open_batches(self) -> list[str]:
        """The names of the batches that were asked for and are not closed, in their order, those of tests last."""
        closed = {START: self.split, SEED_SET: self.has(_SEED_SET)}
        closed |= {f"round {number}": self.round(number).labeled for number in self.rounds()}
        closed |= {f"test {number}": test.answered for number, test in enumerate(self.tests())}
        return [name for name, done in closed.items() if not done and self.batch(name).has_requests]

    def committed(self) -> list[int]:
        """The numbers of the rounds that are committed, ascending."""
        return [number for number in self.rounds() if self.round(number).committed]

    def noted(self, name: str) -> dict[str, Any] | None:
        """What was noted of the run, None if nothing was. name: PLAN (`alray.planning.result.Plan`) or TRACKED (its run
        of MLflow, and how many rounds that has)."""
        return dict(self.read_json(name)) if self.has(name) else None

    def note(self, name: str, content: Mapping[str, Any]) -> None:
        """Note something of the run, for `noted`."""
        self.write_json(name, dict(content))

    def now(self) -> dict[str, Any] | None:
        """What the run does now or did last (`alray.progress.Now`); None if it never said."""
        passing = Store(self.uri, sums="")
        return dict(passing.read_json(PROGRESS)) if passing.has(PROGRESS) else None

    def write_now(self, now: Mapping[str, Any]) -> None:
        """Say what the run does now. The file passes: it has no checksum."""
        Store(self.uri, sums="").write_json(PROGRESS, dict(now))

    def forget_now(self) -> None:
        """Remove what `write_now` wrote, because the run has ended."""
        Store(self.uri, sums="").delete(PROGRESS)

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

    def pretext_weights(self) -> str:
        """The fingerprint of the weights of the run's pretext task. Raises FileNotFoundError if it has none."""
        return str(self.read_json(_PRETEXT)["weights"])

    @property
    def split(self) -> bool:
        """Whether the validation set and the seed set were drawn."""
        return self.has(_SPLITS)

    def write_split(self, pool: Array, held_out: Rows, seed_set: Rows, test: Rows, labels: Array) -> None:
        """Write the pool, the validation set, the seed set that was drawn, and the test images that people labeled.

        pool (n,) bool: which catalog rows belong to the pool; labels: of the held-out rows, the seed set and the test.
        """
        role = ["held_out"] * len(held_out) + ["seed"] * len(seed_set) + ["test"] * len(test)
        rows = np.concatenate([held_out, seed_set, test])
        drawn = pa.table({"row": rows, "role": pa.array(role, pa.string()), "label": labels})
        self.write_together({_POOL: table_bytes(pa.table({"in_pool": pool})), _SPLITS: table_bytes(drawn)})

    def held_out(self) -> tuple[Rows, Array]:
        """The validation set: rows and labels. Raises Missing."""
        return self._drawn("held_out")

    def seed(self) -> tuple[Rows, Array]:
        """The seed set that was drawn: rows and labels, empty if a cold start chose it. Raises Missing."""
        return self._drawn("seed")

    def asked_test(self) -> tuple[Rows, Array]:
        """The test images that people labeled, because the source did not: rows and labels. Raises Missing."""
        return self._drawn("test")

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
        return bought(None, table, table)

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
        """The catalog that the run used, with its classes. Raises Missing if it does not exist or has changed."""
        about = self.about()
        try:
            catalog = Catalog.open(about.get("catalog", "unknown"))
        except Damaged:
            raise
        except (CatalogError, StoreError, OSError) as error:
            raise Missing(f"the catalog no longer exists ({error})") from None
        if catalog.fingerprint != about["identity"]["data_fingerprint"]:
            raise Missing(f"{catalog.uri} is no longer the catalog of the run")
        return catalog.named(about["classes"])
