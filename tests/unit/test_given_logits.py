"""What users give in another form than the one that is meant: logits, row numbers, labels, strategies."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import alray
from alray.selection.given_logits import look_like_probabilities
from alray.selection.protocol import SelectionError
from alray.selection.registry import STRATEGIES, described
from alray.selection.strategies.margin import Margin

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
        sure = np.vstack([P, np.eye(4)])  # with zeros
        alray.select("margin", 3, logits=sure.astype(dtype)[:50])
    assert "each of the first 50 rows has numbers from 0 to 1 with the sum 1" in caplog.text
    caplog.clear()
    given = np.log(np.maximum(sure.astype(dtype), 1e-30, dtype=np.float32))  # as the warning says
    assert len(alray.select("margin", 3, logits=given)) == 3
    assert not caplog.text


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
    assert "np.log(np.maximum(p, 1e-30, dtype=np.float32))" in done.stderr
    assert len(out.read_text().splitlines()) == 4


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">i4", ">f2"])
def test_numbers_of_the_other_byte_order_are_taken(dtype: str) -> None:
    z = np.rint(10 * Z)
    assert alray.select("margin", 5, logits=z.astype(dtype)) == alray.select("margin", 5, logits=z.astype(dtype[1:]))


@pytest.mark.parametrize(
    ("labeled", "says"),
    [
        (np.arange(50) % 2, r"every row once, got 48 repetitions, as of row 0; of a mask give np.flatnonzero"),
        ([3, 7, 7, 9, 9], r"every row once, got 2 repetitions, as of row 7$"),
        ({3, 7}, r"expected row numbers \(k,\), got a set; sorted\(...\) makes a list of it"),
    ],
)
def test_rows_in_another_form_are_refused_with_what_to_give(labeled: object, says: str) -> None:
    with pytest.raises(SelectionError, match=says):
        alray.select("margin", 3, logits=Z, labeled=labeled)  # type: ignore[arg-type]


def test_labels_that_are_texts_are_refused_with_what_to_give() -> None:
    with pytest.raises(SelectionError, match=r"expected integers, got <U3; np.unique\(labels, return_inverse=True\)"):
        alray.select("balanced_random", 3, logits=Z, labels=np.array(["cat", "dog"] * 25))


class NoStrategy:
    pass


@pytest.mark.parametrize(
    ("entered", "got"),
    [(NoStrategy, "the class NoStrategy"), (Margin(), "an object of Margin"), (3, "an object of int")],
)
def test_what_is_entered_must_be_a_strategy(entered: Any, got: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STRATEGIES, "own", entered)
    with pytest.raises(SelectionError, match=rf"STRATEGIES\['own'\]: expected a subclass of alray.Strategy, got {got}"):
        alray.select("own", 3, logits=Z)


def test_the_list_of_strategies_says_what_each_reads() -> None:
    assert "    Reads: head (weight and bias), logits (or embedding and head)." in described(["base"])
    assert "    Reads: no features." in described(["random"])
