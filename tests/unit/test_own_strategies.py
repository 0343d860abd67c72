"""Mistakes in a strategy of one's own: in its class, its options and its picks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from pydantic import Field
from test_pt4al import brought

import alray
from alray.config import replace
from alray.features.arrays import ArraySource, Block, RowsSource, Shard, ShardSource, WithColumns
from alray.features.row_runs import RowRuns
from alray.features.table import write_arrays
from alray.selection.protocol import Context, Picks, SelectionError, Shards
from alray.selection.registry import STRATEGIES, build, changed, options_of
from alray.selection.select import select_from
from alray.store import Store

X = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)


@dataclass(frozen=True)
class Fixed(alray.Strategy):
    """Picks these rows, whatever is offered."""

    needs = frozenset({"embedding"})
    answer: Any = None

    def open(self, shard: Shard, context: Context) -> Shard:
        return shard

    def select(self, shards: Shards, budget: int, context: Context) -> Picks:
        answer = self.answer(context) if callable(self.answer) else self.answer
        return Picks(np.array(answer), np.zeros(len(answer))) if isinstance(answer, list) else answer


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize(
    ("answer", "given", "row"),
    [
        ([1, 9999, 2], {}, 9999),
        ([1, 2**40 + 7, 2], {}, 2**40 + 7),
        ([1, -1, -2], {}, -1),
        ([1, 3, 2], {"labeled": [3]}, 3),
        ([1, 3, 4], {"pending": [4]}, 4),
        ([7, 0, 499], {"exclude": [499, 7]}, 7),
        ([1, 3, 4], {"exclude": np.delete(np.arange(500), [1, 3, 5, 8, 90])}, 4),
        ([1, 3, 5], {"subset_labeled": 1, "subset_unlabeled": 4, "labeled": [1]}, 1),
    ],
)
def test_a_row_that_was_not_offered_is_refused(answer: list[int], given: dict[str, Any], row: int, shards: int) -> None:
    with pytest.raises(SelectionError, match=f"Fixed: picked row {row}, which it could not choose"):
        alray.select(Fixed(answer), 3, embedding=X, num_shards=shards, **given)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("taken", [[], [3], range(0, 500, 2), range(250, 500)])
def test_every_row_that_was_offered_may_be_picked(taken: list[int], shards: int) -> None:
    free = np.setdiff1d(np.arange(500), taken)[::-1]
    picks = alray.select(Fixed(free.tolist()), len(free), embedding=X, labeled=list(taken), num_shards=shards)
    assert picks.rows.tolist() == free.tolist()


def test_rows_of_a_table_are_known_by_their_numbers() -> None:
    table = {"row": [5, 90, 2**33], "embedding": [[0.0], [1.0], [2.0]]}
    picks = alray.select(Fixed([2**33, 5]), 2, embedding=_arrow(table))
    assert picks.rows.tolist() == [2**33, 5]
    with pytest.raises(SelectionError, match="picked row 1, "):
        alray.select(Fixed([90, 1]), 2, embedding=_arrow(table))


def _arrow(columns: dict[str, Any]) -> Any:
    import pyarrow as pa

    return pa.table(columns)


class _Unknown:
    """A source of somebody else's."""

    def open(self) -> Shard:
        return ArraySource(np.arange(40, 60), {"embedding": X[:20]}).open()

    def row_parts(self) -> list[RowRuns]:
        return [RowRuns.of(np.arange(40, 50)), RowRuns.of(np.arange(50, 60))]


def test_every_kind_of_source_knows_its_rows(tmp_path: Path) -> None:
    table = write_arrays(Store(str(tmp_path)), np.arange(0, 40, 2), X[:20], "float32", "f", part_rows=6)
    rows = np.arange(100, 120)
    sources: list[ShardSource] = [
        _Unknown(),
        *table.shards(np.arange(0, 36, 4), 2),
        WithColumns(RowsSource(RowRuns.of(rows), {}), rows, {"embedding": X[:20]}),
        ArraySource(np.arange(200, 220), {"embedding": X[:20]}),
        ArraySource(np.empty(0, np.int64), {"embedding": X[:0]}),
    ]
    there = [*range(0, 36, 4), *range(40, 60), *range(100, 120), *range(200, 220)]
    assert select_from(sources, Fixed(there[::-1]), len(there), Context()).rows.tolist() == there[::-1]
    for row in sorted({*range(-1, 222)} - {*there}):
        with pytest.raises(SelectionError, match=f"picked row {row}, "):
            select_from(sources, Fixed([44, row, 0]), 3, Context())


def test_a_run_refuses_rows_that_it_did_not_offer(tmp_path: Path) -> None:
    """A labeled row would be bought twice. The strategy picks the same rows in the second round as in the first."""
    picked: list[int] = []

    class Again(Fixed):
        def select(self, shards: Shards, budget: int, context: Context) -> Picks:
            picked.extend([] if picked else np.concatenate(shards.map("rows"))[:budget])
            return Picks(np.array(picked), np.zeros(budget))

    config = replace(brought(tmp_path), {"split.seed_set_how": "random"})
    with pytest.raises(SelectionError, match=r"Again: picked row \d+, which it could not choose") as told:
        alray.run(config, strategy=Again(), quiet=True)
    assert f"picked row {picked[0]}," in str(told.value)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda _: Picks(np.arange(3), np.array([0, np.nan, 1])), "Fixed: row 1 has the score NaN"),
        (lambda _: (1, 2, 3), "Fixed.select: expected an object of alray.Picks, got tuple"),
        (lambda _: np.arange(3), "Fixed.select: expected an object of alray.Picks, got ndarray"),
        (lambda _: None, "Fixed.select: expected an object of alray.Picks, got NoneType"),
        (lambda _: Picks(np.array([0.5, 1, 2]), np.zeros(3)), "picks: expected rows .* of integers, got float64"),
        (lambda _: Picks(np.arange(3), np.array(["a", "b", "c"])), "picks: expected scores .* of numbers, got <U1"),
    ],
)
def test_what_select_returns_is_checked(answer: Any, says: str) -> None:
    with pytest.raises(SelectionError, match=says):
        alray.select(Fixed(answer), 3, embedding=X)


@pytest.mark.parametrize("size", [(0, 0), 100, (50,), "x", (5, True), (1.5, 2), (1, 2, 3), None])
def test_a_shard_size_is_two_integers(size: Any) -> None:
    class Own(Fixed):
        shard_size = size

    with pytest.raises(SelectionError, match=r"Own.shard_size: expected two integers of at least 1.*, got "):
        alray.select(Own([1]), 1, embedding=X)


@pytest.mark.parametrize("size", [(1, 1), [9, 9], (np.int64(7), 3)])
def test_a_shard_size_that_is_two_integers_is_taken(size: Any) -> None:
    class Own(Fixed):
        shard_size = size

    assert alray.select(Own([1]), 1, embedding=X).rows.tolist() == [1]


@pytest.mark.parametrize("needed", [["embedding"], {"embedding": 1}, {3}, None])
def test_what_it_needs_is_a_set_of_names(needed: Any) -> None:
    class Own(Fixed):
        needs = needed

    with pytest.raises(SelectionError, match="Own.needs: expected a set of names"):
        alray.select(Own([1]), 1, embedding=X)


class Scoreless(alray.ScoreStrategy):
    needs = frozenset({"embedding"})

    def scores(self, block: Block) -> Any:
        return block["embedding"][:, 0]


def test_a_score_strategy_without_score_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STRATEGIES, "own", Scoreless)
    config = replace(brought(tmp_path), {"split.seed_set_how": "random", "strategy": "own", "strategy_options": {}})
    for begin in (
        lambda: alray.select(Scoreless(), 1, embedding=X),
        lambda: alray.select("own", 1, embedding=X),
        lambda: alray.run(config, quiet=True),
        lambda: alray.run(config, strategy=Scoreless(), quiet=True),
    ):
        with pytest.raises(SelectionError, match=r"Scoreless: expected a method score\(self, block\)"):
            begin()


def test_a_class_that_lacks_a_method_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Half(alray.Strategy):
        def open(self, shard: Shard, context: Context) -> Shard:
            return shard

    monkeypatch.setitem(STRATEGIES, "half", Half)
    with pytest.raises(SelectionError, match=r"STRATEGIES\['half'\]: Half lacks the methods select"):
        alray.select("half", 1, embedding=X)


def test_a_class_instead_of_an_object_is_told_to_be_called(tmp_path: Path) -> None:
    with pytest.raises(SelectionError, match=r"expected an object, got the class Fixed; call it, as in Fixed\(\)"):
        alray.select(Fixed, 1, embedding=X)  # type: ignore[arg-type]
    with pytest.raises(SelectionError, match=r"expected an object, got the class Fixed; call it, as in Fixed\(\)"):
        alray.run(brought(tmp_path), strategy=Fixed, quiet=True)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Column(alray.ScoreStrategy):
    needs = frozenset({"embedding"})
    at: int = 0
    power: Annotated[float, Field(gt=0)] = 1.0
    sign: Literal["up", "down"] = "up"
    squared: bool = False
    least: float | None = None
    name: str = ""
    free: Any = None

    def score(self, block: Block) -> Any:
        return block["embedding"][:, self.at]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"at": "x"}, "strategy own: Column.at: expected an integer, got 'x'"),
        ({"at": True}, "Column.at: expected an integer, got True"),
        ({"at": 1.0}, "Column.at: expected an integer, got 1.0"),
        ({"power": 0}, "Column.power: expected a number greater than 0, got 0"),
        ({"power": np.nan}, "Column.power: expected a number greater than 0, got nan"),
        ({"sign": "left"}, "Column.sign: expected one of up, down, got 'left'"),
        ({"squared": 1}, "Column.squared: expected true or false, got 1"),
        ({"least": "x"}, "Column.least: expected a number or none, got 'x'"),
        ({"name": 3}, "Column.name: expected a text, got 3"),
    ],
)
def test_an_option_of_an_own_strategy_is_checked_by_its_type(
    options: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STRATEGIES, "own", Column)
    with pytest.raises(SelectionError, match=says):
        alray.select("own", 1, embedding=X, strategy_options=options)
    with pytest.raises(SelectionError, match=says):
        changed(Column(), options)


def test_options_of_the_right_type_arrive_and_are_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STRATEGIES, "own", Column)
    options = {"at": np.int64(2), "power": 3, "sign": "down", "squared": "TRUE", "least": None, "free": [1]}
    assert build("own", options) == Column(2, 3.0, "down", True, None, "", [1])
    words = {option.name: option.expected for option in options_of(Column)}
    assert (words["at"], words["squared"], words["free"]) == ("an integer", "true or false", "")


def test_types_that_are_known_nowhere_else_are_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    class Local(int):
        pass

    class Own(Fixed):
        def __init__(self, at: Local) -> None:
            object.__setattr__(self, "answer", [int(at)])

    monkeypatch.setitem(STRATEGIES, "own", Own)
    assert alray.select("own", 1, embedding=X, strategy_options={"at": "4"}).rows.tolist() == [4]


class Texts(alray.ScoreStrategy):
    needs = frozenset({"logits"})

    def score(self, block: Block) -> Any:
        return np.array(["high"] * len(block))


def test_scores_that_are_texts_are_refused_by_the_name_of_the_strategy() -> None:
    with pytest.raises(SelectionError, match=r"Texts\.score: expected numbers \(m,\), got <U4 of shape \(20,\)"):
        alray.select(Texts(), 3, logits=np.zeros((20, 3), np.float32))
