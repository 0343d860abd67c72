"""Selection alone, on what users bring; own strategies; picks as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import reference

import alray
from alray.features.arrays import ArraySource, Block
from alray.keyed import order
from alray.selection import inputs
from alray.selection.kernels.top_rows import ScoreStrategy
from alray.selection.protocol import Context, Picks, SelectionError, Ties, best, merge
from alray.selection.registry import STRATEGIES, build
from alray.selection.select import select, select_from

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 6)).astype(np.float32)
W, B = RNG.normal(size=(5, 6)).astype(np.float32), RNG.normal(size=5).astype(np.float32)
Z = reference.logits_of(X, W, B)


def lists(array: np.ndarray, kind: str) -> pa.Array:
    if kind == "fixed":
        return pa.FixedSizeListArray.from_arrays(pa.array(array.ravel()), array.shape[1])
    return pa.array(array.tolist(), pa.list_(pa.float64()) if kind == "list" else pa.large_list(pa.float64()))


def saved(kind: str, folder: Path) -> str:
    """The logits Z in a file of some kind."""
    path = folder / {"npy": "z.npy", "npz": "z.npz"}.get(kind, "z.parquet")
    if kind == "npy":
        np.save(path, Z)
    elif kind == "npz":
        np.savez(path, logits=Z, other=np.ones(3))
    elif kind == "folder":
        path.mkdir()
        for part in range(4):
            pq.write_table(
                pa.table({"logits": lists(Z[part * 10 : part * 10 + 10], "fixed")}), path / f"{part}.parquet"
            )
    elif kind == "rows":
        shuffled = RNG.permutation(40)
        pq.write_table(pa.table({"row": shuffled, "logits": lists(Z[shuffled], "fixed")}), path)
    else:
        pq.write_table(pa.table({"x": np.arange(40), "logits": lists(Z, kind)}), path, row_group_size=7)
    return str(path)


@pytest.mark.parametrize("kind", ["npy", "npz", "fixed", "list", "large_list", "folder", "rows"])
def test_files_give_the_picks_of_the_arrays(kind: str, tmp_path: Path) -> None:
    expected = alray.select("margin", 7, logits=Z)
    assert list(expected.rows) == list(reference.margin(Z, np.arange(40), 7)[0])
    assert select("margin", 7, logits=saved(kind, tmp_path), num_shards=3) == expected
    assert select("margin", 7, logits=Path(saved("npy", tmp_path)), num_shards=50) == expected


@pytest.mark.parametrize("shards", [1, 2, 7, 30])
@pytest.mark.parametrize("name", list(STRATEGIES))
def test_labeled_and_excluded_rows_are_never_picked(name: str, shards: int) -> None:
    labeled, exclude = [0, 5, 9, 39], np.array([9, 20, 21, 22])
    left = np.setdiff1d(np.arange(40), [*labeled, *exclude])
    given = {"embedding": X, "head": (W, B), "labeled": labeled, "exclude": exclude, "seed": 4, "round": 2}
    if "labels" in STRATEGIES[name].needs:
        given["labels"] = np.arange(40) % 3
    given |= {column: X[:, 0] for column in ("discriminator", "pretext_loss") if column in STRATEGIES[name].needs}
    picks = select(name, len(left), **given, num_shards=shards)
    assert sorted(picks.rows) == list(left)
    picks = select(name, 10, **given, num_shards=shards)
    assert set(picks.rows) <= set(left)
    expected = {
        "random": lambda: reference.random_sampling(left, 10, 4, 2),
        "margin": lambda: reference.margin(Z[left], left, 10, 4, 2),
        "confidence": lambda: reference.confidence(Z[left], left, 10, 4, 2),
        "entropy": lambda: reference.entropy(Z[left], left, 10, 4, 2),
        "mase": lambda: reference.mase(Z[left], W, left, 10, 4, 2),
        "base": lambda: reference.base(Z[left], W, left, 10, seed=4, round=2),
        "k_center": lambda: reference.k_center(X[left], left, 10, X[labeled]),
    }
    if name in expected:  # the others are compared with their twins elsewhere
        assert list(picks.rows) == list(expected[name]()[0])


def test_what_is_not_needed_is_not_looked_at() -> None:
    broken = np.full((40, 6), np.nan)
    assert select("margin", 5, logits=Z, embedding=broken) == select("margin", 5, logits=Z)
    assert select("random", 5, embedding=broken) == select("random", 5, logits=Z)
    half = np.where(np.arange(40)[:, None] < 20, np.nan, Z).astype(np.float32)
    assert select("margin", 5, logits=half, labeled=np.arange(20)).rows.min() >= 20


def test_integers_are_numbers() -> None:
    whole = RNG.integers(0, 60000, (40, 5))
    for dtype in (np.uint16, np.int32):  # uint16 is how features store bfloat16: not so here
        assert select("margin", 5, logits=whole.astype(dtype)) == select("margin", 5, logits=whole.astype(np.float64))


NAN = Z.copy()
NAN[[17, 30]] = np.nan
GOOD: dict[str, Any] = {"logits": Z}
MASKED = np.ma.masked_array(Z, mask=np.arange(Z.size).reshape(Z.shape) % 100 == 7)


@pytest.mark.parametrize(
    ("strategy", "budget", "given", "message"),
    [
        ("nothing", 5, GOOD, "strategy: expected one of random, .*base.*, got 'nothing'"),
        (STRATEGIES["margin"], 5, GOOD, r"expected an object, got the class Margin; call it, as in Margin\(\)"),
        (7, 5, GOOD, "expected a name or a configured object of a subclass of alray.Strategy, got 7"),
        ("margin", 0, GOOD, "budget: expected an integer of at least 1, got 0"),
        ("margin", -3, GOOD, "budget: expected an integer of at least 1, got -3"),
        ("margin", 10.0, GOOD, "budget: expected an integer of at least 1, got 10.0"),
        ("margin", True, GOOD, "budget: expected an integer of at least 1, got True"),
        ("margin", 41, GOOD, "budget: expected at most 40, the rows that are available, got 41"),
        ("margin", 39, {**GOOD, "labeled": [1, 2]}, "expected at most 38"),
        ("margin", 5, {**GOOD, "num_shards": -1}, "num_shards: expected an integer of at least 0"),
        ("margin", 5, {**GOOD, "seed": -1}, "seed: expected an integer of at least 0"),
        ("margin", 5, {**GOOD, "round": 0.5}, "round: expected an integer of at least 0"),
        ("margin", 5, {**GOOD, "workers": "threads"}, "workers: expected one of process, ray, got 'threads'"),
        ("margin", 5, {}, "give at least one of embedding, logits, pretext_loss"),
        ("margin", 5, {"embedding": X}, "margin needs logits, or embedding and head; got embedding"),
        ("base", 5, GOOD, "base needs the head's weight and bias, got none"),
        ("margin", 5, {"logits": MASKED}, "logits: expected numbers everywhere, got 2 masked ones"),
        ("margin", 5, {"logits": NAN}, "logits: expected finite values, row 17 has NaN or infinity"),
        ("margin", 5, {"logits": Z[:, 0]}, r"logits: expected an array of 2 dimension\(s\), got shape \(40,\)"),
        ("margin", 5, {"logits": Z[:, :0]}, "expected at least one column"),
        ("margin", 5, {"logits": Z.astype(str)}, "expected float16, float32, float64 or integers"),
        (
            "margin",
            5,
            {"logits": Z, "embedding": X[:-1]},
            "expected as many rows everywhere, got embedding 39, logits 40",
        ),
        ("base", 5, {"logits": Z[:, 1:], "head": (W, B)}, r"weight \(5, 6\) does not fit logits \(40, 4\)"),
        ("base", 5, {"embedding": X[:, 1:], "head": (W, B)}, r"weight \(5, 6\) does not fit embedding \(40, 5\)"),
        ("base", 5, {"embedding": X, "head": (W, B[1:])}, r"expected weight \(c, d\) and bias \(c,\), got shapes"),
        ("base", 5, {"embedding": X, "head": (W * np.nan, B)}, "head: expected finite numbers in the weight"),
        ("base", 5, {"embedding": X, "head": W}, r"head: expected \(weight, bias\)"),
        ("margin", 5, {**GOOD, "labeled": [3, 3]}, "labeled: expected every row once, got 1 repetitions"),
        ("margin", 5, {**GOOD, "labeled": [3, 40]}, "labeled: row 40 is not among the 40 rows up to 39"),
        ("margin", 5, {**GOOD, "exclude": [-1]}, "exclude: row -1 is not among"),
        ("margin", 5, {**GOOD, "exclude": [0.5]}, "exclude: expected row numbers"),
        ("margin", 5, {"logits": "nowhere.npy"}, "logits: no such file: nowhere.npy"),
        ("margin", 5, {"logits": "nowhere"}, "logits: no such file: nowhere"),
    ],
)
def test_bad_input_is_refused(strategy: Any, budget: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(SelectionError, match=message):
        select(strategy, budget, **given)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: Path(p, "z.npy").write_bytes(b"no"), "is not .npy, .npz or Parquet, or is damaged"),
        (lambda p: Path(p, "z.parquet").write_bytes(b"no"), "is not .npy, .npz or Parquet, or is damaged"),
        (lambda p: np.savez(Path(p, "z.npz"), a=Z, b=Z), "expected an array 'logits', got a, b"),
        (lambda p: pq.write_table(pa.table({"a": [1]}), p / "z.parquet"), "expected a column 'logits', got a"),
        (
            lambda p: pq.write_table(pa.table({"logits": [[1.0], [1.0, 2.0]]}), p / "z.parquet"),
            "lists of one length, got 1 to 2",
        ),
        (lambda p: pq.write_table(pa.table({"logits": [[1.0], None]}), p / "z.parquet"), "expected no nulls, got 1"),
        (
            lambda p: pq.write_table(pa.table({"logits": [[1.0, 2.0], [None, 1.0]]}), p / "z.parquet"),
            "expected finite values, row 1",
        ),
        (
            lambda p: pq.write_table(pa.table({"row": [4, 4], "logits": [[1.0], [2.0]]}), p / "z.parquet"),
            "row numbers from 0 without repetition",
        ),
    ],
)
def test_bad_files_are_refused(write: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    write(tmp_path)
    (path,) = tmp_path.iterdir()
    with pytest.raises(SelectionError, match=message):
        select("margin", 1, logits=str(path))


def test_files_with_row_numbers_must_agree(tmp_path: Path) -> None:
    rows = 100 + RNG.permutation(40)
    for name, values, numbers in (("logits", Z, rows), ("embedding", X, rows[::-1]), ("other", X, rows + 1)):
        column = "embedding" if name == "other" else name
        order = np.argsort(numbers) if name != "logits" else np.arange(40)
        by = {int(row): i for i, row in enumerate(rows)}
        kept = np.array([by.get(int(row), 0) for row in numbers[order]])
        pq.write_table(
            pa.table({"row": numbers[order], column: lists(values[kept], "fixed")}), tmp_path / f"{name}.parquet"
        )
    at = {name: str(tmp_path / f"{name}.parquet") for name in ("logits", "embedding", "other")}
    picks = select("base", 9, logits=at["logits"], embedding=at["embedding"], head=(W, B), labeled=[100], num_shards=2)
    by_row = np.argsort(rows)
    keep = rows[by_row] != 100
    assert list(picks.rows) == list(reference.base(Z[by_row][keep], W, rows[by_row][keep], 9)[0])
    with pytest.raises(SelectionError, match="different numbers"):
        select("margin", 9, logits=at["logits"], embedding=at["other"])
    with pytest.raises(SelectionError, match="embedding has no column 'row', but logits has"):
        select("margin", 9, logits=at["logits"], embedding=X)


@dataclass(frozen=True)
class Entropy(ScoreStrategy):
    """Most uncertain first: the entropy of the softmax to a power."""

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})
    power: float = 1.0

    def score(self, block: Block) -> np.ndarray:
        z = block["logits"] - block["logits"].max(axis=1, keepdims=True)
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        return -((p * np.log(p)).sum(axis=1) ** self.power)


@pytest.mark.parametrize("shards", [1, 2, 7, 30])
def test_an_own_strategy_by_object_and_by_name(shards: int, monkeypatch: pytest.MonkeyPatch) -> None:
    p = np.exp(Z) / np.exp(Z).sum(axis=1, keepdims=True)
    expected = np.argsort((p * np.log(p)).sum(axis=1))[:9]
    picks = select(Entropy(), 9, embedding=X, head=(W, B), num_shards=shards)
    assert list(picks.rows) == list(expected)
    monkeypatch.setitem(STRATEGIES, "entropy", Entropy)
    assert select("entropy", 9, logits=Z, num_shards=shards).rows.tolist() == list(expected)
    assert build("entropy", {"power": 2.0}) == Entropy(2.0)


def test_own_strategies_that_go_wrong_are_told_where() -> None:
    class Nan(ScoreStrategy):
        def score(self, block: Block) -> np.ndarray:
            return np.where(block.rows == 11, np.nan, 0.0)

    class Flat(ScoreStrategy):
        def score(self, block: Block) -> np.ndarray:
            return np.zeros((len(block), 1))

    class Short(ScoreStrategy):
        def select(self, shards: Any, budget: int, context: Context) -> Picks:
            return Picks(np.arange(budget - 1), np.zeros(budget - 1))

    for strategy, message in (
        (Nan(), "Nan.score: row 11 scored NaN"),
        (Flat(), r"Flat.score: expected shape \(40,\), got \(40, 1\)"),
        (Short(), "Short: expected 5 picks, got 4"),
    ):
        with pytest.raises(SelectionError, match=message):
            select(strategy, 5, logits=Z)


@pytest.mark.parametrize("name", ["labeled", "pending", "exclude", "head"])
def test_what_is_masked_is_read_nowhere(name: str) -> None:
    rows, weight = np.ma.masked_array([1, 2, 3], mask=[1, 0, 0]), np.ma.masked_array(W, mask=W > 1)
    given = {"embedding": X, "head": (weight, B)} if name == "head" else {"logits": Z, name: rows}
    with pytest.raises(SelectionError, match=rf"{name}: .*expected numbers everywhere, got \d+ masked ones"):
        select("margin", 3, **given)


def test_shards_that_do_not_hold_what_is_needed_are_refused() -> None:
    source = ArraySource(np.arange(40), {"embedding": X})
    with pytest.raises(SelectionError, match="expected logits, or embedding and head; got embedding and no head"):
        select_from([source], build("margin"), 5, Context())
    with pytest.raises(SelectionError, match="base needs the head's weight and bias"):
        select_from([source], build("base"), 5, Context())
    with pytest.raises(SelectionError, match="expected at most 80"):
        select_from([source, source], build("random"), 81, Context())
    with pytest.raises(SelectionError, match=r"expected weight \(5, 6\), got \(5, 5\)"):
        select_from([source], build("base"), 5, Context(head=(W[:, 1:], B)))
    with pytest.raises(SelectionError, match=r"expected weight \(5, d\) as there are logits, got \(4, 6\)"):
        select_from([ArraySource(np.arange(40), {"logits": Z})], build("base"), 5, Context(head=(W[1:], B[1:])))


def test_picks_are_values() -> None:
    picks = Picks(np.array([3, 1]), np.array([0.5, -0.5]))
    assert picks == Picks([3, 1], [0.5, -0.5])  # type: ignore[arg-type]
    assert picks != Picks(np.array([1, 3]), np.array([0.5, -0.5]))
    assert picks != Picks(np.array([3, 1]), np.array([0.5, -0.4]))
    covering = Picks(np.array([3, 1]), np.array([0.5, -0.5]), np.array([2.0, 1.0]))
    assert covering != picks
    for each in (picks, covering):
        assert Picks.from_table(each.to_table()) == each
    assert Picks.from_table(picks.to_table().append_column("key", [["a", "b"]])) == picks
    with pytest.raises(SelectionError, match="without repetition"):
        Picks(np.array([3, 3]), np.zeros(2))
    with pytest.raises(SelectionError, match="expected 2 scores"):
        Picks(np.array([3, 4]), np.zeros(3))


def test_best_and_merge_order_by_score_then_hash() -> None:
    ties = Ties(seed=2, round=1)
    place = {row: at for at, row in enumerate(order(2, "ties/1", np.arange(30)).tolist())}
    rng = np.random.default_rng(0)
    for _ in range(50):
        rows, scores = rng.permutation(30), rng.integers(0, 4, 30).astype(float)
        scores[rng.random(30) < 0.1] = -np.inf
        expected = sorted(range(30), key=lambda i: (-scores[i], place[rows[i]]))
        for k in (1, 9, 30, 40):
            got, values = best(rows, scores, k, ties)
            assert got.tolist() == rows[expected[:k]].tolist()
            assert values.tolist() == scores[expected[:k]].tolist()
            parts = [best(rows[part], scores[part], k, ties) for part in (slice(0, 4), slice(4, 4), slice(4, 30))]
            assert merge(parts, k, ties)[0].tolist() == got.tolist()


@pytest.mark.parametrize("name", ["k_center", "base", "k_means"])
def test_progress_comes_to_the_budget_and_not_beyond(name: str) -> None:
    x = np.random.default_rng(0).standard_normal((2000, 16)).astype(np.float32)
    source = ArraySource(np.arange(2000), {"embedding": x, "logits": x[:, :5]})
    head, seen = (np.ones((5, 16), np.float32), np.zeros(5, np.float32)), list[int]()
    select_from([source], build(name), 300, Context(0, 1, 5, head), watch=seen.append)
    assert seen == sorted(seen) and seen[-1] == 300


@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(
    ("d", "known", "first"), [(2, 0, "random"), (6, 0, "random"), (6, 0, "one_center"), (6, 9, "")]
)
def test_k_center_refuses_what_is_not_finite_wherever_it_is(
    d: int, known: int, first: str, dtype: type, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its shards look for it while they read; the rows that lie in no sample are found, too."""
    x = np.random.default_rng(0).normal(size=(9000, d)).astype(dtype)
    before = inputs.check_values

    def check(name: str, rows: Any, array: Any, used: Any) -> None:
        assert dtype == np.float64, "the values were read beforehand"
        before(name, rows, array, used)

    monkeypatch.setattr("alray.selection.select.check_values", check)
    given = {"labeled": np.arange(known), "strategy_options": {"first": first} if first else {}, "num_shards": 2}
    select("k_center", 5, embedding=x, **given)
    for row in [0, *np.random.default_rng(1).choice(np.arange(9, 9000), 6, replace=False).tolist()]:
        broken = x.copy()
        broken[row, -1] = value
        with pytest.raises(SelectionError, match=f"^embedding: expected finite values, row {row} has NaN or infinity"):
            select("k_center", 5, embedding=broken, **given)
