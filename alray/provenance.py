"""The identity of a run (its configuration, data and weights), and the libraries and machine it ran on (contract
C6)."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from alray import __version__
from alray.config import LISTS, RunConfig, fingerprint, full_identity, identity, places, value_at
from alray.data.catalog import Catalog
from alray.data.decode import DECODING
from alray.rundir import STARTED, RunDir, RunError
from alray.store import Store, join, weights_fingerprint

_RUNS = "runs.json"  # the directories of runs that were started
# The parts of an identity that are the content of files, and what these are.
_CONTENT = {
    "data_fingerprint": "the data (images or labels)",
    "masks_fingerprint": "the masks",
    "weights_fingerprint": "model.checkpoint",
    **{name: path for path, name in LISTS.items()},
}
_LIBRARIES = ("ray", "torch", "timm", "numpy", "scipy", "pyarrow")


def identity_of(config: RunConfig, catalog: Catalog) -> dict[str, Any]:
    """The identity of the configuration's run on this catalog, with the content of the files that it names and the way
    in which images are decoded."""
    mine = identity(config, catalog.fingerprint, weights_fingerprint(config.model.checkpoint))
    if catalog.source.decoded:
        mine = {**mine, "decoding": DECODING}
    lists = {name: value_at(config, path) for path, name in LISTS.items()}
    return mine | {name: weights_fingerprint(place) for name, place in lists.items() if place}


def find_run(config: RunConfig, catalog: Catalog) -> RunDir:
    """The run's directory, which need not exist yet. Writes nothing. Raises RunError if it belongs to another
    configuration."""
    mine = identity_of(config, catalog)
    run = RunDir(config.run_dir or join(config.root, f"{config.name}-{fingerprint(mine)}"))
    if run.exists:
        theirs, ours = full_identity(run.about()["identity"]), full_identity(mine)
        if theirs != ours:
            raise RunError(
                f"{run.uri} belongs to another configuration:\n" + "\n".join(differences(theirs, ours)) + "\n"
                "Use another run_dir (or none), or remove the directory."
            )
    return run


def content_notes(config: RunConfig, catalog: Catalog, run: RunDir) -> list[str]:
    """Sentences on earlier runs of the same configuration on the same places, whose files had another content then.

    run: the run's directory. There are none where it exists.
    """
    store = _started(config, catalog)
    if run.exists or not store.has(_RUNS):
        return []
    mine, notes = identity_of(config, catalog), []
    for folder in map(RunDir, store.read_json(_RUNS)):
        if folder.uri != run.uri and folder.exists:
            theirs = folder.about()["identity"]
            what = ", ".join(_CONTENT[key] for key in _CONTENT if theirs.get(key) != mine.get(key))
            rounds = len(folder.committed())
            notes.append(
                f"{folder.uri} is a run of the same configuration ({rounds} of {config.rounds} rounds), but {what} had "
                f"another content then. It stays as it is; this run begins anew in {run.uri}."
            )
    return notes


def _started(config: RunConfig, catalog: Catalog) -> Store:
    """The directory under the root that notes the runs that differ in the content of their files alone. It has one
    file, because runs that start together must not write one list of checksums."""
    mine = identity_of(config, catalog)
    at = {path: place for path, place in places(config).items() if path not in ("root", "run_dir")}
    name = fingerprint([config.name, at, {key: mine[key] for key in mine if key not in _CONTENT}])
    return Store(join(config.root, STARTED, name))


def _note_start(config: RunConfig, catalog: Catalog, run: RunDir) -> None:
    store = _started(config, catalog)
    before = store.read_json(_RUNS) if store.has(_RUNS) else []
    if run.uri not in before:
        store.write_json(_RUNS, [*before, run.uri], last=True)


def open_run(config: RunConfig, catalog: Catalog, classes: Sequence[str], facts: Mapping[str, Any]) -> RunDir:
    """Open the run's directory; make it if it does not exist. The caller holds its lease.

    classes: names of the classes to learn; facts: `Checked.facts`. Raises RunError if the directory belongs to another
    configuration, StoreError if it cannot be written.
    """
    run, mine = find_run(config, catalog), identity_of(config, catalog)
    if not run.exists:
        run.check_writable()
    run.write_config(config.to_json())
    if not run.exists:
        machine = {
            "python": platform.python_version(),
            "system": platform.system(),
            "cpu": f"{os.cpu_count()} x {_cpu()}",
        }
        about = {
            "name": config.name,
            "fingerprint": fingerprint(mine),
            "classes": list(classes),
            "catalog": catalog.uri,
        }
        versions = {"alray": __version__, **{name: version(name) for name in _LIBRARIES}}
        _note_start(config, catalog, run)
        run.write_about({**about, **facts, "identity": mine, "versions": versions, "machine": machine})
    return run


def _cpu() -> str:
    """The name of the CPU, as far as the system gives it."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.+)$", info.read_text(), re.MULTILINE) if info.is_file() else []
    return names[0] if names else platform.processor() or platform.machine()


def differences(there: Any, here: Any, path: str = "") -> list[str]:
    """The fields in which two JSON trees differ, one line for each."""
    if isinstance(there, dict) and isinstance(here, dict):
        names = sorted(there.keys() | here.keys())
        return [line for n in names for line in differences(there.get(n), here.get(n), f"{path}.{n}" if path else n)]
    return [] if there == here else [f"  {path}: {there!r} there, {here!r} here"]
