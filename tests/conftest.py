"""Fixtures for every test, and the environment Ray needs to be quiet and small (set before Ray is imported)."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest

QUIET_RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S": "300",
    "RAY_raylet_start_wait_time_s": "180",  # a busy machine needs more than Ray's 30 s
    "RAY_gcs_server_port_wait_time_s": "180",
    "RAY_idle_worker_killing_time_threshold_ms": "60000",  # see alray.cluster
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_MAX_": "0",  # see alray.cluster
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "OMP_WAIT_POLICY": "PASSIVE",
}
for name, value in QUIET_RAY.items():
    os.environ.setdefault(name, value)
# A token for the clusters of this test session: without one anybody who can connect to them can run code here.
os.environ.update({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)})
os.environ.pop("RAY_AUTH_TOKEN_PATH", None)
os.environ.pop("RAY_ADDRESS", None)  # never join somebody's cluster


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images and embeddings; tests that need it carry the marker `data`."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("ALRAY_TEST_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"real data: no folder {folder}; set ALRAY_TEST_DATA")
    return folder
