"""The seam between a strategy and the shards it runs on, and what comes out: picks (contracts C4 and C5).

Letters: n rows, k picks, d width of the embedding, c classes. Order is total everywhere: score descending, then row
ascending.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from alray.features.arrays import Rows, Shard, ShardSource

Scores = npt.NDArray[np.float64]
Head = tuple[npt.NDArray[Any], npt.NDArray[Any]]
Metric = Literal["l2", "cosine"]
Key = tuple[float, int]  # (value, row): a higher value comes first, then the lower row

# What a strategy may need besides the columns of a shard; "labels": it peeks at labels nobody has paid for.
HEAD, LABELED, LABELS = "head", "labeled", "labels"


class SelectionError(ValueError):
    """A selection that cannot be made; the message says what was expected and what was got."""


@dataclass(frozen=True, eq=False)
class Picks:
    """The chosen rows, in order of choice.

    rows (k,) int64, unique; scores (k,) float64, higher is taken first; radius (k,) float64 where the strategy covers:
    (`k_center`) the largest distance of a row that is then left to the nearest labeled or picked one. account: what the
    selection took (see `alray.selection.shards.Metered`). Two picks are equal when rows, scores and radius are.
    """

    rows: Rows
    scores: Scores
    radius: Scores | None = None
    account: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", np.asarray(self.rows, np.int64))
        for name in ("scores", "radius"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, np.asarray(value, np.float64))
                if getattr(self, name).shape != self.rows.shape:
                    raise SelectionError(f"picks: expected {len(self.rows)} {name}, got {np.shape(value)}")
        if self.rows.ndim != 1 or len(np.unique(self.rows)) != len(self.rows):
            raise SelectionError("picks: expected rows (k,) without repetition")

    def __len__(self) -> int:
        return len(self.rows)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Picks):
            return NotImplemented
        if (self.radius is None) != (other.radius is None):
            return False
        mine = [a for a in (self.rows, self.scores, self.radius) if a is not None]
        theirs = [a for a in (other.rows, other.scores, other.radius) if a is not None]
        return all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def to_table(self) -> pa.Table:
        """A table with the columns row, score (and radius), in order of choice."""
        columns = {"row": self.rows, "score": self.scores}
        return pa.table(columns if self.radius is None else {**columns, "radius": self.radius})

    @classmethod
    def from_table(cls, table: pa.Table) -> Picks:
        """Read what `to_table` made; further columns are ignored."""
        radius = table["radius"].to_numpy() if "radius" in table.column_names else None
        return cls(table["row"].to_numpy(), table["score"].to_numpy(), radius)


@dataclass(frozen=True)
class Context:
    """What a strategy knows besides the features.

    seed and round: all a strategy's randomness may depend on, with the row; num_classes; head: weight (c, d) and
    bias (c,) of the linear layer, logits = embedding @ weight.T + bias; labeled: the labeled rows with the columns that
    a strategy needs, for strategies that need "labeled"; known: their labels (m,) in row order; peek: the oracle, for
    strategies that are marked as peeking ("labels") and for no other; pretext: rows (n,) int64 ascending of the whole
    pool, labeled ones too, and their pretext losses (n,) float64, for strategies that need "pretext_loss". The last two
    never leave the driver.
    """

    seed: int = 0
    round: int = 0
    num_classes: int | None = None
    head: Head | None = field(default=None, repr=False)
    labeled: ShardSource | None = field(default=None, repr=False)
    known: npt.NDArray[np.integer] | None = field(default=None, repr=False)
    peek: Callable[[Rows], npt.NDArray[np.integer]] | None = field(default=None, repr=False)
    pretext: tuple[Rows, Scores] | None = field(default=None, repr=False)


class Shards(Protocol):
    """The opened shards of a selection: wherever they are, one method call reaches all of them."""

    def map(self, method: str, *args: Any) -> list[Any]:
        """Call a method of every shard's state; one answer per shard.

        A call may be made twice (a lost worker starts again from its source): it must answer the same each time.
        """
        ...

    def say(self, picks: int) -> None:
        """Tell whoever watches how many picks there are so far."""
        ...


@runtime_checkable
class Strategy(Protocol):
    """A frozen configuration object that chooses rows.

    needs: names of what it reads: "embedding", "logits", "head", "labeled" ("pretext_loss", "labels"). Where a shard
    has no logits they are made from the embedding and the head.
    """

    needs: ClassVar[frozenset[str]]

    def open(self, shard: Shard, context: Context) -> Any:
        """The shard-side state, made in the worker; its methods are what `Shards.map` calls."""
        ...

    def select(self, shards: Shards, budget: int, context: Context) -> Picks:
        """Choose `budget` rows. The shards hold at least that many."""
        ...


def needs_in(strategy: Strategy, round: int) -> frozenset[str]:
    """What a strategy needs in this round: less than `needs` for one that says so by a method `needs_in(round)`."""
    fewer = getattr(strategy, "needs_in", None)
    return strategy.needs if fewer is None else frozenset(fewer(round))


def check_choice(name: str, value: Any, values: Sequence[str]) -> None:
    """Raises SelectionError unless the value is one of those."""
    if value not in values:
        raise SelectionError(f"{name}: expected one of {', '.join(values)}, got {value!r}")


def check_flag(name: str, value: Any) -> None:
    """Raises SelectionError unless the value is true or false."""
    if not isinstance(value, bool):
        raise SelectionError(f"{name}: expected true or false, got {value!r}")


def check_integer(name: str, value: Any, least: int) -> None:
    """Raises SelectionError unless the value is an integer (not a bool, not a float) of at least `least`."""
    try:
        good = not isinstance(value, (bool, np.bool_)) and operator.index(value) >= least
    except TypeError:
        good = False
    if not good:
        raise SelectionError(f"{name}: expected an integer of at least {least}, got {value!r}")


def check_number(name: str, value: Any, low: float, high: float) -> None:
    """Raises SelectionError unless low <= value < high."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float)) or not low <= value < high:
        raise SelectionError(f"{name}: expected a number from {low:g} to below {high:g}, got {value!r}")


def beats(one: Key, other: Key) -> bool:
    """Whether `one` comes before `other`."""
    return one[0] > other[0] or (one[0] == other[0] and one[1] < other[1])


def best(rows: Rows, scores: Scores, k: int) -> tuple[Rows, Scores]:
    """The k first by (score descending, row ascending), in that order; all of them when there are fewer."""
    if k < len(rows):
        threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
        kept = scores >= threshold
        rows, scores = rows[kept], scores[kept]
    at = np.lexsort((rows, -scores))[:k]
    return rows[at], scores[at]


def merge(parts: Sequence[tuple[Rows, Scores]], k: int) -> tuple[Rows, Scores]:
    """The k first of several lists of (rows, scores): top_k(A u B) = top_k(top_k(A) u top_k(B))."""
    rows = np.concatenate([rows for rows, _ in parts])
    return best(rows, np.concatenate([scores for _, scores in parts]), k)
