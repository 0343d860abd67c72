"""What a run asked people for, and what they answered, in the run's directory.

A batch is written before anybody is asked. Every delivery of answers is one more file, which never changes: a label
that was given is not lost, a correction leaves the earlier answer to be seen, and a run that was killed reads the same
answers again. Deliveries hold the names of classes, because numbers can change their meaning while classes grow.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from alray.data.oracle import Requests, Status
from alray.labeling.check import Answer
from alray.labeling.deliveries import Delivered
from alray.lease import lease
from alray.store import Store, table_bytes

Kind = Literal["answer", "correction", "extra", "close"]
_NAME = re.compile(r"(\d{6})-[0-9a-f]{8}\.parquet")
_COLUMNS = pa.schema(
    [("key", pa.string()), ("status", pa.uint8()), ("label", pa.string()), ("annotator", pa.string()),
     ("where", pa.string())]
)  # fmt: skip


@dataclass(frozen=True)
class Delivery:
    """One delivery: its file name, its kind, where it came from, when it was made (UTC), and its answers."""

    name: str
    kind: Kind
    source: str
    time: str
    answers: Sequence[Delivered]


class Ledger:
    """The deliveries of a run. store: their directory. Deliveries that were read are kept in memory: they never
    change."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._read: dict[str, Delivery] = {}

    def names(self) -> list[str]:
        """The file names of all deliveries, in their order."""
        return [name for name in self.store.names() if _NAME.fullmatch(name)]

    def deliver(self, answers: Iterable[Delivered], source: str, kind: Kind = "answer") -> str:
        """Add a delivery, atomically. Returns the name of its file. Waits for another process that adds one. Raises
        StoreError."""
        with lease(self.store):
            return self._deliver(answers, source, kind)

    def _deliver(self, answers: Iterable[Delivered], source: str, kind: Kind) -> str:
        before = self.names()
        number = int(_NAME.fullmatch(before[-1])[1]) + 1 if before else 0  # type: ignore[index]
        name = f"{number:06d}-{uuid.uuid4().hex[:8]}.parquet"  # unique, even if two processes believe to have the lease
        lines = list(answers)
        columns = {
            "key": [line.key for line in lines], "status": [int(line.status) for line in lines],
            "label": [line.label for line in lines], "annotator": [line.annotator for line in lines],
            "where": [line.where for line in lines],
        }  # fmt: skip
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        about = {"kind": kind, "source": source, "time": now}
        table = pa.table(columns, _COLUMNS).replace_schema_metadata(about)
        self.store.write_together({name: table_bytes(table)}, last=True)
        return name

    def read(self, names: Sequence[str] | None = None) -> Iterator[Delivery]:
        """Yield deliveries in their order: all, or those with these file names."""
        for name in self.names() if names is None else names:
            if name not in self._read:
                self._read[name] = self._one(name)
            yield self._read[name]

    def _one(self, name: str) -> Delivery:
        table = self.store.read_table(name)
        about = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        lines = [
            Delivered(line["where"], line["key"], Status(line["status"]), line["label"], line["annotator"])
            for line in table.to_pylist()
        ]
        return Delivery(name, about["kind"], about["source"], about["time"], lines)

    def answers(self, names: Sequence[str] | None = None, after: str = "") -> dict[str, Answer]:
        """The latest answer for every key that has one.

        names: of the deliveries that count, all by default. after: the last delivery before a batch was given out. An
        image that was skipped by then may be asked for again, so such a skip is no answer to the batch.
        """
        found: dict[str, Answer] = {}
        for delivery in self.read(names):
            for line in delivery.answers:
                found[line.key] = (line.status, line.label)
                if line.status == Status.SKIP and delivery.name <= after:
                    del found[line.key]
        return found

    def classes(self, first: Sequence[str], names: Sequence[str] | None = None) -> tuple[str, ...]:
        """The names of the classes by number: the first ones, whose numbers are in use, then those that came with
        deliveries, in their order. A name that was corrected away, so that no image has it, is no class unless it is
        one of the first. names: of the deliveries that count, all by default."""
        held = {label for status, label in self.answers(names).values() if status == Status.LABEL}
        given = (line.label for delivery in self.read(names) for line in delivery.answers if line.label in held)
        return tuple(dict.fromkeys([*first, *given]))

    def closed(self, batch: str) -> bool:
        """Whether somebody closed the batch of this name."""
        return any(delivery.kind == "close" and delivery.source == batch for delivery in self.read())


def requests_table(requests: Requests, classes: Sequence[str], roles: Sequence[str]) -> pa.Table:
    """A batch as a table: row, key, uri, role, predicted (name of a class, null without a model), probability, score.

    roles (k,): what the labels are for: validation, seed or round.
    """
    named = [classes[number] if number >= 0 else None for number in requests.predicted.tolist()]
    return pa.table(
        {
            "row": requests.rows, "key": pa.array(requests.keys, pa.string()),
            "uri": pa.array(requests.uris, pa.string()), "role": pa.array(roles, pa.string()),
            "predicted": pa.array(named, pa.string()), "probability": _numbers(requests.probability),
            "score": _numbers(requests.score),
        }
    )  # fmt: skip


def requests_of(table: pa.Table, classes: Sequence[str], batch: str, round: int | None) -> Requests:
    """The requests of a batch, from what `requests_table` made of them."""
    number = {name: at for at, name in enumerate(classes)}
    predicted = [-1 if name is None else number[name] for name in table["predicted"].to_pylist()]
    probability, score = (
        np.array([np.nan if value is None else value for value in table[name].to_pylist()], np.float64)
        for name in ("probability", "score")
    )
    keys, uris = (table[name].to_pylist() for name in ("key", "uri"))
    rows = table["row"].to_numpy()
    return Requests(rows, keys, uris, round, np.array(predicted, np.int32), probability, score, batch)


def _numbers(values: npt.NDArray[np.float64]) -> pa.Array:
    return pa.array(np.asarray(values, np.float64), from_pandas=True)  # NaN becomes null


def whoami() -> str:
    """The user who gives labels from this terminal, as far as the system tells."""
    return os.environ.get("USER") or os.environ.get("LOGNAME") or ""
