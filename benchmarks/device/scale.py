"""Section b: k-center, margin, BASE and BADGE at ImageNet's size, held against a copy and a bf16 product of this run.

Each work is first done on a 64th and a 16th of the rows; from their times follows how much of the whole fits in.
k-center is done twice: with the vectors resident on the GPU, and streamed to it again whenever they are compared. The
others read their input about once, so that it is streamed.

The goal: 10,000 picks of 1.28 M x 2048 in 3 seconds, and in 3 times the larger of two floors: the bytes of the input
at the rate of a copy to the GPU, and the operations at the rate of a bf16 product.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from generated import embeddings, head, logits
from machine import allocated, device_name, peaks, rates
from section import Section, fraction

from alray import select
from alray.models.device import best_device
from alray.selection.kernels.resident import limited


@dataclass(frozen=True)
class Size:
    """Rows of which the first `labeled` are labeled, width, classes, picks."""

    n: int
    d: int
    c: int
    labeled: int
    picks: int


FULL, TINY = Size(1_281_167, 2048, 1000, 30_000, 10_000), Size(4_000, 32, 10, 200, 100)
PILOTS, _FIRST = (1 / 64, 1 / 16), 1 / 32
# The share of the time left at its turn that a work may take, its pilot included.
SHARES = {"margin": 0.15, "base": 0.25, "k_center": 0.5, "badge": 0.9}
GOAL_SECONDS, GOAL_FLOORS = 3.0, 3.0


@dataclass(frozen=True)
class Data:
    """Embeddings (n, d) and logits (n, c) float16 as mapped files, and the head (weight, bias) that joins them."""

    size: Size
    x: np.ndarray
    z: np.ndarray
    head: tuple[np.ndarray, np.ndarray]

    def part(self, share: float) -> tuple[int, int]:
        """Rows and picks of a part: all that is labeled, and the same share of the other rows and of the picks."""
        rows = self.size.labeled + round(share * (self.size.n - self.size.labeled))
        return rows, max(1, round(share * self.size.picks))

    def inputs(self, name: str, rows: int) -> dict[str, Any]:
        """What `select` is given."""
        labeled = np.random.default_rng(0).choice(rows, self.size.labeled, replace=False)  # anywhere, as in a run
        given: dict[str, Any] = {"labeled": np.sort(labeled)}
        if name in ("k_center", "badge"):
            given["embedding"] = self.x[:rows]
        if name != "k_center":
            given["logits"] = self.z[:rows]
        return {**given, "head": self.head} if name == "base" else given


def run(section: Section) -> None:
    """Generate, measure the machine, then the four works, the quick ones first."""
    size, device = (TINY if section.tiny else FULL), best_device()
    with tempfile.TemporaryDirectory() as folder:
        data = _generated(section, Path(folder), size, device)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        rate = rates(device, section.tiny)
        section.add("Rates of the machine", device=device_name(device), **rate, file_bytes_per_second=_read(data.x))
        section.note(
            "Seconds at the bus's rate: the input is copied to the GPU once. Seconds at the product's rate: all rows "
            "times all labeled and picked ones (k-center, BADGE), or the logits themselves (margin, BASE), in bf16. "
            f"The goal is {GOAL_SECONDS:g} s for all rows, and {GOAL_FLOORS:g} times the larger of the two."
        )
        works = Works(section, data, rate, device)
        for name, share in SHARES.items():
            works.measure(name, share)


def _generated(section: Section, folder: Path, size: Size, device: torch.device) -> Data:
    start = time.monotonic()
    embeddings(folder / "embedding.npy", round(_FIRST * size.n), size.d)  # to learn how long the whole takes
    share = fraction(time.monotonic() - start, _FIRST, 0.15 * section.left)
    rows = round(max(_FIRST, share) * size.n)
    labeled, picks = (round(number * rows / size.n) for number in (size.labeled, size.picks))
    if rows < size.n:
        section.note(
            f"Rows, labeled rows and picks were cut to {rows / size.n:.0%}: generating all takes too long here."
        )
    x = embeddings(folder / "embedding.npy", rows, size.d)
    weight, bias = head(size.c, size.d)
    z = logits(folder / "logits.npy", x, weight, device)
    section.add("Generated", rows=rows, bytes=x.nbytes + z.nbytes, seconds=time.monotonic() - start)
    return Data(Size(rows, size.d, size.c, labeled, picks), x, z, (weight, bias))


def _read(x: np.ndarray) -> float:
    """Bytes a second of one pass over the mapped file by one thread."""
    start, step = time.perf_counter(), max(1, (1 << 26) // x[:1].nbytes)
    into = np.empty((step, x.shape[1]), x.dtype)
    for at in range(0, len(x), step):
        part = x[at : at + step]
        np.copyto(into[: len(part)], part)
    return x.nbytes / (time.perf_counter() - start)


@dataclass
class Works:
    """The works, one after the other. picks: of each that was done on all that fits, to compare them."""

    section: Section
    data: Data
    rate: dict[str, float]
    device: torch.device
    picks: dict[str, np.ndarray] = field(default_factory=dict)

    def measure(self, name: str, share: float) -> None:
        """The pilots, then as much as fits; k-center streamed as well, if there is time for it."""
        began, allowed = time.monotonic(), share * self.section.left
        small, large = (self._once(name, part) for part in PILOTS)
        first, second = PILOTS
        slope = max((large - small) / (second - first), 0.5 * large / second)  # what the first calls cost is paid
        whole = large + (1 - second) * slope
        part = min(1.0, second + (allowed - (time.monotonic() - began) - large) / slope)
        if part < 2 * second:
            self.section.note(f"{name}: only the pilots were run; the whole would take about {whole:.0f} s.")
            return
        if part < 1:
            self.section.note(f"{name}: cut to {part:.0%} of rows and picks; the whole would take about {whole:.0f} s.")
        seconds = self._once(name, part)
        if name == "k_center" and 3 * seconds < self.section.left:
            resident = self.picks[name]
            self._once(name, part, streamed=True)
            if not np.array_equal(resident, self.picks[name]):
                self.section.failures.append("k_center: other picks with streamed vectors than with resident ones")

    def _once(self, name: str, part: float, streamed: bool = False) -> float:
        rows, picks = self.data.part(part)
        given = self.data.inputs(name, rows)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        before = allocated()
        with limited(0) if streamed else nullcontext():
            seconds, found = timed(lambda: select(name, picks, **given))
        self.picks[name] = found.rows
        read = sum(given[column].nbytes for column in ("embedding", "logits") if column in given)
        pool, labeled = rows - self.data.size.labeled, self.data.size.labeled
        against = labeled + picks if "embedding" in given else self.data.size.c
        width = self.data.size.d
        bus = read / self.rate["host_to_device_bytes_per_second"]
        product = 2.0 * pool * against * width / self.rate["bf16_operations_per_second"]
        account = found.account
        self.section.add(
            "Selection",
            work=name,
            vectors="resident" if name == "k_center" and not streamed else "streamed",
            rows=pool,
            labeled=labeled,
            picks=picks,
            ran_on="CUDA and CPU" if allocated() > before else "CPU only",
            seconds=seconds,
            seconds_at_bus_rate=bus,
            seconds_at_product_rate=product,
            times_the_larger=seconds / max(bus, product),
            goal=goal(seconds, max(bus, product), part == 1 and self.data.size == FULL),
            shards=len(account["shard_peak_bytes"]),
            exchange_seconds=account["exchange_seconds"],
            shards_cpu_seconds=account["arithmetic_cpu_seconds"],
            driver_cpu_seconds=account["merge_cpu_seconds"],
            input_bytes=read,
            seconds_at_copy_rate=2 * read / self.rate["copy_bytes_per_second"],
            pairs_per_row=account["pairs"] / pool if "pairs" in account else None,
            exchanges=account["exchanges"],
            **peaks(self.device),
        )
        return seconds


def goal(seconds: float, floor: float, whole: bool) -> str:
    """Whether the goal is reached; of fewer rows only the second half of it is told."""
    floors = f"{GOAL_FLOORS:g} x floor {'reached' if seconds <= GOAL_FLOORS * floor else 'not reached'}"
    if not whole:
        return f"fewer rows; {floors}"
    return f"{GOAL_SECONDS:g} s {'reached' if seconds <= GOAL_SECONDS else 'not reached'}; {floors}"


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Wall seconds of a call that ends on the CPU, and what it returns."""
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found
