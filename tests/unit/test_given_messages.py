"""Messages about given features and rows say what was got."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import alray
from alray.cli import main
from alray.selection.files import read_head
from alray.selection.protocol import SelectionError

Z = np.random.default_rng(3).normal(size=(20, 4)).astype(np.float32)


@pytest.mark.parametrize(
    ("logits", "says"),
    [
        (Z.astype(object), r"got ndarray of dtype object and shape \(20, 4\), whose .* float; .astype\(np.float32\)"),
        (np.array([["a", None]], object), r"ndarray of dtype object and shape \(1, 2\), whose first .* type str$"),
        (torch.tensor(Z).to(torch.bfloat16), r"logits: .*a tensor of torch.bfloat16; give .float\(\)"),
        (np.empty((0, 4), np.float32), "logits: expected at least one row, got none"),
        (object(), "expected an array of numbers, .*; got object$"),
    ],
)
def test_features_in_another_form(logits: Any, says: str) -> None:
    with pytest.raises(SelectionError, match=says):
        alray.select("margin", 1, logits=logits)


def test_a_tensor_of_float32_is_taken() -> None:
    assert len(alray.select("margin", 3, logits=torch.tensor(Z)).rows) == 3


@pytest.mark.parametrize("name", ["labeled", "pending", "exclude"])
def test_none_stands_for_no_rows(name: str) -> None:
    expected = alray.select("margin", 3, logits=Z)
    assert alray.select("margin", 3, logits=Z, **{name: None}) == expected


def test_a_pool_of_labeled_rows_alone_says_so() -> None:
    with pytest.raises(SelectionError, match="budget: expected rows to choose from; all rows are labeled, pending or"):
        alray.select("margin", 1, logits=Z, labeled=np.arange(20))


@pytest.mark.parametrize("size", [100, 129, 447])
def test_a_npy_that_is_cut_off_says_how_long_it_should_be(size: int, tmp_path: Path) -> None:
    np.save(tmp_path / "whole.npy", Z)
    data = (tmp_path / "whole.npy").read_bytes()
    assert len(data) == 448
    (tmp_path / "z.npy").write_bytes(data[:size])
    with pytest.raises(SelectionError) as told:
        alray.select("margin", 1, logits=str(tmp_path / "z.npy"))
    cut = f"the file is cut off: its header says float32 (20, 4), 448 bytes, and it has {size}; copy it again"
    assert (cut in str(told.value)) == (size > 128)  # else the header itself is cut off


@pytest.mark.parametrize("name", ["z.csv", "Z.CSV", "z.tsv", "z.txt"])
def test_features_in_text_are_refused_with_what_is_read(name: str, tmp_path: Path) -> None:
    np.savetxt(tmp_path / name, Z, delimiter=",")
    with pytest.raises(SelectionError, match=r"not read from text such as CSV; give .npy, .npz or Parquet$"):
        alray.select("margin", 1, logits=str(tmp_path / name))
    with pytest.raises(SelectionError, match="logits: no such file"):
        alray.select("margin", 1, logits=str(tmp_path / f"no-{name}"))


def test_a_head_in_an_archive_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "head.npz", weight=np.eye(3, 4), bias=np.zeros(3))
    with pytest.raises(SelectionError, match=r"head.npz: expected a .npy array, got an archive of weight, bias$"):
        read_head(str(tmp_path / "head.npz"), "")


def test_a_head_without_a_bias_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    np.save(tmp_path / "x.npy", Z)
    np.save(tmp_path / "w.npy", np.eye(3, 4))
    np.save(tmp_path / "b.npy", np.zeros(3))
    given = ["select", "base", "3", "--embedding", f"{tmp_path}/x.npy", "--weight", f"{tmp_path}/w.npy", "--out"]
    with caplog.at_level(logging.WARNING):
        main([*given, f"{tmp_path}/one.csv"])
    assert [one.getMessage() for one in caplog.records] == [
        "head: no bias was given: it is taken for zero; --bias gives another"
    ]
    caplog.clear()
    main([*given, f"{tmp_path}/two.csv", "--bias", f"{tmp_path}/b.npy"])
    assert not caplog.records
    assert (tmp_path / "one.csv").read_text() == (tmp_path / "two.csv").read_text()
