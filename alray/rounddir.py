"""The directory of a round and that of a batch of labels: the names of their files, and what writes and reads them
(contract C6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from alray.features.arrays import Array, Rows
from alray.features.table import MANIFEST, FeatureTable
from alray.models.head import FILE as HEAD
from alray.models.head import Head
from alray.store import Store, json_bytes, relative, resolve, table_bytes

CHECKPOINT, FEATURES_DIR = "checkpoint", "features"  # directories of a round
METRICS = "metrics.json"  # its existence commits a round

_PICKS, _ACCOUNT, _LABELS, _TIMINGS = "picks.parquet", "selection.json", "labels.parquet", "timings.json"
_RESTARTS = "restarts"  # in timings.json
_PREDICTED, _PROBABILITY = "predicted", "probability"  # columns of labels.parquet, if the model saw the images
_REQUESTS, _BEGUN, _LEFT_OUT = "requests.parquet", "begun.json", "left_out.json"
_AFTER = b"after"
_DRAW, _DRAWN, _ANSWERS, _ESTIMATE = "draw.json", "draws.parquet", "answers.parquet", "estimate.json"


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
class _Asked(Store):
    """A directory that notes which images of a batch got no label."""

    def left_out(self, what: str) -> Rows:
        """The rows of the batch without a label. what: "unusable" (out of the pool) or "skipped" (left in it)."""
        return np.asarray(self.read_json(_LEFT_OUT)[what] if self.has(_LEFT_OUT) else [], np.int64)

    def write_left_out(self, unusable: Rows, skipped: Rows) -> None:
        """Write the rows that got no label, before the labels are written. Nothing if there are none."""
        if len(unusable) or len(skipped):
            self.write_json(_LEFT_OUT, {"unusable": unusable.tolist(), "skipped": skipped.tolist()})


@dataclass(frozen=True)
class BatchDir(_Asked):
    """The directory of a batch: what is asked for, and the files that people work with."""

    @property
    def is_test(self) -> bool:
        """Whether it was drawn to estimate an accuracy, so that the run does not wait for it."""
        return False

    @property
    def has_requests(self) -> bool:
        """Whether the batch was written."""
        return self.has(_REQUESTS)

    def requests(self) -> pa.Table:
        """The batch: columns row, key, uri, role, predicted, probability, score."""
        return self.read_table(_REQUESTS)

    def write_requests(self, requests: pa.Table, after: str) -> None:
        """Write the batch. after: see `given_after`."""
        table = requests.replace_schema_metadata({_AFTER: after})
        self.write_together({_REQUESTS: table_bytes(table)}, last=True)


def given_after(requests: pa.Table) -> str:
    """The name of the last delivery of answers before a batch was given out; empty if there was none. requests: as
    `BatchDir.requests` returns them."""
    return str((requests.schema.metadata or {}).get(_AFTER, b"").decode())


@dataclass(frozen=True)
class DrawDir(BatchDir):
    """The directory of a test: images that were drawn with known probabilities, to estimate an accuracy."""

    @property
    def is_test(self) -> bool:
        """True."""
        return True

    @property
    def drawn(self) -> bool:
        """Whether the images were drawn."""
        return self.has(_DRAWN)

    @property
    def answered(self) -> bool:
        """Whether an oracle gave all answers at once."""
        return self.has(_ANSWERS)

    def about(self) -> dict[str, Any]:
        """How the images were drawn: how, seed, population (its number of images), round (of the model), first_round,
        model_labels, and strategy of the run."""
        return dict(self.read_json(_DRAW))

    @property
    def first_round(self) -> int:
        """The first round whose batch is chosen without the drawn images."""
        return int(self.about()["first_round"])

    def draws(self) -> pa.Table:
        """The images in order of their draws: columns row, key, q (the probability of each draw, given those before),
        predicted (the name of a class) and probability (of that class)."""
        return self.read_table(_DRAWN)

    def rows(self) -> Rows:
        """The rows of the draws (k,), in their order."""
        return np.asarray(self.read_table(_DRAWN, ["row"])["row"].to_numpy())

    def write_draws(self, about: Mapping[str, Any], draws: pa.Table) -> None:
        """Write the draws, before anybody is asked."""
        self.write_together({_DRAW: json_bytes(dict(about)), _DRAWN: table_bytes(draws)})

    def answers(self) -> pa.Table | None:
        """The answers that an oracle gave all at once: columns key, status, label (a name); None if there are none."""
        return self.read_table(_ANSWERS) if self.has(_ANSWERS) else None

    def write_answers(self, answers: pa.Table) -> None:
        """Write the answers that an oracle gave all at once."""
        self.write_table(_ANSWERS, answers)

    def estimate(self) -> dict[str, Any]:
        """The estimate of the accuracy as it was last written; empty if it was not."""
        return dict(self.read_json(_ESTIMATE)) if self.has(_ESTIMATE) else {}

    def write_estimate(self, estimate: Mapping[str, Any]) -> None:
        """Write the estimate for other programs. alray computes it from the draws and the answers."""
        self.write_json(_ESTIMATE, dict(estimate))


@dataclass(frozen=True)
class RoundDir(_Asked):
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
        found = dict(self.read_json(_TIMINGS)) if self.has(_TIMINGS) else {}
        found.pop(_RESTARTS, None)
        return found

    def restarts(self) -> list[dict[str, Any]]:
        """The restarts of lost workers in the round so far, also in earlier starts: stage, cause, epoch, seconds."""
        return list(self.read_json(_TIMINGS).get(_RESTARTS, [])) if self.has(_TIMINGS) else []

    def write_timings(self, seconds: Mapping[str, float], restarts: Sequence[Mapping[str, Any]] = ()) -> None:
        """Write the seconds of each stage, and the restarts if there were any."""
        self.write_json(_TIMINGS, {**seconds, **({_RESTARTS: list(restarts)} if restarts else {})})

    def picks(self) -> pa.Table:
        """The picks in order of choice: columns row, score, radius (of some strategies) and key."""
        return self.read_table(_PICKS)

    def account(self) -> dict[str, Any]:
        """The account of the selection: what it took; `model`, the round whose model chose, and `pending`, the rows
        whose labels were awaited and the classes as which they were counted. Empty without picks."""
        return dict(self.read_json(_ACCOUNT)) if self.has(_ACCOUNT) else {}

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

    def begun(self) -> dict[str, Any]:
        """What was known when the round began: deliveries (names of files), and the number of classes; empty before."""
        return dict(self.read_json(_BEGUN)) if self.has(_BEGUN) else {}

    def write_begun(self, begun: Mapping[str, Any]) -> None:
        """Write what was known when the round began."""
        self.write_json(_BEGUN, dict(begun))

    def selected_by(self) -> FeatureTable:
        """The features that the round's selection read. Raises Missing if they were deleted."""
        account = self.account()
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
        return bought(number, self.picks(), self.read_table(_LABELS))


def bought(number: int | None, picks: pa.Table, labels: pa.Table) -> Bought:
    """The labels that a batch bought. picks: the batch in order of choice; labels: the rows that got one."""
    predicted, probability = (
        labels[name].to_numpy() if name in labels.column_names else None for name in (_PREDICTED, _PROBABILITY)
    )
    rows = labels["row"].to_numpy()
    order = np.argsort(picks["row"].to_numpy())
    at = order[np.searchsorted(picks["row"].to_numpy()[order], rows)]  # a pick that people skipped has no label
    return Bought(number, rows, labels["label"].to_numpy(), picks["score"].to_numpy()[at], predicted, probability)
