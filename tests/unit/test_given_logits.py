"""Logits that users give and that would choose rows by something else in silence."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import alray
from alray.selection.given_logits import look_like_probabilities
from alray.selection.protocol import SelectionError

RNG = np.random.default_rng(3)
Z = RNG.normal(size=(50, 4)).astype(np.float32)
P = np.exp(Z) / np.exp(Z).sum(axis=1, keepdims=True)


@pytest.mark.parametrize("strategy", ["margin", "entropy", "confidence", "cluster_margin", "badge"])
def test_a_strategy_that_reads_logits_refuses_one_class_alone(strategy: str) -> None:
    with pytest.raises(SelectionError, match=r"logits: expected at least 2 classes, got 1; .*: 0 and z"):
        alray.select(strategy, 3, logits=Z[:, :1], embedding=Z)


def test_a_head_of_one_class_is_refused() -> None:
    with pytest.raises(SelectionError, match="head: expected at least 2 classes, got 1"):
        alray.select("margin", 3, embedding=Z, head=(np.ones((1, 4)), np.zeros(1)))


def test_a_strategy_that_reads_no_logits_takes_any() -> None:
    assert len(alray.select("k_center", 3, logits=Z[:, :1], embedding=Z).rows) == 3


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_probabilities_are_told_of(dtype: type, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        alray.select("margin", 3, logits=P.astype(dtype))
    assert "each of the first 50 rows has numbers from 0 to 1 with the sum 1" in caplog.text


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_probabilities_of_many_classes_are_seen(dtype: type) -> None:
    many = np.exp(3 * RNG.normal(size=(20, 10_000)))
    assert look_like_probabilities((many / many.sum(axis=1, keepdims=True)).astype(dtype))


@pytest.mark.parametrize(
    "logits",
    [Z, np.log(P), np.abs(Z), np.zeros((5, 3)), np.eye(4)[RNG.integers(0, 4, 50)], np.vstack([P, Z[:1]]), Z[:0]],
    ids=["normal", "log", "positive", "zero", "one-hot", "one row of others", "empty"],
)
def test_logits_are_not_taken_for_probabilities(logits: np.ndarray) -> None:
    assert not look_like_probabilities(logits)


def test_the_command_tells_of_probabilities_and_writes_the_picks(tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", P)
    out = tmp_path / "picks.csv"
    words = ["select", "--strategy", "margin", "--logits", str(tmp_path / "p.npy"), "--budget", "3", "--out", str(out)]
    done = subprocess.run([sys.executable, "-m", "alray", *words], capture_output=True, text=True, check=True)
    assert "np.log(np.maximum(p, 1e-30))" in done.stderr
    assert len(out.read_text().splitlines()) == 4
