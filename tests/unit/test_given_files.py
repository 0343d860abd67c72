"""Shards of a file get its path, not its numbers; a file that is not there, or is another one, is named."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from alray import select
from alray.features.arrays import Shard, cut
from alray.features.table import FeatureTable, write_arrays
from alray.selection.given_files import FilePart
from alray.selection.inputs import GivenFeatures, gather
from alray.selection.labeled_rows import dealt, joined, read
from alray.selection.protocol import SelectionError
from alray.selection.registry import build
from alray.store import Store

N, D = 4000, 32
X = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)


@pytest.fixture
def path(tmp_path: Path) -> str:
    np.save(tmp_path / "x.npy", X)
    return str(tmp_path / "x.npy")


def given(path: str) -> GivenFeatures:
    return gather({"embedding": path})


def numbers(shard: Shard) -> np.ndarray:
    return np.concatenate([block["embedding"] for block in shard.blocks(100)])


@pytest.mark.parametrize("layout", ["C", "F"])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_shards_of_a_file_are_small_messages_and_hold_its_rows(layout: str, kind: type, tmp_path: Path) -> None:
    x = np.asarray(X, kind, order=layout)  # type: ignore[call-overload]
    np.save(tmp_path / "x.npy", x)
    keep = np.delete(np.arange(N), [3, 4, 1000, 3999])
    sources = given(str(tmp_path / "x.npy")).shards(keep, 3)
    messages = [pickle.dumps(source) for source in sources]
    assert sum(map(len, messages)) < 5000 < x.nbytes / 10
    found = np.concatenate([numbers(pickle.loads(message).open()) for message in messages])
    assert np.array_equal(found, x[keep])
    assert np.array_equal(np.concatenate([source.open().rows() for source in sources]), keep)


def test_a_mapped_array_is_a_file_and_an_array_in_memory_is_not(path: str) -> None:
    mapped = np.load(path, mmap_mode="r")
    part = FilePart.of(mapped[10:20])
    assert part is not None
    assert np.array_equal(part.open(), X[10:20])
    assert part.open().flags.writeable is False
    assert FilePart.of(X) is None
    assert FilePart.of(np.load(path, mmap_mode="c")) is None, "its numbers may differ from those of the file"
    assert FilePart.of(mapped[:0]) is None or len(FilePart.of(mapped[:0]).open()) == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("change", ["removed", "longer", "another"])
def test_a_node_without_the_file_names_it(change: str, path: str) -> None:
    (source,) = given(path).shards(np.arange(N), 1)
    place = Path(path)
    if change == "removed":
        place.unlink()
    elif change == "longer":
        np.save(path, np.concatenate([X, X]))
    else:
        np.save(path, X + 1)
    with pytest.raises(SelectionError, match=r"x\.npy, on the node .*every node reaches, or give the array itself"):
        source.open()


@pytest.mark.parametrize("name", ["k_center", "margin", "badge", "partitioned_k_center", "random"])
def test_picks_from_a_file_are_those_from_memory(name: str, path: str) -> None:
    head = (np.random.default_rng(1).normal(size=(5, D)), np.zeros(5))
    more = {"labeled": np.arange(5, 500, 7), "exclude": [0, 9], "num_shards": 3, "seed": 4}
    assert select(name, 30, embedding=path, head=head, **more) == select(name, 30, embedding=X, head=head, **more)  # type: ignore[arg-type]


def table(tmp_path: Path) -> FeatureTable:
    return write_arrays(Store(str(tmp_path / "table")), np.arange(N), X, "float32", "mark", part_rows=500)


def test_each_shard_reads_labeled_rows_in_the_files_that_it_opens_anyway(tmp_path: Path) -> None:
    """A file on the border of two shards is opened by both; labeled rows in it are read by the first."""
    features = table(tmp_path)
    labeled = np.arange(1, N, 13)
    pool = np.setdiff1d(np.arange(N), labeled)
    sources = features.shards(pool, 3)
    pieces = dealt(features.source(labeled), sources)
    for piece, source in zip(pieces, sources, strict=True):
        assert {part for part, _ in piece.parts} <= {part for part, _ in source.parts}  # type: ignore[attr-defined]
    whole = joined([read(piece, build("k_center")) for piece in pieces])
    assert whole.rows.tolist() == labeled.tolist()
    assert np.array_equal(whole.columns["embedding"], X[labeled])


def test_labeled_rows_in_files_that_no_shard_opens_are_read_once(tmp_path: Path) -> None:
    features = table(tmp_path)
    sources = features.shards(np.arange(1000, 2000), 2)
    labeled = np.arange(0, N, 100)
    pieces = dealt(features.source(labeled), sources)
    found = joined([read(piece, build("k_center")) for piece in pieces])
    assert found.rows.tolist() == labeled.tolist()
    assert np.array_equal(found.columns["embedding"], X[labeled])


def test_cut_shards_of_random_sizes_cover_the_table(tmp_path: Path) -> None:
    features, rng = table(tmp_path), np.random.default_rng(3)
    for _ in range(20):
        rows = np.flatnonzero(rng.random(N) < rng.random())
        sources = features.shards(rows, int(rng.integers(1, 9)))
        assert np.array_equal(np.concatenate([source.open().rows() for source in sources]), rows)
        assert [len(source.open()) for source in sources] == [p.stop - p.start for p in cut(len(rows), len(sources))]
