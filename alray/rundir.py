"""The directory of a run: whose it is, and what it was made with (contract C6)."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from alray.config import RunConfig, fingerprint, identity
from alray.data.catalog import Catalog
from alray.store import Store, absolute, join, weights_fingerprint

CONFIG, RUN = "config.json", "run.json"
CHECKPOINT, FEATURES = "checkpoint", "features"  # folders of a round
_VERSIONS = ("alray", "ray", "torch", "timm", "numpy", "scipy", "pyarrow")


class RunError(ValueError):
    """A run that cannot start or go on; the message says why and what to do."""


def open_run(config: RunConfig, catalog: Catalog, classes: Sequence[str]) -> Store:
    """The run's directory, made or found. classes: what is learned. Raises RunError where it is another
    configuration's, StoreError where it cannot be written."""
    mine = identity(config, catalog.fingerprint, weights_fingerprint(config.model.checkpoint))
    mark = fingerprint(mine)
    uri = config.run_dir or join(config.root, f"{config.name}-{mark}")
    run = Store(absolute(uri))
    if run.has(RUN):
        theirs = run.read_json(RUN)["identity"]
        if theirs != mine:
            raise RunError(
                f"{run.uri} belongs to another configuration:\n" + "\n".join(differences(theirs, mine)) + "\n"
                "Use another run_dir (or none), or remove the directory."
            )
    else:
        run.check_writable()
    run.write_bytes(CONFIG, config.to_json().encode())
    if not run.has(RUN):
        run.write_json(
            RUN,
            {
                "name": config.name,
                "fingerprint": mark,
                "classes": list(classes),
                "catalog": catalog.uri,
                "identity": mine,
                "versions": {name: _version(name) for name in _VERSIONS},
                "machine": {
                    "python": platform.python_version(),
                    "system": platform.system(),
                    "cpu": f"{os.cpu_count()} x {_cpu()}",
                },
            },
        )
    return run


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # alray itself, where a job brought it along in its working directory
        return "not installed"


def _cpu() -> str:
    """The processor's name, where the system tells."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.+)$", info.read_text(), re.MULTILINE) if info.is_file() else []
    return names[0] if names else platform.processor() or platform.machine()


def differences(there: Any, here: Any, path: str = "") -> list[str]:
    """The fields in which two JSON trees differ, a line each."""
    if isinstance(there, dict) and isinstance(here, dict):
        names = sorted(there.keys() | here.keys())
        return [line for n in names for line in differences(there.get(n), here.get(n), f"{path}.{n}" if path else n)]
    return [] if there == here else [f"  {path}: {there!r} there, {here!r} here"]
