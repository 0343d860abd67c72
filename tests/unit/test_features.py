from __future__ import annotations

import gc
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from alray.features.arrays import ArraySource, cut
from alray.features.table import FeatureError, FeatureTable, read_part, stored, write_arrays
from alray.store import Store

ROWS = np.arange(0, 2000, 2)


def table_at(uri: str, dtype: str = "float32") -> tuple[FeatureTable, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    embedding, logits = rng.normal(size=(1000, 8)).astype(np.float32), rng.normal(size=(1000, 3)).astype(np.float32)
    return write_arrays(Store(uri), ROWS, embedding, dtype, "mark", logits, part_rows=300), embedding, logits  # type: ignore[arg-type]


@pytest.mark.parametrize("shards", [1, 2, 7, 30, 2000])
@pytest.mark.parametrize("place", ["local", "memory"])
def test_shards_hold_each_row_once_with_its_own_values(place: str, shards: int, tmp_path: Path) -> None:
    table, embedding, logits = table_at(str(tmp_path) if place == "local" else f"memory://features/{tmp_path.name}")
    wanted = np.flatnonzero(np.arange(1000) % 3 != 1)
    sources = [pickle.loads(pickle.dumps(source)) for source in table.shards(ROWS[wanted], shards)]
    blocks = [block for source in sources for block in source.open().blocks(17)]
    assert np.concatenate([block.rows for block in blocks]).tolist() == ROWS[wanted].tolist()
    assert np.array_equal(np.concatenate([block["embedding"] for block in blocks]), embedding[wanted])
    assert np.array_equal(np.concatenate([block["logits"] for block in blocks]), logits[wanted])
    assert max(len(block) for block in blocks) <= 17


def test_some_rows_of_a_shard(tmp_path: Path) -> None:
    table, embedding, _ = table_at(str(tmp_path))
    shard = table.source(ROWS[5:900]).open()
    block = shard.take(np.array([1600, 12]))
    assert block.rows.tolist() == [12, 1600]
    assert np.array_equal(block["embedding"], embedding[[6, 800]])
    with pytest.raises(KeyError, match="4"):
        shard.take(np.array([12, 4]))


def test_parts_are_memory_mapped(tmp_path: Path) -> None:
    table, _, _ = table_at(str(tmp_path))
    array = read_part(Store(table.uri), 0)[1]["embedding"]
    assert not array.flags.owndata
    assert not array.flags.writeable


@pytest.mark.parametrize("full", [False, True])
def test_parts_of_an_object_store_are_mapped_from_a_file_that_nobody_has_to_remove(
    full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They stay in memory if the disk for temporary files would become too full."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    if full:
        monkeypatch.setattr("alray.features.table._KEPT_FREE", 1.0)
    table, embedding, _ = table_at(f"memory://mapped/{tmp_path.name}")
    array = read_part(Store(table.uri), 0)[1]["embedding"]
    assert np.array_equal(array, embedding[:300])
    assert not list(tmp_path.iterdir())
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if f"{tmp_path}/alray-part" in line]
    assert bool(mapped) is not full
    del array
    gc.collect()
    assert f"{tmp_path}/alray-part" not in Path("/proc/self/maps").read_text()


def test_rows_without_features_are_refused(tmp_path: Path) -> None:
    table, _, _ = table_at(str(tmp_path))
    with pytest.raises(FeatureError, match="2 rows have no features, first row 3"):
        table.read(np.array([2, 3, 4, 5000]), "embedding")
    with pytest.raises(FeatureError, match="missing or not complete"):
        FeatureTable.open(str(tmp_path / "elsewhere"))
    assert table.read(np.empty(0, np.int64), "embedding").shape == (0, 8)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_storage_types_round_as_torch_does(dtype: str, tmp_path: Path) -> None:
    table, embedding, _ = table_at(str(tmp_path), dtype)
    expected = torch.from_numpy(embedding).to(getattr(torch, dtype)).float().numpy()
    assert np.array_equal(table.read(ROWS, "embedding").astype(np.float32), expected)


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (1e6, "float16", "embedding of row 7 does not fit into float16"),
        (np.nan, "float32", "embedding of row 7 is not finite"),
        (np.inf, "bfloat16", "embedding of row 7 is not finite"),
    ],
)
def test_values_that_cannot_be_stored_are_named(value: float, dtype: str, message: str) -> None:
    array = np.ones((3, 2))
    array[1, 1] = value
    with pytest.raises(FeatureError, match=message):
        stored(array, dtype, np.array([5, 7, 9]), "embedding")  # type: ignore[arg-type]


def test_what_is_there_with_the_same_fingerprint_is_kept(tmp_path: Path) -> None:
    table_at(str(tmp_path))
    before = (tmp_path / "part-00000.arrow").stat().st_mtime_ns
    table_at(str(tmp_path))
    assert (tmp_path / "part-00000.arrow").stat().st_mtime_ns == before


@pytest.mark.parametrize(("n", "shards"), [(10, 3), (0, 4), (3, 30), (7, 7)])
def test_cut_gives_near_equal_contiguous_parts(n: int, shards: int) -> None:
    parts = [list(range(n))[part] for part in cut(n, shards)]
    assert [i for part in parts for i in part] == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert len(parts) == shards


def test_arrays_in_memory_are_a_shard_too() -> None:
    shard = ArraySource(np.array([3, 9]), {"logits": np.array([[1.0], [2.0]])}).open()
    assert shard.rows().tolist() == [3, 9]
    assert len(shard) == 2
