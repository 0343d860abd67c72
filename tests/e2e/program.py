"""A whole run in a process of its own for the tests that kill: it can shoot itself at a chosen write.

SIGKILL is real: no handler runs, nothing is flushed. The processes are forked from a server that imported alray once.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path

import pandas  # noqa: F401  (pyarrow imports it on first use: once here instead of in every process)
import pyarrow.parquet as pq

from alray import RunConfig, checksums
from alray.labeling.desk import Waiting
from alray.rounds import run
from alray.rundir import RunDir

# Without this the server cannot import what it is to preload (Python hands it sys.path, and before 3.13 it is ignored),
# says nothing, and every process imports torch by itself.
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["program"])


def start(config: RunConfig, kill_at: str = "", when: str = "after", kill_after_writes: int = 0) -> int:
    """Run to the end, to a wait for people, or to the kill; the exit code: 0, 75, or -9 when killed.

    kill_at: the end of a path that is written, e.g. round_01/picks.parquet; when: before, during or after the write.
    """
    process = _context.Process(target=_run, args=(config.to_json(), kill_at, when, kill_after_writes))
    process.start()
    process.join()
    assert process.exitcode in (0, Waiting.exit_code, -signal.SIGKILL), "see the traceback above"
    return process.exitcode


def draw(run: str, size: int, how: str, kill_at: str = "", when: str = "after") -> int:
    """Draw a test as `alray label RUN --test` does, to its end or to the kill; the exit code: 0, or -9 when killed."""
    process = _context.Process(target=_draw, args=(run, size, how, kill_at, when))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), "see the traceback above"
    return process.exitcode


def _draw(run: str, size: int, how: str, kill_at: str, when: str) -> None:
    from alray.draws import draw_test

    _arm(kill_at, when, 0)
    draw_test(RunDir(run), size, how)


def _run(config: str, kill_at: str, when: str, kill_after_writes: int) -> None:
    _arm(kill_at, when, kill_after_writes)
    try:
        run(RunConfig.from_json(config), quiet=True)
    except Waiting as wait:
        raise SystemExit(wait.exit_code) from None


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _arm(kill_at: str, when: str, kill_after_writes: int) -> None:
    """Replace the function that writes the files of a run, and the lists of their checksums, by one that also dies."""
    write, count = checksums.write_bytes, 0

    def write_and_die(uri: str, data: bytes | memoryview) -> None:
        nonlocal count
        here = bool(kill_at) and uri.endswith(kill_at)
        if here and when == "before":
            _die()
        if here and when == "during":  # as a kill inside the write leaves it: half a temporary file
            Path(uri).parent.mkdir(parents=True, exist_ok=True)
            Path(f"{uri}.0badc0de.tmp").write_bytes(bytes(data)[: len(data) // 2])
            _die()
        write(uri, data)
        count += 1
        if (here and when == "after") or count == kill_after_writes:
            _die()

    checksums.write_bytes = write_and_die


def facts(root: Path) -> dict[str, object]:
    """What must not depend on being killed: splits, picks with scores, labels, metrics (but for seconds)."""
    (run,) = root.glob("kill-*")
    found: dict[str, object] = {"splits": pq.read_table(run / "splits.parquet").to_pydict()}
    rounds = sorted(run.glob("round_*"))
    for number, folder in enumerate(rounds):
        metrics = json.loads((folder / "metrics.json").read_text())
        del metrics["seconds"]
        found[f"metrics {number}"] = metrics
        if number < len(rounds) - 1:
            found[f"picks {number}"] = pq.read_table(folder / "picks.parquet").to_pydict()
            found[f"labels {number}"] = pq.read_table(folder / "labels.parquet").to_pydict()
    return found
