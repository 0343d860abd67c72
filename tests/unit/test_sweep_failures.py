"""What a sweep says of a trial whose process ended without a message. The texts are Ray's own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from alray.process import death
from alray.store import Store
from alray.sweep import SweepConfig
from alray.sweep.failures import last_failure, message

DIED = (
    "The actor died unexpectedly before finishing this task.\n\tclass_name: ImplicitFunc\n\tpid: 5313\n"
    "\tip: 10.0.0.7\nThe actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit "
    "detail: "
)
CLOSED = (
    "Worker unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the "
    "process was killed by the OOM killer due to high memory usage, (2) ray stop --force was called, or (3) the worker "
    "crashed unexpectedly due to SIGSEGV or another unexpected error."
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            DIED + CLOSED,
            r"without a message.*\(SIGKILL.*memory.*SIGSEGV.*machine \(10.0.0.7\)",
        ),
        (DIED + "Worker exits with an exit code 1. The process receives a SIGTERM.", "exit code 1.*a SIGTERM"),
        ("1 worker(s) were killed due to the node running low on memory. Memory on the node", "short of memory"),
        ("The actor is dead because its node has died. Node Id: 1234", "its machine was lost"),
        ("", "^its process died$"),
    ],
)
def test_the_reason_is_named(text: str, said: str) -> None:
    assert death(text).startswith("its process died")
    assert re.search(said, death(text))
    assert "\n" not in death(text)


def test_the_last_failure_and_the_own_message_count(tmp_path: Path) -> None:
    file = tmp_path / "error.txt"
    assert last_failure(str(file)) == last_failure(None) == ""
    file.write_text("Failure # 1 (occurred at 2026-01-01)\nfirst\nline\nFailure # 2 (occurred at 2026-01-02)\nsecond\n")
    assert last_failure(str(file)) == "second\n"
    store = Store(str(tmp_path))
    assert message(store, "00001.txt") == ""
    store.write_bytes("00001.txt", b"ValueError: no\n\nTraceback ...")
    assert message(store, "00001.txt") == "ValueError: no"


def test_a_failed_trial_is_started_again_once_by_default() -> None:
    assert SweepConfig().retries == 1
