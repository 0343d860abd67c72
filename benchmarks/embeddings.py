"""Generated embeddings for benchmarks: clusters of Zipf sizes, a spectrum that falls off, heavy-tailed distances.

Not images, and never called a real data set in a result.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def heavy_tailed(n: int, d: int, clusters: int = 1000, seed: int = 0, rows: int = 20_000) -> Iterator[np.ndarray]:
    """Blocks of float16 embeddings, (at most `rows`, d), n in all."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, clusters + 1)
    spectrum = (np.arange(1, d + 1) ** -0.5).astype(np.float32)
    middle = rng.standard_normal((clusters, d), np.float32) * spectrum
    for start in range(0, n, rows):
        size = min(rows, n - start)
        cluster = rng.choice(clusters, size, p=share / share.sum())
        radius = 0.3 + 0.3 * np.abs(rng.standard_t(4, size)).astype(np.float32)
        noise = rng.standard_normal((size, d), np.float32) * spectrum * radius[:, None]
        yield (middle[cluster] + noise).astype(np.float16)


def logits(x: np.ndarray, classes: int, seed: int = 0) -> np.ndarray:
    """Float16 logits of a random linear head, (n, classes)."""
    weight = np.random.default_rng(seed).standard_normal((classes, x.shape[1]), np.float32)
    return (x.astype(np.float32) @ weight.T / np.sqrt(x.shape[1])).astype(np.float16)
