"""Section b: k-center, margin, BASE and BADGE at ImageNet's size, held against a copy and a bf16 product of this run.

Each work is first done on a 64th and a 16th of the rows; from their times follows how much of the whole fits in.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from generated import embeddings, head, logits
from machine import allocated, device_name, peaks, rates
from section import Section, fraction

from alray import select
from alray.models.device import best_device


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
SHARES = {"margin": 0.15, "base": 0.25, "k_center": 0.65, "badge": 0.9}


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
        given: dict[str, Any] = {"labeled": np.arange(self.size.labeled)}
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
            "Seconds at the copy's rate: the input is read once. Seconds at the product's rate: all rows times all "
            "labeled and picked ones (k-center, BADGE), or the logits themselves (margin, BASE), in bf16."
        )
        for name, share in SHARES.items():
            _measured(section, data, name, share, rate, device)


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


def _measured(
    section: Section, data: Data, name: str, share: float, rate: dict[str, float], device: torch.device
) -> None:
    """The pilots, then as much as fits."""
    began, allowed = time.monotonic(), share * section.left
    small, large = (_once(section, data, name, part, rate, device) for part in PILOTS)
    first, second = PILOTS
    slope = max((large - small) / (second - first), 0.5 * large / second)  # what the first calls cost is paid
    whole = large + (1 - second) * slope
    part = min(1.0, second + (allowed - (time.monotonic() - began) - large) / slope)
    if part < 2 * second:
        section.note(f"{name}: only the pilots were run; the whole would take about {whole:.0f} s.")
        return
    if part < 1:
        section.note(f"{name}: cut to {part:.0%} of rows and picks; the whole would take about {whole:.0f} s.")
    _once(section, data, name, part, rate, device)


def _once(section: Section, data: Data, name: str, part: float, rate: dict[str, float], device: torch.device) -> float:
    rows, picks = data.part(part)
    given = data.inputs(name, rows)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = allocated()
    seconds, found = timed(lambda: select(name, picks, **given))
    read = sum(given[column].nbytes for column in ("embedding", "logits") if column in given)
    pool = rows - data.size.labeled
    against, width = (data.size.labeled + picks, data.size.d) if "embedding" in given else (data.size.c, data.size.d)
    account = found.account
    section.add(
        "Selection",
        work=name,
        rows=pool,
        labeled=data.size.labeled,
        picks=picks,
        ran_on="CUDA and CPU" if allocated() > before else "CPU only",
        seconds=seconds,
        shards=len(account["shard_peak_bytes"]),
        exchange_seconds=account["exchange_seconds"],
        shards_cpu_seconds=account["arithmetic_cpu_seconds"],
        driver_cpu_seconds=account["merge_cpu_seconds"],
        input_bytes=read,
        seconds_at_copy_rate=2 * read / rate["copy_bytes_per_second"],
        seconds_at_product_rate=2.0 * pool * against * width / rate["bf16_operations_per_second"],
        pairs_per_row=account["pairs"] / pool if "pairs" in account else None,
        exchanges=account["exchanges"],
        **peaks(device),
    )
    return seconds


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Wall seconds of a call that ends on the CPU, and what it returns."""
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found
