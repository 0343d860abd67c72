"""What a strategy is, what the shards offer it, and what it returns: picks (contracts C4 and C5).

Letters: n rows, k picks, d width of the embedding, c classes. Rows are ordered by score descending. Rows with equal
scores are ordered by a hash of (seed, round, row), see `Ties`, because row numbers may be sorted by class. Where
k-center and BADGE compare distances, equal ones are ordered by row ascending: they come from copies of one image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from alray.features.arrays import Array, Integers, Rows, Shard, ShardSource
from alray.keyed import priorities

if TYPE_CHECKING:
    from alray.selection.case import Case
    from alray.selection.use import Use

Scores = npt.NDArray[np.float64]
WeightAndBias = tuple[npt.NDArray[Any], npt.NDArray[Any]]
Metric = Literal["l2", "cosine"]
Key = tuple[float, int]  # (value, row): a higher value comes first, then the lower row

# What a strategy may need besides the columns of a shard. A strategy that needs HIDDEN_LABELS peeks: it reads labels
# that have not been bought.
HEAD, LABELED, HIDDEN_LABELS = "head", "labeled", "labels"


class SelectionError(ValueError):
    """A selection that cannot be made. The message states what was expected and what was got."""


class NotFiniteError(SelectionError):
    """One of the numbers of a row is NaN or infinite. column: of which column; empty: of the one that is read first."""

    def __init__(self, row: int, column: str = "") -> None:
        super().__init__(row, column)
        self.row, self.column = row, column

    def __str__(self) -> str:
        return f"numbers of row {self.row} are not finite"

    def told(self, read: str) -> str:
        """What is wrong, for the user. read: the column that is read first."""
        return f"{self.column or read}: expected finite values, row {self.row} has NaN or infinity"


@dataclass(frozen=True, eq=False)
class Picks:
    """The chosen rows, in order of choice.

    rows (k,) int64, unique; scores (k,) float64, higher is taken first; radius (k,) float64, only of strategies that
    cover the pool (`k_center`): after each pick, the largest distance of an unpicked row to the nearest labeled or
    picked one. account: time, memory and exchanges that the selection took (see `alray.selection.shards.Metered`). Two
    picks are equal when their rows, scores and radius are equal.
    """

    rows: Rows
    scores: Scores
    radius: Scores | None = None
    account: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        rows = np.asarray(self.rows)
        if rows.size and rows.dtype.kind not in "iu":
            raise SelectionError(f"picks: expected rows (k,) of integers, got {rows.dtype} of shape {rows.shape}")
        object.__setattr__(self, "rows", rows.astype(np.int64, copy=False))
        for name in ("scores", "radius"):
            value = getattr(self, name)
            if value is not None:
                if (given := np.asarray(value)).dtype.kind not in "iufb":
                    raise SelectionError(f"picks: expected {name} (k,) of numbers, got {given.dtype}")
                object.__setattr__(self, name, np.asarray(given, np.float64))
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
        given = {"row": self.rows, "score": self.scores, "radius": self.radius}
        return pa.table({name: _column(values) for name, values in given.items() if values is not None})

    @classmethod
    def from_table(cls, table: pa.Table) -> Picks:
        """Read what `to_table` made; further columns are ignored."""
        radius = table["radius"].to_numpy() if "radius" in table.column_names else None
        return cls(table["row"].to_numpy(), table["score"].to_numpy(), radius)


def _column(values: Rows | Scores) -> pa.Array:
    """A column of numbers. Unlike `pa.array`, it does not import pandas, which takes half a second."""
    numbers = np.ascontiguousarray(values)
    kind = pa.int64() if numbers.dtype == np.int64 else pa.float64()
    return pa.Array.from_buffers(kind, len(numbers), [None, pa.py_buffer(numbers)])


@dataclass(frozen=True)
class Ties:
    """The order of rows with equal scores: a hash of (seed, round, row), ascending; then the row.

    A folder of images is sorted by class, so that the lower row would be the earlier class.
    """

    seed: int = 0
    round: int = 0

    def order(self, rows: Rows, *keys: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
        """Positions (n,) that sort rows (n,) by the keys, each (n,) and ascending, the last key first as in
        `np.lexsort`; rows with equal keys are sorted by their hash. Keys are not NaN.

        One sort per key, and hashes only where keys are equal: a sixth of the time of `np.lexsort` of everything.
        """
        order = np.argsort(keys[0]) if keys else np.arange(len(rows))
        for key in keys[1:]:
            order = order[np.argsort(key[order], kind="stable")]
        new = np.ones(len(rows) + 1, bool)  # whether a place begins another group of equal keys
        new[1:-1] = False
        for key in keys:
            in_order = key[order]
            new[1:-1] |= in_order[1:] != in_order[:-1]
        equal = np.flatnonzero(~(new[:-1] & new[1:]))
        if len(equal):
            places = order[equal]
            order[equal] = places[self._by_hash(rows[places], np.cumsum(new[equal]))]
        return order

    def _by_hash(self, rows: Rows, group: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """Positions (n,) that sort rows by (group, hash). Groups are ascending; other rows have other hashes."""
        place = np.empty(len(rows), np.int64)
        place[np.argsort(self.hashes(rows))] = np.arange(len(rows))
        return np.argsort(group * len(rows) + place)

    def hashes(self, rows: Rows) -> npt.NDArray[np.uint64]:
        """The hashes of rows (n,): of rows with equal scores, those with lower hashes come first."""
        return priorities(self.seed, f"ties/{self.round}", rows)


@dataclass(frozen=True)
class Context:
    """What a strategy knows besides the features.

    seed and round: with the row number, all that a strategy's randomness may depend on. num_classes. head: weight
    (c, d) and bias (c,) of the linear layer, logits = embedding @ weight.T + bias. labeled: the labeled rows with the
    columns that the strategy needs, for strategies that need "labeled". known: their labels (m,) in row order. Rows
    whose labels are awaited are among both, with a presumed class or -1 (see `alray.selection.pending`). peek: the
    oracle, which gives the labels of any rows; only strategies that peek get it. pretext: for strategies that need
    "pretext_loss", the rows of the whole pool, labeled ones too, (n,) ascending, and their pretext losses (n,), both in
    the smallest type that holds them. peek and pretext stay on the driver: Ray actors do not get them.
    """

    seed: int = 0
    round: int = 0
    num_classes: int | None = None
    head: WeightAndBias | None = field(default=None, repr=False)
    labeled: ShardSource | None = field(default=None, repr=False)
    known: npt.NDArray[np.integer] | None = field(default=None, repr=False)
    peek: Callable[[Rows], npt.NDArray[np.integer]] | None = field(default=None, repr=False)
    pretext: tuple[Integers, Array] | None = field(default=None, repr=False)

    @property
    def ties(self) -> Ties:
        """The order of rows with equal scores in this round."""
        return Ties(self.seed, self.round)


class Shards(Protocol):
    """The opened shards of a selection. One method call reaches all of them, wherever they are."""

    def map(self, method: str, *args: Any) -> list[Any]:
        """Call a method of every shard's state; returns one answer per shard.

        A call may be repeated, because a lost worker is started again from its source: the state must give the same
        answer each time.
        """
        ...

    def report_progress(self, picks: int) -> None:
        """Report how many picks have been made so far, for a progress bar."""
        ...


class Strategy(ABC):
    """A frozen configuration object that chooses rows. Its options are its fields.

    `open` and `select` must be written; every other hook has a default that fits most strategies. A strategy that only
    scores rows is shorter as a `alray.ScoreStrategy`.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    """Names of what it reads: the columns "embedding", "logits", "pretext_loss", "discriminator"; "head" (weight and
    bias of the linear layer); "labeled" (the labeled rows with the same columns); "labels" (labels that have not been
    bought). Where a shard has no logits they are made from the embedding and the head."""

    checks_values: ClassVar[bool] = False
    """Whether its shards themselves raise SelectionError where a value that they read is not finite. `select` then does
    not read all values beforehand only to check them."""

    shard_size: ClassVar[tuple[int, int]] = 50_000, 1 << 24
    """Rows and numbers, either of which is worth a shard, where nobody says how many a selection in one process has."""

    uses_gpu: ClassVar[bool] = False
    """Whether its shards compute on a GPU where there is one; if it needs logits, where many are stored as float16 or
    float32. All of them share one, so that few shards are better."""

    seed_set_how: ClassVar[str] = ""
    """The value of split.seed_set_how under which this strategy chooses the seed set; empty: under none."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if isinstance(cls.needs, str):  # whose letters would be taken for names
            raise SelectionError(
                f"{cls.__name__}.needs: expected a set of names, as in frozenset({{{cls.needs!r}}}), got a text"
            )

    @classmethod
    def peeks(cls) -> bool:
        """Whether it reads labels that have not been bought: a bound to compare with, not a strategy to use."""
        return HIDDEN_LABELS in cls.needs

    def needs_in(self, round: int) -> frozenset[str]:
        """What it reads in this round: `needs`, or a part of it."""
        return self.needs

    def check_pool(self, rows: int) -> None:  # noqa: B027 - an optional hook
        """Raises SelectionError where it cannot be used on a pool of so many rows, labeled ones too."""

    def check_round(self, round: int) -> None:  # noqa: B027 - an optional hook
        """Raises SelectionError for a round that it cannot choose in."""

    def check(self, budget: int, available: int) -> None:  # noqa: B027 - an optional hook
        """Raises SelectionError where it cannot choose `budget` of `available` rows; called before any work."""

    def notes(self, use: Use) -> list[str]:
        """Sentences about what is allowed but may not be meant, for the user to read before the run starts."""
        return []

    def window(self, context: Context, available: Rows, budget: int) -> Rows:
        """The rows that it will look at in this round, ascending, a part of `available` (n,) int64 ascending.

        Only these rows are embedded. Where it looks at all rows it returns `available` itself. Of the context only
        seed, round and pretext are set. The window for a larger budget must hold the one for a smaller budget after
        some available rows were taken, as many as the budgets differ: the next batch may be chosen while one is out.
        """
        return available

    def probabilities(self, offered: int, picks: int) -> Scores | None:
        """The probability of each pick, given those before it, (picks,) in order of choice: of a strategy that draws
        its picks among `offered` rows with known probabilities. None for all others: an accuracy on their picks is
        biased in a way that nobody knows."""
        return None

    @abstractmethod
    def open(self, shard: Shard, context: Context) -> Any:
        """The state of one shard, made in the shard's worker; `Shards.map` calls its methods."""

    @abstractmethod
    def select(self, shards: Shards, budget: int, context: Context) -> Picks:
        """Choose `budget` rows of those that the shards hold, which are at least as many; on the driver."""

    def remarks(self, picks: Picks) -> list[str]:
        """Sentences about these picks, for the user to read after the selection: a limit that was reached, say."""
        return []

    def score_of(self, case: Case) -> float | None:
        """The score of a row that was not picked; None where it is not known."""
        return None

    def reasons(self, case: Case) -> list[str]:
        """Sentences on why a row was picked in a finished round, or what was picked instead. Only what the run still
        has is told."""
        return case.standing(None if case.rank is not None else self.score_of(case))

    def brief(self, case: Case) -> str:
        """A few words on a pick, without features, to be read beside its picture."""
        return case.brief


def beats(one: Key, other: Key) -> bool:
    """Whether `one` comes before `other`."""
    return one[0] > other[0] or (one[0] == other[0] and one[1] < other[1])


def best(rows: Rows, scores: Scores, k: int, ties: Ties) -> tuple[Rows, Scores]:
    """The k first by (score descending, hash), in that order; all of them when there are fewer."""
    if k < len(rows):
        threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
        kept = scores >= threshold
        rows, scores = rows[kept], scores[kept]
    at = ties.order(rows, -scores)[:k]
    return rows[at], scores[at]


def merge(parts: Sequence[tuple[Rows, Scores]], k: int, ties: Ties) -> tuple[Rows, Scores]:
    """The k first rows of several lists of (rows, scores): top_k(A u B) = top_k(top_k(A) u top_k(B))."""
    rows = np.concatenate([rows for rows, _ in parts])
    return best(rows, np.concatenate([scores for _, scores in parts]), k, ties)
