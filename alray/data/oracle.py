"""Oracles: the only source of labels (contract C7). A run sends `Requests` and gets `Answers`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import numpy as np
import numpy.typing as npt

from alray.data.catalog import Catalog
from alray.data.pool import Labels, Rows

START, SEED_SET = "start", "seed set"  # names of the batches before the first round


class OracleError(ValueError):
    """The oracle cannot answer a request, or its answers cannot be used."""


class Status(IntEnum):
    """The kinds of answers."""

    NOT_YET = 0  # nobody has looked at the image so far
    LABEL = 1  # the class of the image
    MASK = 2  # the mask of the image: it comes with the answer, or the source has it
    SKIP = 3  # the annotator did not decide; the run may ask for the image again
    UNUSABLE = 4  # the image should not be in the pool


@dataclass(frozen=True, eq=False)
class Requests:
    """Images whose labels a run asks for. Every column has one entry per image.

    rows (k,) int64: row numbers of the catalog; keys and uris: those of the images in the catalog; round: number of the
    round, None before the first model. predicted (k,) int32: the class that the round's model predicts, as its position
    among the classes of the catalog, -1 without a model; probability (k,) float64: the probability of that class, NaN
    without a model; score (k,) float64: the score of the strategy, NaN without a score. batch: the name of the batch,
    "start" (validation and seed set), "seed set" (chosen by a strategy) or "round N".
    """

    rows: Rows
    keys: Sequence[str]
    uris: Sequence[str]
    round: int | None
    predicted: Labels
    probability: npt.NDArray[np.float64]
    score: npt.NDArray[np.float64]
    batch: str = ""

    def __post_init__(self) -> None:
        if not self.batch:
            object.__setattr__(self, "batch", START if self.round is None else f"round {self.round}")

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions: Sequence[int]) -> Requests:
        """The requests at some positions, in the given order."""
        at = np.asarray(positions, np.int64)
        keys, uris = [self.keys[i] for i in positions], [self.uris[i] for i in positions]
        return Requests(
            self.rows[at], keys, uris, self.round, self.predicted[at], self.probability[at], self.score[at], self.batch
        )

    @classmethod
    def of(
        cls,
        catalog: Catalog,
        rows: Rows,
        round: int | None = None,
        predicted: Labels | None = None,
        probability: npt.NDArray[np.float64] | None = None,
        score: npt.NDArray[np.float64] | None = None,
        batch: str = "",
    ) -> Requests:
        """Make the requests for some rows of a catalog, in the given order."""
        rows, nothing = np.asarray(rows, np.int64), np.full(len(rows), np.nan)
        places = catalog.references(rows)
        at = np.searchsorted(places["row"].to_numpy(), rows)
        keys, uris = (places[name].take(at).to_pylist() for name in ("key", "uri"))
        return cls(
            rows, keys, uris, round,
            np.full(len(rows), -1, np.int32) if predicted is None else predicted,
            nothing if probability is None else probability,
            nothing if score is None else score,
            batch,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Answers:
    """The answers to requests, in their order.

    status (k,) uint8: values of `Status`; labels (k,) int32: the class where the status is LABEL, without meaning
    elsewhere. names (k,): the names of the classes, for oracles that know names; they replace labels. masks (k,): the
    bytes of a PNG of class numbers, as files in data.mask_root are, for each answer that is a mask, None for others; an
    oracle whose masks are in the source leaves the column out. by (k,): who answered, for the record. note: what a
    person has to do so that missing answers come, for the user of the run.
    """

    status: npt.NDArray[np.uint8]
    labels: Labels
    names: Sequence[str] | None = None
    by: Sequence[str] | None = None
    note: str = ""
    masks: Sequence[bytes | None] | None = None

    @classmethod
    def of(cls, labels: Sequence[int | None] | npt.NDArray[np.integer]) -> Answers:
        """Make answers from class numbers; None means that there is no answer yet."""
        strange = [label for label in labels if label is not None and not isinstance(label, int | np.integer)]
        if strange:
            raise OracleError(f"expected class numbers or None, got {strange[0]!r}")
        known = [-1 if label is None else int(label) for label in labels]
        status = [Status.NOT_YET if label is None else Status.LABEL for label in labels]
        return cls(np.array(status, np.uint8), np.array(known, np.int32))


class Oracle(Protocol):
    """A person or a program that knows labels."""

    def answer(self, requests: Requests) -> Answers:
        """Return one answer for every request, in their order. The call may take long and may raise OracleError."""
        ...


@dataclass(frozen=True, eq=False)
class HiddenLabels:
    """Simulates an annotator with the labels of a fully labeled data set, as is usual in research.

    kind: whether the answers are labels or masks.
    """

    hidden: Labels  # (n,) one per catalog row, -1 where the source has no label
    kind: Status = Status.LABEL

    def answer(self, requests: Requests) -> Answers:
        """Answer with the hidden labels. Raises OracleError for rows that have no label in the source."""
        labels = self.hidden[requests.rows]
        if (labels < 0).any():
            missing = requests.rows[labels < 0]
            raise OracleError(
                f"the source has no label for {len(missing)} of the {len(labels)} rows asked for, "
                f"first row {int(missing[0])}: a simulated run needs labels for the whole pool"
            )
        return Answers(np.full(len(labels), self.kind, np.uint8), np.asarray(labels, np.int32))


def unanswerable(oracle: Oracle | None, rows: Rows) -> Rows:
    """Of these rows those of which it is known already that the oracle cannot answer. People and an oracle of the
    user's own are asked when they are needed."""
    return rows[oracle.hidden[rows] < 0] if isinstance(oracle, HiddenLabels) else rows[:0]


def checked(oracle: Oracle, requests: Requests) -> Answers:
    """Ask an oracle. Raises OracleError unless it gives one answer per request."""
    answers = oracle.answer(requests)
    if not isinstance(answers, Answers):
        raise OracleError(
            f"{type(oracle).__name__}.answer: expected Answers, as Answers.of([3, None, 0]) makes them, got "
            f"{type(answers).__name__}"
        )
    shapes = np.shape(answers.status), np.shape(answers.labels)
    named = [column for column in (answers.names, answers.by, answers.masks) if column is not None]
    if shapes != ((len(requests),),) * 2 or any(len(column) != len(requests) for column in named):
        raise OracleError(f"expected one answer for each of {len(requests)} requests, got status and labels {shapes}")
    for key, status, mask in zip(requests.keys, answers.status.tolist(), answers.masks or (), strict=False):
        if isinstance(mask, bytes) != (status == Status.MASK) or not isinstance(mask, bytes | None):
            raise OracleError(
                f"{type(oracle).__name__}.answer: expected in masks the bytes of a PNG for each answer that is a mask, "
                f"and None for the others, got {type(mask).__name__} for the answer {Status(status).name} to {key}"
            )
    return answers


def ask(oracle: Oracle, requests: Requests) -> Labels:
    """Ask the oracle for all labels at once, (k,) int32; the label of an image that got a mask is 0.

    Raises OracleError unless every request is answered with a label or a mask.
    """
    answers = checked(oracle, requests)
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
