"""What a selection costs, in counters that do not depend on the machine: sixteen fixed inputs, and how it is counted.

`python tests/guard.py` writes tests/fixtures/costs.json anew; it is run when a selection is meant to cost less or more,
and the difference in the file is read before it is committed. `tests/unit/test_guard.py` compares.

Counters are equal on every machine where no decision depends on the last bits of a float32 product, which differ
between processors and numbers of threads. Therefore the inputs are integers or lie on a coarse grid, so that float32
holds all their products and sums exactly, in whatever order they are added. The filter of k-center would notice that
and use an error bound of 0. One labeled row with a finer step keeps it from that (`finer`): float32 still holds its
products, but the bounds are those of ordinary data. Two kinds of input cannot be made so: groups that lie too far apart
for float32, and the gradients of BADGE. Their counters in `ROUNDED` may differ from the recorded ones by a twentieth,
all others by nothing. Exponentials differ in their last bits, too; margins on a coarse grid are too far apart for it.
No filter uses bfloat16 here, because only some processors multiply it.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alray import STRATEGIES
from alray.features.arrays import ArraySource, cut
from alray.models.no_gpu import without_gpu
from alray.selection.in_process import InProcess
from alray.selection.kernels import coarse
from alray.selection.protocol import Context, Strategy
from alray.selection.shards import Metered

COSTS = Path(__file__).parent / "fixtures" / "costs.json"
ROUNDED = frozenset(
    {"pairs", "rescored", "finer", "survivors", "rows_read", "bytes_read", "numbers_shipped", "driver_operations"}
)
SLACK = 1.05
SHARDS, N = 2, 24_000
MEASURED = ("wall_seconds", "exchange_seconds", "merge_cpu_seconds", "arithmetic_cpu_seconds")  # by a clock
MEMORY = ("driver_peak_bytes", "shard_peak_bytes")

Arrays = dict[str, np.ndarray]
_processes = [0]


def _heard(event: str, _: object) -> None:
    if event in ("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn"):
        _processes[0] += 1


sys.addaudithook(_heard)


@dataclass(frozen=True)
class Case:
    """A selection of `budget` rows. make: its columns (n, ...); labeled: their vectors (m, d). rounded: float32 does
    not hold the products of this input."""

    strategy: str
    budget: int
    make: Callable[[], Arrays]
    labeled: Callable[[], np.ndarray] | None = None
    classes: int = 0  # of a head with weights of small integers; 0: there is no head
    options: dict[str, Any] = field(default_factory=dict)
    rounded: bool = False


class Counted:
    """Shards that count the numbers in what they are asked and in what they answer."""

    def __init__(self, shards: InProcess) -> None:
        self._shards = shards
        self.numbers = 0

    def map(self, method: str, *args: Any) -> list[Any]:
        """One answer per shard."""
        answers = self._shards.map(method, *args)
        self.numbers += len(answers) * _numbers(args) + _numbers(answers)
        return answers

    def accounts(self) -> list[dict[str, float]]:
        """The account of each shard's work."""
        return self._shards.accounts()


def _numbers(value: Any) -> int:
    """How many numbers there are in the arrays inside of a value."""
    if isinstance(value, np.ndarray):
        return value.size
    if isinstance(value, list | tuple):
        return sum(map(_numbers, value))
    if isinstance(value, dict):
        return sum(map(_numbers, value.values()))
    if is_dataclass(value):
        return sum(_numbers(getattr(value, one.name)) for one in fields(value))
    return 0


def finer(x: np.ndarray, step: float = 2.0**-8) -> np.ndarray:
    """Labeled rows of which one has another step than the filter knows of."""
    x = x.astype(np.float32)
    x[3] = 0
    x[3, 0] = step
    return x


def blobs(n: int, seed: int = 0, d: int = 32) -> np.ndarray:
    """Integers from -8 to 8 in clusters of many sizes, with some rows between them, (n, d)."""
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(9).integers(-5, 6, (24, d))
    which = np.minimum(rng.integers(0, 24, n), rng.integers(0, 24, n))
    away = rng.integers(-2, 3, (n, d)) * (rng.integers(0, 4, (n, 1)) < 1)
    return (centers[which] + rng.integers(-1, 2, (n, d)) + away).astype(np.float32)


def with_outlier() -> np.ndarray:
    """Labeled rows of which one is a thousand times as far away."""
    x = finer(blobs(300, 1))
    x[5] = 0
    x[5, :2] = 8192, -8192
    return x


def logits(n: int, c: int, seed: int = 0, weak: bool = False) -> np.ndarray:
    """Multiples of 1/16. weak: one class is predicted for nearly all rows, so that all classes want the rows where it
    is least sure."""
    rng = np.random.default_rng(seed)
    z = rng.integers(-48, 49, (n, c))
    z[np.arange(n), rng.integers(0, c, n)] += rng.integers(0, 120, n)
    if weak:
        z[:, 0] += 100 + rng.integers(0, 400, n)
    return (z / 16).astype(np.float16)


def two_groups() -> Arrays:
    """Rows so far from their mean that float32 holds their products badly."""
    x = blobs(N)
    x[::2] += 10_000
    x[1::2] -= 10_000
    return {"embedding": x}


def integers(*shape: int, most: int, seed: int = 2) -> np.ndarray:
    """Integers from -most to most."""
    return np.random.default_rng(seed).integers(-most, most + 1, shape).astype(np.float32)


CASES = {
    "k_center": Case("k_center", 150, lambda: {"embedding": blobs(N)}, lambda: finer(blobs(300, 1))),
    "k_center, nothing labeled": Case("k_center", 150, lambda: {"embedding": blobs(N)}),
    "k_center, rows of -1, 0 and 1": Case(
        "k_center", 150, lambda: {"embedding": integers(N, 8, most=1)}, lambda: finer(integers(50, 8, most=1, seed=3))
    ),
    "k_center, uniform in two dimensions": Case(
        "k_center", 150,
        lambda: {"embedding": integers(N, 2, most=256)},
        lambda: finer(integers(100, 2, most=256, seed=3)),
    ),
    "k_center, large numbers": Case(  # distances differ by as little as the error bounds
        "k_center", 150,
        lambda: {"embedding": integers(N, 8, most=512)},
        lambda: finer(integers(300, 8, most=512, seed=3), 0.5),
    ),
    "k_center, one labeled row far away": Case("k_center", 150, lambda: {"embedding": blobs(N)}, with_outlier),
    "k_center, float16 at an offset": Case(
        "k_center", 150,
        lambda: {"embedding": (1024 + blobs(N)).astype(np.float16)},
        lambda: (1024 + blobs(300, 1)).astype(np.float16),
    ),
    "k_center, two far groups": Case("k_center", 150, two_groups, lambda: blobs(300, 1) + 10_000, rounded=True),
    "partitioned_k_center": Case(
        "partitioned_k_center", 150, lambda: {"embedding": blobs(N)}, lambda: finer(blobs(300, 1)), options={"parts": 4}
    ),
    "base": Case("base", 400, lambda: {"logits": logits(N, 200)}, classes=200),
    "base, a weak head": Case("base", 1500, lambda: {"logits": logits(N, 50, weak=True)}, classes=50),
    "base, identical logits": Case("base", 400, lambda: {"logits": np.tile(logits(1, 200), (N, 1))}, classes=200),
    "margin, 10 classes": Case("margin", 150, lambda: {"logits": logits(N, 10)}),
    "margin, 1,000 classes": Case("margin", 150, lambda: {"logits": logits(3000, 1000)}),
    "cluster_margin": Case(
        "cluster_margin", 40, lambda: {"logits": logits(N, 10), "embedding": blobs(N, d=8)}
    ),
    "badge": Case("badge", 60, lambda: {"embedding": blobs(3000, d=8)}, classes=5, rounded=True),
}  # fmt: skip


def counted(name: str) -> dict[str, int | str]:
    """The counters of a case, and a hash of its picks."""
    case = CASES[name]
    strategy: Strategy = STRATEGIES[case.strategy](**case.options)
    columns = case.make()
    n = len(next(iter(columns.values())))
    sources = [ArraySource(np.arange(n)[part], {k: v[part] for k, v in columns.items()}) for part in cut(n, SHARDS)]
    before = _processes[0]
    with without_gpu(), coarse.forced(False), InProcess(sources, strategy, _context(case, n)) as shards:
        sent = Counted(shards)
        metered = Metered(sent, lambda picks: None)  # type: ignore[arg-type]
        picks = strategy.select(metered, case.budget, shards.context)
        account = {**metered.account(), **picks.account}
    picked = hashlib.blake2b(picks.rows.astype("<i8").tobytes(), digest_size=8).hexdigest()
    counters = {key: value for key, value in account.items() if key not in (*MEASURED, *MEMORY)}
    return {**counters, "numbers_shipped": sent.numbers, "processes": _processes[0] - before, "picks": picked}


def _context(case: Case, n: int) -> Context:
    labeled = case.labeled() if case.labeled else None
    known = None if labeled is None else ArraySource(n + np.arange(len(labeled)), {"embedding": labeled})
    width = case.make().get("embedding", np.empty((0, 6))).shape[1]
    weight = integers(case.classes, width, most=3, seed=5)
    head = (weight, np.zeros(case.classes, np.float32)) if case.classes else None
    return Context(seed=1, num_classes=case.classes or None, head=head, labeled=known)


def differences(name: str, found: dict[str, Any], recorded: dict[str, Any]) -> list[str]:
    """What differs from the recorded counters, in words: how many times as large each has become."""
    lines = []
    for key in sorted(found.keys() | recorded.keys()):
        now, then = found.get(key), recorded.get(key)
        numbers = isinstance(now, int) and isinstance(then, int)
        if now == then or (numbers and _may_move(name, key) and then <= SLACK * now and now <= SLACK * then):
            continue
        if numbers and then:
            lines.append(f"{name}: {key} was {then:,} and is {now:,}, {now / then:.3f} times as many")
        else:
            lines.append(f"{name}: {key} was {then} and is {now}")
    return lines


def _may_move(name: str, key: str) -> bool:
    return CASES[name].rounded and key in ROUNDED


def write() -> None:
    """Record the counters of all cases, and print what has changed."""
    before = json.loads(COSTS.read_text()) if COSTS.exists() else {}
    now = {name: counted(name) for name in CASES}
    COSTS.write_text(json.dumps(now, indent=1) + "\n")
    for name in now:
        changed = differences(name, now[name], before[name]) if name in before else [f"{name}: new"]
        print("".join(f"{line}\n" for line in changed), end="")


if __name__ == "__main__":
    write()
