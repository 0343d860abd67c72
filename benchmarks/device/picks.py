"""Section a: every strategy, once with the GPU and once without, on data with ties, offsets and duplicates.

Two processes make the same picks; one of them is shown no GPU. Rows, scores and radius are compared by hash, of all
picks and of those in each shard. Whether a strategy used the GPU is seen from CUDA's own count of allocated bytes.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import allocated
from section import Section, half, with_and_without_gpu

from alray import STRATEGIES, keyed, select
from alray.features.arrays import cut
from alray.selection.kernels.matrices import best_device, forced

KINDS = ("random", "tied", "shifted", "duplicates", "float16")
SHARDS = (1, 4)
ON_GPU = ("k_center", "margin", "base", "badge")  # these come in a third size, of several blocks
# Their twin in the literature, and their own cost, grows with the square of the rows.
SMALL_ONLY = ("cluster_margin", "robust_k_center")


@dataclass(frozen=True)
class Size:
    """Rows, width, classes, labeled rows and picks of a case."""

    n: int
    d: int
    c: int
    m: int
    k: int


SMALL, LARGE, WIDE = Size(400, 24, 6, 40, 40), Size(6_000, 128, 20, 500, 300), Size(60_000, 512, 20, 2_000, 1_000)


def cases(tiny: bool) -> Iterator[tuple[str, Size, str, int]]:
    """(strategy, size, kind, shards), the small ones first: each strategy comes on every kind before any large one."""
    for size in (SMALL,) if tiny else (SMALL, LARGE):
        for kind in KINDS[:3] if tiny else KINDS:
            for name in STRATEGIES:
                if size is SMALL or name not in SMALL_ONLY:
                    yield from ((name, size, kind, shards) for shards in SHARDS)
    if not tiny:
        for kind in KINDS:
            yield from ((name, WIDE, kind, shards) for name in ON_GPU for shards in SHARDS)


def made(size: Size, kind: str) -> dict[str, Any]:
    """Everything that any strategy asks for."""
    rng = keyed.generator(KINDS.index(kind), f"device/picks/{size}")
    x, w = rng.standard_normal((size.n, size.d)), rng.standard_normal((size.c, size.d))
    if kind == "tied":
        x, w = rng.integers(-1, 2, x.shape).astype(float), rng.integers(-1, 2, w.shape).astype(float)
    elif kind == "duplicates":
        x = x[rng.integers(0, size.n // 8, size.n)]
    elif kind == "shifted":
        x = x + 300
    x = x.astype(np.float16 if kind == "float16" else np.float32)
    stored = {} if kind == "shifted" else {"logits": (x.astype(np.float64) @ w.T).astype(x.dtype)}
    return {
        **stored,  # else they are made of the embedding and the head
        "embedding": x,
        "head": (w, np.zeros(size.c)),
        "labels": rng.integers(0, size.c, size.n),
        "discriminator": x[:, 0].copy(),
        "pretext_loss": x[:, 1].copy(),
    }


def picked(data: dict[str, Any], name: str, size: Size, shards: int) -> list[str]:
    """Hashes of all picks, and of those in each shard."""
    columns = ("discriminator", "pretext_loss", *(("logits",) if "logits" in data else ()))
    beside = {column: data[column] for column in columns if column in STRATEGIES[name].needs}
    with forced(best_device()):  # however small the input is
        picks = select(
            name, size.k, embedding=data["embedding"], head=data["head"], labels=data["labels"], **beside,
            labeled=np.arange(size.m), seed=3, round=1, num_shards=shards,
        )  # fmt: skip
    inside = [picks.rows[np.isin(picks.rows, np.arange(size.m, size.n)[part])] for part in cut(size.n - size.m, shards)]
    radius = np.empty(0) if picks.radius is None else picks.radius
    return [_hash(picks.rows, picks.scores, radius), *(_hash(rows) for rows in inside)]


def _hash(*arrays: np.ndarray) -> str:
    found = hashlib.blake2b(digest_size=8)
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def pick(seconds: float, tiny: bool, out: Path) -> None:
    """One process's picks, one line each; stops when its time is over."""
    end, last, data = time.monotonic() + seconds, None, dict[str, Any]()
    with out.open("w") as lines:
        for name, size, kind, shards in cases(tiny):
            if time.monotonic() > end:
                return
            if (size, kind) != last:
                data, last = made(size, kind), (size, kind)
            start, before = time.monotonic(), allocated()
            line: dict[str, Any] = {"case": f"{name}/{size.n}x{size.d}/{kind}/{shards}", "strategy": name}
            try:
                line["hashes"] = picked(data, name, size, shards)
            except ImportError as error:
                line["missing"] = str(error)
            line |= {"seconds": time.monotonic() - start, "cuda": allocated() > before}
            print(json.dumps(line), file=lines, flush=True)


def run(section: Section) -> None:
    """Both processes side by side, then the comparison."""
    compare(section, *with_and_without_gpu(section, __file__, 0.85 * section.left))


def compare(section: Section, gpu: dict[str, Any], cpu: dict[str, Any]) -> None:
    """A row for every strategy."""
    wanted = [(f"{name}/{size.n}x{size.d}/{kind}/{shards}", name) for name, size, kind, shards in cases(section.tiny)]
    both = [case for case, _ in wanted if "hashes" in gpu.get(case, {}) and "hashes" in cpu.get(case, {})]
    section.more["hashes"] = {case: [gpu[case]["hashes"], cpu[case]["hashes"]] for case in both}
    for name in STRATEGIES:
        mine = [case for case in both if gpu[case]["strategy"] == name]
        different = [case for case in mine if gpu[case]["hashes"] != cpu[case]["hashes"]]
        missing = {gpu[case]["missing"] for case, owner in wanted if owner == name and "missing" in gpu.get(case, {})}
        section.add(
            "Picks",
            strategy=name,
            cases=len(mine),
            equal=None if not mine else not different,
            ran_on=_where([gpu[case]["cuda"] for case in mine]),
            seconds_with_gpu=round(sum(gpu[case]["seconds"] for case in mine), 2),
            seconds_without=round(sum(cpu[case]["seconds"] for case in mine), 2),
            not_run=sum(owner == name for _, owner in wanted) - len(mine),
            different=", ".join(different) or None,
            missing=", ".join(missing) or None,
        )
        if different:
            section.failures.append(f"{name}: other picks with a GPU than without")
    if len(both) < len(wanted):
        section.note(f"{len(wanted) - len(both)} of {len(wanted)} cases were left out (time, or a missing package).")


def _where(cuda: list[bool]) -> str:
    if not torch.cuda.is_available():
        return "CPU only (no GPU here)"
    return "CUDA" if any(cuda) else "CPU only"


if __name__ == "__main__":
    half(pick)
