"""Oracles: the only source of labels (contract C7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from alray.data.pool import Labels, Rows


class OracleError(ValueError):
    """A question the oracle cannot answer."""


class Oracle(Protocol):
    """Somebody (or something) that knows labels."""

    def answer(self, rows: Rows) -> Labels:
        """The classes of the rows, (k,) int32 in the order asked. May take long; may raise OracleError."""
        ...


@dataclass(frozen=True, eq=False)
class HiddenLabels:
    """The labels of a fully labeled data set, hidden from everything but this class: how research simulates a
    person."""

    hidden: Labels  # (n,) one per catalog row, -1 where the source has none

    def answer(self, rows: Rows) -> Labels:
        """The hidden labels. Raises OracleError for a row whose label the source does not have."""
        labels = self.hidden[rows]
        if (labels < 0).any():
            missing = np.asarray(rows)[labels < 0]
            raise OracleError(
                f"the source has no label for {len(missing)} of the {len(labels)} rows asked for, "
                f"first row {int(missing[0])}: a simulated run needs labels for the whole pool"
            )
        return np.asarray(labels, np.int32)
