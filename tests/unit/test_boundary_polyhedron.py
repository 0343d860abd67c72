"""BASE's closed form against the paper's definition: the distance to the region where class c wins, a projection onto a
polyhedron (Emam et al. 2021, equation for f(x + eps) = c)."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from scipy.optimize import nnls


def to_region(h: np.ndarray, w: np.ndarray, b: np.ndarray, c: int) -> float:
    """min |e| such that z_c >= z_j for all j at h + e."""
    a = np.delete(w[c] - w, c, axis=0)
    gap = np.delete(w @ h + b - (w[c] @ h + b[c]), c)  # by how much the others lead
    # Least distance programming by non-negative least squares (Lawson & Hanson 1974, chapter 23).
    residual = np.vstack([a.T, gap]) @ nnls(np.vstack([a.T, gap]), np.append(np.zeros(a.shape[1]), 1.0))[0]
    residual[-1] -= 1
    e = -residual[:-1] / residual[-1]
    assert (a @ e >= gap - 1e-9).all()
    return float(np.linalg.norm(e))


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_the_closed_form_is_a_lower_bound_and_exact_where_nobody_is_between(classes: int) -> None:
    rng = np.random.default_rng(classes)
    w, b, x = rng.normal(size=(classes, 8)), rng.normal(size=classes), rng.normal(size=(40, 8))
    closed, others = reference._distances(reference.logits_of(x, w, b), w)
    equal = 0
    for h, distances, rest in zip(x, closed, others, strict=True):
        y = int(np.argmax(w @ h + b))
        exact = [to_region(h, w, b, c) if c != y else np.nan for c in range(classes)]
        for c in range(classes):
            if c != y:
                assert exact[c] >= distances[c] - 1e-6
                equal += abs(exact[c] - distances[c]) < 1e-6
        # the nearest other region lies behind the nearest boundary: for the predicted class both definitions agree
        assert min(e for e in exact if not np.isnan(e)) == pytest.approx(min(rest), abs=1e-6)
    assert equal > 40 if classes > 2 else equal == 40
