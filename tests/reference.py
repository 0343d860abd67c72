"""The slow twins: every strategy in plain NumPy float64, written from the papers, one function each.

Nothing here is shared with the code under test. Equal scores are ordered by a hash of (seed, round, row), equal
distances of k-center and BADGE by row. Each returns (rows in order of choice, scores). `TWINS` at the end names the
twin of every strategy. Letters: n rows, c classes, d width of the embedding, b budget.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

Picked = tuple[np.ndarray, np.ndarray]


def random_sampling(rows: np.ndarray, b: int, seed: int = 0, round: int = 0) -> Picked:
    """b largest hash priorities (SplitMix64 of the row, twice, keyed by seed and stream) as numbers in [0, 1)."""
    mask, golden = 2**64 - 1, 0x9E3779B97F4A7C15
    key = int.from_bytes(hashlib.blake2b(f"{seed}/random/{round}".encode(), digest_size=8).digest(), "little")

    def priority(row: int) -> float:
        x = (row * golden + key) & mask
        for _ in range(2):
            x = (x + golden) & mask
            x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
            x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
            x ^= x >> 31
        return (x >> 11) / 2**53

    return _highest(rows, np.array([priority(int(row)) for row in rows]), b, seed, round)


def _sorted_exponentials(z: np.ndarray) -> tuple[float, float, float]:
    """Of one row: the gap g of the two largest logits, S = sum exp(z - second) and A = sum exp(z - second) (top - z)
    over all classes but the predicted one."""
    z = np.asarray(z, np.float64)
    y = int(np.argmax(z))
    others = np.delete(z, y)
    e = np.exp(others - others.max())
    return z[y] - others.max(), math.fsum(e), math.fsum(e * (z[y] - others))


def margin(logits: np.ndarray, rows: np.ndarray, b: int, seed: int = 0, round: int = 0) -> Picked:
    """b smallest p_(1) - p_(2) of the softmax; the score is log(1 - (p_(1) - p_(2)))."""
    scores = []
    for z in logits:
        if len(z) == 1:
            scores.append(-np.inf)
            continue
        gap, total, _ = _sorted_exponentials(z)
        all_ = 1 + np.exp(-gap) * total
        value = -np.expm1(-gap) / all_
        scores.append(0.0 + (np.log1p(-value) if value < 0.5 else np.log1p(total) - gap - np.log(all_)))
    return _highest(rows, np.array(scores), b, seed, round)


def confidence(logits: np.ndarray, rows: np.ndarray, b: int, seed: int = 0, round: int = 0) -> Picked:
    """b smallest max p of the softmax; the score is log((1 - max p) / max p)."""
    return _highest(rows, np.array([_odds(z) for z in logits]), b, seed, round)


def _odds(z: np.ndarray) -> float:
    if len(z) == 1:
        return -np.inf
    gap, total, _ = _sorted_exponentials(z)
    return np.log(total) - gap


def entropy(logits: np.ndarray, rows: np.ndarray, b: int, seed: int = 0, round: int = 0) -> Picked:
    """b largest -sum p log p of the softmax; the score is its logarithm."""
    return _highest(rows, np.array([_log_entropy(z) for z in logits]), b, seed, round)


def _log_entropy(z: np.ndarray) -> float:
    if len(z) == 1:
        return -np.inf
    gap, total, weighted = _sorted_exponentials(z)
    rest = np.exp(-gap) * total
    return np.log(total * (np.log1p(rest) / rest if rest > 0 else 1.0) + weighted / (1 + rest)) - gap


def mase(
    logits: np.ndarray, weight: np.ndarray, rows: np.ndarray, b: int, seed: int = 0, round: int = 0
) -> Picked:  # fmt: skip
    """b smallest min over c != y of d_c (Emam et al. 2021)."""
    return _highest(rows, np.array([-min(d, default=np.inf) for d in _distances(logits, weight)[1]]), b, seed, round)


def base(
    logits: np.ndarray, weight: np.ndarray, rows: np.ndarray, b: int, classes=None, seed: int = 0, round: int = 0
) -> Picked:  # fmt: skip
    """Per class the q_c smallest D(., c) among what is left, classes in the order given (Emam et al. 2021)."""
    rows = np.asarray(rows)
    distances, others = _distances(logits, weight)
    full = np.array(distances)
    predicted = np.argmax(np.asarray(logits, np.float64), axis=1)
    for i, y in enumerate(predicted):
        full[i, y] = min(others[i], default=np.inf)
    c, hashes = full.shape[1], _tie_hashes(rows, seed, round)
    taken, scores = [], []
    for rank, k in enumerate(range(c) if classes is None else classes):
        quota = b // c + (1 if rank < b % c else 0)
        for i in [i for i in np.lexsort((hashes, full[:, k])) if i not in set(taken)][:quota]:
            taken.append(i)
            scores.append(-full[i, k])
    return rows[np.array(taken, int)], np.array(scores)


def logits_of(embedding: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Float64 logits of stored values."""
    x, w = np.asarray(embedding, np.float64), np.asarray(weight, np.float64)
    return np.array([[np.sum(x_i * w_c) for w_c in w] for x_i in x]) + np.asarray(bias, np.float64)


def _distances(logits: np.ndarray, weight: np.ndarray) -> tuple[list[list[float]], list[list[float]]]:
    """Per row: d_c for all classes (nan for the predicted one), and the list of the others."""
    logits, weight = np.asarray(logits, np.float64), np.asarray(weight, np.float64)
    table = np.array([[np.sqrt(np.sum((a - b) ** 2)) for b in weight] for a in weight])
    all_, others = [], []
    for z in logits:
        y = int(np.argmax(z))
        d = [np.nan if c == y else np.inf if table[y, c] == 0 else (z[y] - z[c]) / table[y, c] for c in range(len(z))]
        all_.append(d)
        others.append([x for c, x in enumerate(d) if c != y])
    return all_, others


def _highest(rows: np.ndarray, scores: np.ndarray, b: int, seed: int = 0, round: int = 0) -> Picked:
    rows = np.asarray(rows)
    order = np.lexsort((_tie_hashes(rows, seed, round), -scores))[:b]
    return rows[order], scores[order]


def k_center(
    embedding: np.ndarray,
    rows: np.ndarray,
    b: int,
    labeled: np.ndarray,
    cosine: bool = False,
    first: str = "largest_norm",
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Farthest first (Gonzalez 1985; Sener & Savarese 2018, algorithm 1), one pick after the other.

    embedding (n, d) of the rows, labeled (m, d); without labeled rows the first is the one with the largest norm, or
    the 1-center (its farthest row is nearest).
    Returns rows, distances when picked, and the radius after each pick.
    """
    x, centers = np.asarray(embedding, np.float64), np.asarray(labeled, np.float64)
    squares = np.sum(x**2, axis=1)
    if cosine:
        x, centers = _directions(x), _directions(centers)
    if first == "one_center":
        squares = -np.array([np.sum((x - y) ** 2, axis=1).max() for y in x])
    nearest = np.full(len(x), np.inf)
    for center in centers:
        nearest = np.minimum(nearest, np.sum((x - center) ** 2, axis=1))
    left, picks, scores, radius = list(range(len(x))), [], [], []
    for _ in range(b):
        value = squares if not len(centers) and not picks else nearest
        i = max(left, key=lambda i: (value[i], -rows[i]))
        left.remove(i)
        picks.append(i)
        scores.append(np.sqrt(nearest[i]))
        nearest = np.minimum(nearest, np.sum((x - x[i]) ** 2, axis=1))
        radius.append(np.sqrt(max(nearest[left], default=0.0)))
    return np.asarray(rows)[picks], np.array(scores), np.array(radius)


def _directions(x: np.ndarray) -> np.ndarray:
    norms = np.sqrt(np.sum(x**2, axis=1, keepdims=True))
    return x / np.where(norms > 0, norms, 1)


def badge(
    embedding: np.ndarray, logits: np.ndarray, rows: np.ndarray, b: int, labeled: np.ndarray | None = None,
    labeled_logits: np.ndarray | None = None, seed: int = 0, round: int = 0, first: str = "largest_norm",
    labeled_rows: np.ndarray | None = None, patience: tuple[int, int] = (16, 4096),
    pooled: tuple[int, int] | None = None,
) -> Picked:  # fmt: skip
    """The race of clocks, ring by ring, on explicit gradient embeddings (Ash et al. 2020)."""
    g, rows = gradients(embedding, logits, pooled), np.asarray(rows)
    centers = [] if labeled is None else list(gradients(labeled, labeled_logits, pooled))
    weight = np.full(len(g), np.inf)
    for center in centers:
        weight = np.minimum(weight, np.sum((g - center) ** 2, axis=1))
    picks, scores = [], []

    def take(i: int, score: float) -> None:
        picks.append(i)
        scores.append(score)
        np.minimum(weight, np.sum((g - g[i]) ** 2, axis=1), out=weight)
        weight[i] = 0

    if centers:
        base = np.sum((g - centers[int(np.argmin([_hash(0, "badge/labeled", r) for r in labeled_rows]))]) ** 2, axis=1)
    else:
        norms = np.sum(g**2, axis=1)
        if first == "random":
            take(i := int(np.argmin([_hash(seed, f"badge/{round}/first", r) for r in rows])), norms[i])
        else:
            take(i := int(np.argmax(norms)), norms[i])
        base = weight.copy()
    epoch, start = 0, 0
    while len(picks) < b and base.max() > 0:
        start = 0 if epoch == 0 and centers else len(picks)
        if epoch == 0 and not centers:
            start = 1

        def gap(i: int, ring: int, e: int = epoch, w: np.ndarray = base) -> float:
            u = ((_hash(seed, f"badge/{round}/{e}/time/{ring}", rows[i]) >> 11) + 1) / 2**53
            return -np.log(u) / w[i] if w[i] > 0 else np.inf

        clock, ring, rings = np.array([gap(i, 0) for i in range(len(g))]), np.zeros(len(g), int), 0
        while len(picks) < b:
            rings += 1
            if rings > patience[0] * (len(picks) - start) + patience[1]:
                break
            i = int(np.lexsort((rows, clock))[0])
            u = ((_hash(seed, f"badge/{round}/{epoch}/accept/{ring[i]}", rows[i]) >> 11) + 1) / 2**53
            if weight[i] > u * base[i]:
                take(i, weight[i])
            ring[i] += 1
            clock[i] += gap(i, ring[i])
        base, epoch = weight.copy(), epoch + 1
    rest = [i for i in np.argsort([_hash(seed, f"badge/{round}/rest", r) for r in rows]) if i not in picks]
    missing = b - len(picks)
    return rows[[*picks, *rest[:missing]]], np.array([*scores, *[0.0] * missing])


def gradients(embedding: np.ndarray, logits: np.ndarray, pooled: tuple[int, int] | None = None) -> np.ndarray:
    """(p - onehot(y)) outer h, flattened: (n, c d); pooled: averaged adaptively to so many classes and columns."""
    h, z = np.asarray(embedding, np.float64), np.asarray(logits, np.float64)
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= np.array([[math.fsum(row)] for row in p])
    for row, y in zip(p, z.argmax(axis=1), strict=True):
        row[y] = -math.fsum(np.delete(row, y))  # p - 1 without cancellation
    outer = p[:, :, None] * h[:, None, :]
    if pooled is not None:
        outer = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(outer), pooled).numpy()
    return outer.reshape(len(h), -1)


def _tie_hashes(rows: np.ndarray, seed: int, round: int) -> np.ndarray:
    """What orders rows with equal scores, ascending."""
    return np.array([_hash(seed, f"ties/{round}", row) for row in rows], np.uint64)


def _hash(seed: int, stream: str, row: int) -> int:
    """SplitMix64 of the row, twice, keyed by seed and stream."""
    mask, golden = 2**64 - 1, 0x9E3779B97F4A7C15
    key = int.from_bytes(hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=8).digest(), "little")
    x = (int(row) * golden + key) & mask
    for _ in range(2):
        x = (x + golden) & mask
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        x ^= x >> 31
    return x


def balanced_random(rows: np.ndarray, labels: np.ndarray, b: int, classes: int, seed: int, round: int) -> Picked:
    """Give one label after the other to a class that has the fewest and is not exhausted; then the largest classes
    first; inside a class the highest hashes."""
    available, quotas = np.bincount(labels, minlength=classes), np.zeros(classes, int)
    for _ in range(b):
        open_ = [c for c in range(classes) if quotas[c] < available[c]]
        quotas[min(open_, key=lambda c: (quotas[c], -available[c], c))] += 1
    hashes = np.array([_hash(seed, f"balanced_random/{round}", r) for r in rows], dtype=object)
    at = []
    for c in range(classes):
        inside = sorted(np.flatnonzero(labels == c), key=lambda i: (-hashes[i], rows[i]))
        at += inside[: quotas[c]]
    return _highest(rows[at], np.array([(hashes[i] >> 11) / 2**53 for i in at]), b, seed, round)


def balancing(
    embedding: np.ndarray, rows: np.ndarray, labels: np.ndarray, b: int, labeled: np.ndarray, known: np.ndarray,
    classes: int, seed: int, round: int,
) -> Picked:  # fmt: skip
    """Aggarwal et al. 2020 literally: class means anew for every pick."""
    x, seen, y = np.asarray(embedding, np.float64), list(np.asarray(labeled, np.float64)), list(known)
    left, picks, scores = list(range(len(x))), [], []
    ties = [_hash(seed, f"ties/{round}", row) for row in rows]
    while len(picks) < b:
        counts = np.bincount(y, minlength=classes)
        frequent, rare = np.flatnonzero(counts > counts.mean()), np.flatnonzero(counts <= counts.mean())
        budget = b - len(picks)
        if len(frequent) and budget <= len(rare) * (counts[frequent].mean() - counts[rare].mean()):
            means = []
            for c in range(classes):
                total = np.zeros(x.shape[1])
                for vector, label in zip(seen, y, strict=True):
                    total = total + vector if label == c else total
                means.append(total / (counts[c] + 1e-5))
            r = int(np.argmin(counts))
            top = [1.0 if counts[r] == 0 else np.sum((x[i] - means[r]) ** 2) for i in left]
            bottom = [max(np.sum((x[i] - means[c]) ** 2) for c in frequent) for i in left]
            value = {i: -t / d for i, t, d in zip(left, top, bottom, strict=True)}
        else:
            value = {i: (_hash(seed, f"balancing/{round}/{len(picks)}", rows[i]) >> 11) / 2**53 for i in left}
        i = max(left, key=lambda i: (value[i], -ties[i]))
        left.remove(i)
        picks.append(i)
        scores.append(value[i])
        seen.append(x[i])
        y.append(labels[i])
    return np.asarray(rows)[picks], np.array(scores)


def cluster_margin(
    embedding: np.ndarray, logits: np.ndarray, rows: np.ndarray, b: int, candidates: int, clusters: int,
    seed: int = 0, round: int = 0,
) -> Picked:  # fmt: skip
    """Citovsky et al. 2021 on all candidates: average linkage by its definition, round robin from the smallest."""
    first, margins = margin(logits, rows, min(len(rows), candidates * b), seed, round)
    at = np.searchsorted(rows, np.sort(first))
    score = dict(zip(first.tolist(), margins.tolist(), strict=True))
    x = np.asarray(embedding, np.float64)[at]
    groups = [[i] for i in range(len(at))]
    distance = np.sqrt(((x[:, None] - x[None]) ** 2).sum(-1))
    while len(groups) > clusters:
        pairs = [(distance[np.ix_(g, h)].mean(), i, j) for i, g in enumerate(groups) for j, h in enumerate(groups[:i])]
        _, i, j = min(pairs)
        groups[j] += groups.pop(i)
    ties = {int(r): _hash(seed, f"ties/{round}", r) for r in first}
    queues = [sorted((int(rows[at[i]]) for i in group), key=lambda r: (-score[r], ties[r])) for group in groups]
    queues.sort(key=lambda queue: (len(queue), min(ties[r] for r in queue)))
    picks: list[int] = []
    while len(picks) < b:
        for queue in queues:
            if queue and len(picks) < b:
                picks.append(queue.pop(0))
    return np.array(picks), np.array([score[r] for r in picks])


def robust_radius(embedding: np.ndarray, b: int, labeled: np.ndarray, outliers: int) -> float:
    """The smallest radius that leaves at most so many rows outside, over all choices of b centers."""
    from itertools import combinations

    x, known = np.asarray(embedding, np.float64), np.asarray(labeled, np.float64)
    distance = np.sqrt(((x[:, None] - x[None]) ** 2).sum(-1))
    start = np.sqrt(((x[:, None] - known[None]) ** 2).sum(-1)).min(axis=1, initial=np.inf)
    best = np.inf
    for centers in combinations(range(len(x)), b):
        nearest = np.sort(np.minimum(start, distance[:, list(centers)].min(axis=1)))[::-1]
        best = min(best, nearest[outliers] if outliers < len(x) else 0.0)
    return float(best)


def pt4al(
    pretext: np.ndarray, logits: np.ndarray, rows: np.ndarray, b: int, round: int, labeled: np.ndarray,
    batches: int = 10, uncertainty: str = "confidence", normalise_logits: bool = False, class_balanced: bool = False,
    cold_start: str = "hardest", rest: str = "drop", seed: int = 0,
) -> Picked:  # fmt: skip
    """Yi et al. 2022: batches by pretext loss, hardest first; every (n/b)-th of the first, then the least sure of the
    next. pretext (n,), logits (n, c) of all rows (n,) of the pool, labeled ones among them. cold_start moves round 0
    alone: with "middle" that batch is looked at twice, the hardest never (unless carried)."""
    order = sorted(range(len(rows)), key=lambda i: (-float(pretext[i]), _hash(seed, "ties/0", rows[i])))
    sizes = [len(rows) // batches + (i < len(rows) % batches) for i in range(batches)]
    cuts = np.cumsum([0, *sizes])
    lists = [order[cuts[i] : cuts[i + 1]] for i in range(batches)]
    free = {i for i in range(len(rows)) if rows[i] not in set(np.asarray(labeled).tolist())}

    def unsure(i: int) -> float:
        z = np.asarray(logits[i], np.float64)
        if normalise_logits and math.fsum(z**2) > 0:
            z = z / math.sqrt(math.fsum(z**2))
        return _odds(z) if uncertainty == "confidence" else _log_entropy(z)

    now = round if round or cold_start == "hardest" else batches // 2
    if round and rest == "carry":
        following = [[i for part in lists[: now + 1] for i in part], *lists[now + 1 :]]
    else:
        following = [lists[now], *lists[now + 1 :], *lists[:now]]
    picks: list[int] = []
    for batch in following:
        here, k = [i for i in batch if i in free], b - len(picks)
        if round == 0:
            picks += here[:: max(1, len(here) // max(k, 1))][:k] if k < len(here) else here[:k]
            continue
        here = sorted(here, key=lambda i: (-unsure(i), _hash(seed, f"ties/{round}", rows[i])))
        if class_balanced and k < len(here):
            c, seen, first = logits.shape[1], [0] * logits.shape[1], []
            for i in here:
                label = int(np.argmax(logits[i]))
                if seen[label] < k // c + (label < k % c):
                    first.append(i)
                    seen[label] += 1
            chosen = set((first + [i for i in here if i not in first])[:k])
            here = [i for i in here if i in chosen]
        picks += here[:k]
    scores = [float(pretext[i]) if round == 0 else unsure(i) for i in picks]
    return np.asarray(rows)[picks], np.array(scores)


def nearest_to(centroids: np.ndarray, embedding: np.ndarray, rows: np.ndarray) -> Picked:
    """For each centroid in turn its nearest row; centroids that share one leave it to the first and look again."""
    picks, scores = np.full(len(centroids), -1), np.zeros(len(centroids))
    x = np.asarray(embedding, np.float64)
    while (picks < 0).any():
        taken = set(picks.tolist())
        free = [i for i in range(len(rows)) if rows[i] not in taken]
        asked = np.flatnonzero(picks < 0)
        for j in asked:
            squared = [(float(np.sum((x[i] - centroids[j]) ** 2)), int(rows[i])) for i in free]
            value, row = min(squared)
            if row not in picks[asked]:
                picks[j], scores[j] = row, -math.sqrt(value)
    return picks, scores


def vaal(discriminator: np.ndarray, rows: np.ndarray, b: int, seed: int = 0, round: int = 0) -> Picked:
    """Sinha et al. 2019: the b rows with the smallest logits of looking labeled."""
    return _highest(rows, -np.asarray(discriminator, np.float64), b, seed, round)


def partitioned_k_center(
    embedding: np.ndarray, rows: np.ndarray, b: int, labeled: np.ndarray, labeled_rows: np.ndarray, parts: int = 10,
    seed: int = 0, round: int = 0,
) -> Picked:  # fmt: skip
    """k-center in every part, one after the other. Only for parts that all have a labeled row."""
    found = []
    for at, known, share in _parts(rows, labeled_rows, min(parts, b), b, seed, round):
        found.append(k_center(embedding[at], rows[at], share, labeled[known])[:2])
    return np.concatenate([part[0] for part in found]), np.concatenate([part[1] for part in found])


def partitioned_badge(
    embedding: np.ndarray, logits: np.ndarray, rows: np.ndarray, b: int, labeled: np.ndarray,
    labeled_logits: np.ndarray, labeled_rows: np.ndarray, parts: int = 10, pooled: bool = True, seed: int = 0,
    round: int = 0,
) -> Picked:  # fmt: skip
    """BADGE in every part, one after the other, on gradients of at most 16 classes and 512 numbers where pooled. Only
    for parts that all have a labeled row."""
    c, found = min(16, logits.shape[1]), []
    size = (c, min(embedding.shape[1], 512 // c)) if pooled else None  # a narrow embedding is not made wider
    for at, known, share in _parts(rows, labeled_rows, min(parts, b), b, seed, round):
        found.append(
            badge(
                embedding[at], logits[at], rows[at], share, labeled[known], labeled_logits[known], seed, round,
                labeled_rows=labeled_rows[known], pooled=size,
            )
        )  # fmt: skip
    return np.concatenate([part[0] for part in found]), np.concatenate([part[1] for part in found])


def _parts(
    rows: np.ndarray, labeled: np.ndarray, parts: int, b: int, seed: int, round: int
) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """Positions of the rows and of the labeled rows of every part, both in row order, and the part's share of b. Rows
    are shuffled by their hashes and cut into near-equal parts, the first ones longer."""

    def positions(numbers: np.ndarray, what: str) -> list[np.ndarray]:
        hashes = [_hash(seed, f"partitioned/{round}/{what}", row) for row in numbers]
        order = np.array(sorted(range(len(numbers)), key=lambda i: hashes[i]), int)
        return [part[np.argsort(numbers[part])] for part in np.array_split(order, parts)]

    shares = [b // parts + (i < b % parts) for i in range(parts)]
    return list(zip(positions(rows, "pool"), positions(labeled, "labeled"), shares, strict=True))


def pixels(logits: np.ndarray, kind: str) -> np.ndarray:
    """How unsure a model is of images, (n,): logarithms of means over the pixels of maps of logits (n, c, h, w)."""
    found = []
    for image in np.asarray(logits, np.float64):
        values = []
        for z in image.reshape(len(image), -1).T:
            p = np.exp(z - z.max())
            p = np.sort(p / math.fsum(p))[::-1]
            if kind == "confidence":
                values.append(math.fsum(p[1:]))
            elif kind == "margin":
                values.append(math.fsum(p[1:]) + p[1])
            else:
                values.append(-math.fsum(q * math.log(q) for q in p if q > 0))
        found.append(math.log(math.fsum(values) / len(values)))
    return np.array(found)


def pixel_score(logits: np.ndarray, rows: np.ndarray, b: int, kind: str) -> Picked:
    """Yi et al. 2022, section on segmentation: the b images with the least sure pixels."""
    return _highest(rows, pixels(logits, kind), b)


def pixel_pt4al(pretext: np.ndarray, logits: np.ndarray, rows: np.ndarray, b: int, round: int, batches: int) -> Picked:
    """The b images with the least sure pixels, by confidence, of the round's batch, from round 1 on. Only for budgets
    that a batch has."""
    order = np.array(sorted(range(len(rows)), key=lambda i: (-float(pretext[i]), rows[i])))
    batch = np.array_split(order, batches)[round]
    return _highest(rows[batch], pixels(logits[batch], "confidence"), b)


@dataclass(frozen=True)
class Given:
    """Everything that a twin may read: of the available rows (n,), and of the labeled ones (m,)."""

    rows: np.ndarray
    labeled: np.ndarray
    columns: dict[str, np.ndarray]  # by name, each of all rows: embedding, logits, labels, pretext_loss, discriminator
    weight: np.ndarray
    seed: int
    round: int

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name][self.rows]

    def known(self, name: str) -> np.ndarray:
        """A column of the labeled rows."""
        return self.columns[name][self.labeled]


def _badge(g: Given, b: int) -> Picked:
    known = g.known("embedding"), g.known("logits")
    return badge(g["embedding"], g["logits"], g.rows, b, *known, g.seed, g.round, labeled_rows=g.labeled)


def _partitioned_badge(g: Given, b: int) -> Picked:
    known = g.known("embedding"), g.known("logits"), g.labeled
    return partitioned_badge(g["embedding"], g["logits"], g.rows, b, *known, seed=g.seed, round=g.round)


def _partitioned_k_center(g: Given, b: int) -> Picked:
    return partitioned_k_center(g["embedding"], g.rows, b, g.known("embedding"), g.labeled, seed=g.seed, round=g.round)


def _balancing(g: Given, b: int) -> Picked:
    known = g.known("embedding"), g.known("labels")
    return balancing(g["embedding"], g.rows, g["labels"], b, *known, len(g.weight), g.seed, g.round)


def _pt4al(g: Given, b: int) -> Picked:
    every = np.union1d(g.rows, g.labeled)
    return pt4al(
        g.columns["pretext_loss"][every], g.columns["logits"][every], every, b, g.round, g.labeled, seed=g.seed
    )


# The twin of every strategy in alray.STRATEGIES, with the strategy's default options.
TWINS: dict[str, Callable[[Given, int], Picked]] = {
    "random": lambda g, b: random_sampling(g.rows, b, g.seed, g.round),
    "balanced_random": lambda g, b: balanced_random(g.rows, g["labels"], b, len(g.weight), g.seed, g.round),
    "confidence": lambda g, b: confidence(g["logits"], g.rows, b, g.seed, g.round),
    "margin": lambda g, b: margin(g["logits"], g.rows, b, g.seed, g.round),
    "entropy": lambda g, b: entropy(g["logits"], g.rows, b, g.seed, g.round),
    "mase": lambda g, b: mase(g["logits"], g.weight, g.rows, b, g.seed, g.round),
    "base": lambda g, b: base(g["logits"], g.weight, g.rows, b, seed=g.seed, round=g.round),
    "balancing": _balancing,
    "k_center": lambda g, b: k_center(g["embedding"], g.rows, b, g.known("embedding"))[:2],
    "partitioned_k_center": _partitioned_k_center,
    "badge": _badge,
    "partitioned_badge": _partitioned_badge,
    "cluster_margin": lambda g, b: cluster_margin(g["embedding"], g["logits"], g.rows, b, 10, 20, g.seed, g.round),
    "vaal": lambda g, b: vaal(g["discriminator"], g.rows, b, g.seed, g.round),
    "pt4al": _pt4al,
}
# Twins that do not give picks: the best radius of all choices of centers (which choice attains it is not unique), and
# the rows nearest to given centroids (FAISS draws the start of its iterations itself). Tests of their own use them.
OTHER_TWINS: dict[str, Callable[..., Any]] = {"robust_k_center": robust_radius, "k_means": nearest_to}
# The twin of every strategy that has another form for images with masks.
PIXEL_TWINS: dict[str, Callable[..., Picked]] = {
    "confidence": pixel_score, "margin": pixel_score, "entropy": pixel_score, "pt4al": pixel_pt4al,
}  # fmt: skip


def lure_mean(q: list[float], population: int, losses: list[bool]) -> float:
    """R_LURE of Farquhar, Gal and Rainforth 2021 as the paper builds it: the mean of c_m a_m, where a_m estimates the
    mean loss of the population from draw m and those before it, and c_m gives every loss its share."""
    n, drawn = population, len(q)
    if drawn == n:
        return sum(losses) / n
    total = 0.0
    for m in range(1, drawn + 1):
        a = losses[m - 1] / (n * q[m - 1]) + sum(losses[: m - 1]) / n
        total += n * (n - drawn) / ((n - m) * (n - m + 1)) * a
    return total / drawn
