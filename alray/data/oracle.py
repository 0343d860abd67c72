"""Oracles: the only source of labels (contract C7). A run asks by `Requests` and gets `Answers`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import numpy as np
import numpy.typing as npt

from alray.data.catalog import Catalog
from alray.data.pool import Labels, Rows


class OracleError(ValueError):
    """A question the oracle cannot answer, or an answer that is none."""


class Status(IntEnum):
    """What an answer is."""

    NOT_YET = 0  # nobody has looked at the image so far
    LABEL = 1  # the class of the image
    MASK = 2  # the image has a mask now, where its masks are read
    SKIP = 3  # nobody wanted to decide; the image may be asked for again
    UNUSABLE = 4  # the image should not be in the pool


@dataclass(frozen=True, eq=False)
class Requests:
    """Images whose labels a run asks for; every column has one entry per image.

    rows (k,) int64; keys and uris: of the images in the catalog; round: of the query, None before the first model;
    predicted (k,) int32: the class that the round's model predicts, and probability (k,) float64 of that class; score
    (k,) float64 of the strategy. -1 and NaN stand where there is no model or no score.
    """

    rows: Rows
    keys: Sequence[str]
    uris: Sequence[str]
    round: int | None
    predicted: Labels
    probability: npt.NDArray[np.float64]
    score: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def of(
        cls,
        catalog: Catalog,
        rows: Rows,
        round: int | None = None,
        predicted: Labels | None = None,
        probability: npt.NDArray[np.float64] | None = None,
        score: npt.NDArray[np.float64] | None = None,
    ) -> Requests:
        """Requests for some rows of a catalog, in the order given."""
        rows, nothing = np.asarray(rows, np.int64), np.full(len(rows), np.nan)
        places = catalog.references(rows)
        at = np.searchsorted(places["row"].to_numpy(), rows)
        keys, uris = (places[name].take(at).to_pylist() for name in ("key", "uri"))
        return cls(
            rows, keys, uris, round,
            np.full(len(rows), -1, np.int32) if predicted is None else predicted,
            nothing if probability is None else probability,
            nothing if score is None else score,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Answers:
    """What an oracle says to requests, in their order: status (k,) of `Status`; labels (k,) int32, the class where the
    status is LABEL, else anything."""

    status: npt.NDArray[np.uint8]
    labels: Labels

    @classmethod
    def of(cls, labels: Sequence[int | None] | npt.NDArray[np.integer]) -> Answers:
        """Labels by class number; None: not yet."""
        known = [-1 if label is None else int(label) for label in labels]
        status = [Status.NOT_YET if label is None else Status.LABEL for label in labels]
        return cls(np.array(status, np.uint8), np.array(known, np.int32))


class Oracle(Protocol):
    """Somebody (or something) that knows labels."""

    def answer(self, requests: Requests) -> Answers:
        """One answer for every request, in their order. It may take long; it may raise OracleError."""
        ...


@dataclass(frozen=True, eq=False)
class HiddenLabels:
    """The labels of a fully labeled data set, hidden from everything but this class: how research simulates a
    person. kind: what the answers are, a label or a mask."""

    hidden: Labels  # (n,) one per catalog row, -1 where the source has none
    kind: Status = Status.LABEL

    def answer(self, requests: Requests) -> Answers:
        """The hidden labels. Raises OracleError for a row whose label the source does not have."""
        labels = self.hidden[requests.rows]
        if (labels < 0).any():
            missing = requests.rows[labels < 0]
            raise OracleError(
                f"the source has no label for {len(missing)} of the {len(labels)} rows asked for, "
                f"first row {int(missing[0])}: a simulated run needs labels for the whole pool"
            )
        return Answers(np.full(len(labels), self.kind, np.uint8), np.asarray(labels, np.int32))


def ask(oracle: Oracle, requests: Requests) -> Labels:
    """The labels of all requests, (k,) int32 (0 for an image that has a mask now). Raises OracleError.

    A run cannot wait for people yet: each request must be answered by a label or a mask.
    """
    answers = oracle.answer(requests)
    shapes = np.shape(answers.status), np.shape(answers.labels)
    if shapes != ((len(requests),),) * 2:
        raise OracleError(f"expected one answer for each of {len(requests)} requests, got status and labels {shapes}")
    missing = np.flatnonzero((answers.status != Status.LABEL) & (answers.status != Status.MASK))
    if len(missing):
        kinds, counts = np.unique(answers.status[missing], return_counts=True)
        names = [Status(kind).name.lower().replace("_", " ") for kind in kinds.tolist()]
        said = ", ".join(f"{count} {name}" for name, count in zip(names, counts.tolist(), strict=True))
        raise OracleError(
            f"expected a label for each of {len(requests)} requests, got {said}; the first is "
            f"{requests.keys[int(missing[0])]}"
        )
    return np.asarray(np.where(answers.status == Status.MASK, 0, answers.labels), np.int32)
