"""Robust k-center (Sener & Savarese 2018, section 5): the smallest radius within which all but a few outliers lie.

With b new centers u_j beside the labeled rows and outliers o_i of weight w_i, a radius r is feasible when

    sum_j u_j <= b,    o_i + sum over d_ij <= r of u_j >= 1  for every i no labeled row covers,    sum w_i o_i <= Xi

has a solution in {0, 1}. The smallest such r among the distances up to greedy's is found by bisection; each step is a
mixed-integer program for SciPy's HiGHS. Greedy gives the first solution, so that there always is one; when the time is
up, the best solution so far is returned with its gap.

A pool of more than `points` rows is replaced by its k-center summary of that size. Each summary row stands for the rows
that are nearest to it, none of them farther away than the summary's radius. The solution for the summary therefore
covers the pool, but for the outliers, within its own radius plus the summary's (`bound` in the account). Letters: n
points, m labeled, k picks, d width.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from alray.features.arrays import EMBEDDING, Array, Block, Rows, Shard
from alray.selection.case import Case, covered, nearest_center, number
from alray.selection.kernels.logits import Floats, needed
from alray.selection.options import with_options
from alray.selection.protocol import LABELED, Context, Picks, SelectionError, Shards, Strategy
from alray.selection.strategies.k_center import KCenter

if TYPE_CHECKING:
    from alray.selection.kernels.sieve import Sieve

Integers = npt.NDArray[np.int64]
_CHUNK = 256


@with_options
class RobustKCenter(Strategy):
    """Score: the distance to the nearest labeled row or earlier pick; the picks are in farthest-first order.

    The account of the picks has, for the points that were solved for, radius, greedy_radius (that of k-center greedy),
    outliers (how many rows the points outside the radius stand for) and time_limit_reached. Then summary_radius; bound,
    the radius within which all rows but the outliers lie; lower_bound, a radius that no choice of centers can fall
    below; and gap, bound / lower_bound - 1, which is infinite where no lower bound is known.
    """

    outliers: Annotated[float, Field(ge=0, lt=1)] = 1e-4
    """The share of the available rows that may stay uncovered; the default is the paper's."""
    time_limit: Annotated[float, Field(ge=0)] = 60.0
    """Seconds for the mixed-integer programs. Where they run out, the picks depend on the machine's speed, and the gap
    is larger than 0."""
    points: Annotated[int, Field(ge=2)] = 500
    """The most rows that are solved for without a summary; it must exceed the budget. Time and memory grow with its
    square."""

    needs: ClassVar[frozenset[str]] = frozenset({EMBEDDING, LABELED})
    uses_gpu: ClassVar[bool] = True

    def check(self, budget: int, available: int) -> None:
        """Refuses a summary that is no larger than the budget: there would be nothing to choose."""
        if self.points < available and budget >= self.points:
            raise SelectionError(
                f"robust_k_center: points: expected more than the budget of {budget:,} where {available:,} rows are "
                f"available, got {self.points:,} (time and memory grow with points squared)"
            )

    def open(self, shard: Shard, context: Context) -> _State:
        """The shard-side state."""
        return _State(KCenter().open(shard, context), needed(shard, self.needs))

    def select(self, shards: Shards, budget: int, context: Context) -> Picks:
        """`budget` rows."""
        n = sum(shards.map("count"))
        self.check(budget, n)
        summary = KCenter().select(shards, min(n, self.points), context)
        assert summary.radius is not None
        points = _points(shards, summary.rows)
        weights = np.ones(len(points), np.int64)
        if len(points) < n:
            from alray.selection.kernels.distance import Space

            space = Space.around("l2", points[EMBEDDING])
            weights = np.sum(shards.map("weigh", space, points[EMBEDDING]), axis=0)
        program = _Program(points, weights, context, int(self.outliers * n + 1e-9), budget)
        found = program.solve(summary.rows[:budget], self.time_limit)
        if len(points) == n:
            return replace(found, account={**found.account, "summary_radius": 0.0, "bound": found.account["radius"]})
        # Centers among the few summary rows: their best radius is no lower bound for centers among all rows.
        least = float(summary.radius[budget - 1]) / 2 if program.outliers == 0 else 0.0
        return replace(found, account=_of_summary(found.account, float(summary.radius[-1]), least))

    def remarks(self, picks: Picks) -> list[str]:
        """Whether the time limit ended the search."""
        if not picks.account["time_limit_reached"]:
            return []
        return [
            f"robust_k_center: time_limit: {self.time_limit:g} s were not enough to solve the mixed-integer programs: "
            "the picks are the best that were found, and depend on the speed of this machine"
        ]

    def reasons(self, case: Case) -> list[str]:
        """What was nearest to it: the picks are chosen together, and then sorted."""
        if case.rank is not None or not case.took_part:
            return covered(case)
        found = nearest_center(case, case.picks.rows)
        near = f"; {case.keys(found[0])} is the nearest, at the distance {number(found[1])}" if found else ""
        return [f"The picks were chosen together, to lie near to all images but a few outliers{near}."]


class _State:
    """The state of one shard: its sieve, and the embeddings of the rows that the driver asks for."""

    def __init__(self, sieve: Sieve, shard: Shard) -> None:
        self._sieve, self._shard = sieve, shard
        self.counters = sieve.counters

    def __getattr__(self, method: str) -> Any:
        return getattr(self._sieve, method)

    def vectors(self, rows: Rows) -> Block:
        """Those of the rows that are in this shard, with their embeddings."""
        rows = np.unique(rows)
        return self._shard.take(rows[~self._shard.runs().places(rows)[1]])


def _points(shards: Shards, rows: Rows) -> Block:
    """The rows with their embeddings, ascending."""
    blocks = [block for block in shards.map("vectors", rows) if len(block)]
    order = np.argsort(np.concatenate([block.rows for block in blocks]))
    return Block(
        np.concatenate([block.rows for block in blocks])[order],
        {EMBEDDING: np.concatenate([block[EMBEDDING] for block in blocks])[order]},
    )


class _Program:
    """One problem: squared distances among the points (n, n) and to the nearest labeled row (n,)."""

    def __init__(self, points: Block, weights: Integers, context: Context, outliers: int, budget: int) -> None:
        self.rows, self.weights, self.outliers, self.budget = points.rows, weights, outliers, budget
        x = points[EMBEDDING]
        self.squared = _all_pairs(x, x)
        self.labeled = np.full(len(x), np.inf)
        known = context.labeled.open() if context.labeled else Shard([])
        if len(known):
            for block in needed(known, frozenset({EMBEDDING})).blocks(_CHUNK):
                self.labeled = np.minimum(self.labeled, _all_pairs(x, block[EMBEDDING]).min(axis=1))

    def solve(self, greedy: Rows, seconds: float) -> Picks:
        """Bisect over the distances from half the greedy radius up."""
        best = np.searchsorted(self.rows, greedy)
        start = radius = self._radius(best)
        nearest = np.minimum(self.labeled, self._covered(best))
        lower = float(nearest.max()) / 4 if self.outliers == 0 else 0.0  # squared: greedy is at most twice the best
        values = np.unique(np.append(self.squared[self.squared < radius], self.labeled[self.labeled < radius]))
        values = values[values >= lower]
        deadline = time.monotonic() + seconds
        low, high = -1, len(values)  # values[low] is infeasible (or not known), values[high] feasible
        known = -1  # values[known] is the largest that is certainly infeasible
        cut_short = False  # a program was not solved to its end
        while high - low > 1 and time.monotonic() < deadline:
            middle = (low + high) // 2
            found, certain = self._feasible(float(values[middle]), deadline - time.monotonic())
            cut_short |= not certain
            if found is None:
                low, known = middle, middle if certain else known
            else:
                best, radius = found, self._radius(found)
                high = int(np.searchsorted(values, radius))
        if known + 1 >= high:
            lower = radius
        elif known >= 0:
            lower = max(lower, float(values[known + 1]))
        picks = self._picks(best, radius, lower, start)
        return replace(picks, account={**picks.account, "time_limit_reached": cut_short or high - low > 1})

    def _feasible(self, squared: float, seconds: float) -> tuple[Integers | None, bool]:
        """Centers within that radius, or None; and whether None is certain (false where the time ran out)."""
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_array, eye_array, hstack

        open_ = np.flatnonzero(self.labeled > squared)
        n = len(self.rows)
        cover = hstack([csr_array((self.squared[open_] <= squared).astype(float)), eye_array(n).tocsr()[open_]])
        ones = np.concatenate([np.ones(n), np.zeros(n)])
        weight = np.concatenate([np.zeros(n), self.weights])
        constraints = [LinearConstraint(ones, -np.inf, self.budget), LinearConstraint(weight, -np.inf, self.outliers)]
        if len(open_):
            constraints.append(LinearConstraint(cover.tocsc(), 1, np.inf))
        answer = milp(
            weight, constraints=constraints, integrality=np.ones(2 * n), bounds=Bounds(0, 1),
            options={"time_limit": max(seconds, 0.1), "mip_rel_gap": 1.0},
        )  # fmt: skip
        if answer.x is None:
            return None, answer.status == 2
        return self._filled(np.flatnonzero(answer.x[:n] > 0.5)), True

    def _filled(self, centers: Integers) -> Integers:
        """Exactly `budget` centers: where the program used fewer, the farthest points are added."""
        nearest = np.minimum(self.labeled, self._covered(centers))
        nearest[centers] = -np.inf
        while len(centers) < self.budget:
            far = int(np.argmax(nearest))
            centers = np.append(centers, far)
            nearest = np.minimum(nearest, self.squared[:, far])
            nearest[far] = -np.inf
        return centers[: self.budget]

    def _covered(self, centers: Integers) -> Floats:
        if not len(centers):
            return np.full(len(self.rows), np.inf)
        covered: Floats = self.squared[:, centers].min(axis=1)
        return covered

    def _radius(self, centers: Integers) -> float:
        """The smallest squared radius that leaves at most the allowed weight outside."""
        nearest = np.minimum(self.labeled, self._covered(centers))
        order = np.argsort(-nearest, kind="stable")
        outside = np.cumsum(self.weights[order]) > self.outliers
        return float(nearest[order[int(np.argmax(outside))]]) if outside.any() else 0.0

    def _picks(self, centers: Integers, radius: float, lower: float, greedy: float) -> Picks:
        left, order, scores = np.sort(centers), [], []
        nearest = self.labeled.copy()
        while len(left):
            at = left[int(np.argmax(nearest[left]))]
            order.append(at)
            scores.append(float(np.sqrt(nearest[at])))
            nearest = np.minimum(nearest, self.squared[:, at])
            left = left[left != at]
        outside = int(self.weights[nearest > radius].sum())
        root, least = float(np.sqrt(radius)), float(np.sqrt(lower))
        account = {
            "radius": root,
            "lower_bound": least,
            "gap": _gap(root, least),
            "outliers": outside,
            "greedy_radius": float(np.sqrt(greedy)),
        }
        return Picks(self.rows[np.array(order)], np.array(scores), account=account)


def _gap(radius: float, least: float) -> float:
    return 0.0 if radius == least else float("inf") if least == 0 else radius / least - 1


def _of_summary(account: Mapping[str, Any], radius: float, least: float) -> dict[str, Any]:
    bound = account["radius"] + radius
    more = {"summary_radius": radius, "bound": bound, "lower_bound": least, "gap": _gap(bound, least)}
    return {**account, **more}


def _all_pairs(x: Array, c: Array) -> Floats:
    """Canonical squared distances (n, p)."""
    from alray.selection.kernels.distance import Space

    space, found = Space("l2", np.zeros(x.shape[1])), np.empty((len(x), len(c)))
    for start in range(0, len(x), _CHUNK):
        part = np.arange(start, min(start + _CHUNK, len(x)))
        at, there = (index.ravel() for index in np.meshgrid(part, np.arange(len(c)), indexing="ij"))
        found[part] = space.pairs(x, c, at, there).reshape(len(part), len(c))
    return found
