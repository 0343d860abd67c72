"""Features that are larger than the memory of a process: they are mapped, and nothing copies a whole shard."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import limited_memory
import numpy as np
import pytest

from alray import select
from alray.features.table import write_arrays
from alray.store import Store

N, D = 400_000, 256
SIZE = N * D * 2  # bytes: 205 MB of float16
SLACK = 100 << 20  # half of the features
NAMES = ("k_center", "margin", "base", "badge", "mase", "partitioned_k_center", "cluster_margin")


@pytest.mark.timeout(400)
def test_selections_from_features_larger_than_the_memory_that_they_may_use(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    small = rng.normal(size=(N, 32)).astype(np.float32)
    x = (small @ rng.normal(size=(32, D)).astype(np.float32)).astype(np.float16)
    np.save(tmp_path / "x.npy", x)
    write_arrays(Store(str(tmp_path / "table")), np.arange(N), x, "float16", "mark", part_rows=1 << 16)
    command = [sys.executable, limited_memory.__file__, str(tmp_path), str(SLACK), *NAMES]
    one = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | one, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["copy"] == "MemoryError", "the limit would not notice a copy of the features"
    labeled = np.arange(0, 10_000, limited_memory.LABELED)
    for name, (from_file, from_table) in found["picks"].items():
        assert from_file == from_table, name
        assert len(from_file) == limited_memory.K, (name, from_file)
    expected = select("margin", limited_memory.K, embedding=x, head=limited_memory.head(D), labeled=labeled)
    assert found["picks"]["margin"][0] == expected.rows.tolist()
