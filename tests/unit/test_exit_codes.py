"""The exit code of a command says who has to do something: nobody, the machines, the user or the people who label."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODES = {
    "alray.config.ConfigError": 2,
    "alray.train.summary.TrainError": 2,
    "alray.data.fetch.ImageError": 2,
    "alray.reservation.ClusterError": 2,
    "alray.store.StoreError": 2,
    "alray.train.summary.TrainFailed": 1,
    "alray.reservation.ClusterLost": 1,
    "alray.lost_nodes.NodeLost": 1,
    "alray.patience.Away": 1,
    "alray.lease.LeaseLost": 1,
    "alray.labeling.desk.Waiting": 75,
    "builtins.ZeroDivisionError": 1,
    "builtins.KeyboardInterrupt": 130,
}
PROGRAM = """
import importlib, os, sys
from alray.cli import guarded
os.environ.pop("ALRAY_TRACEBACK", None)
def work():
    module, name = sys.argv[1].rsplit(".", 1)
    raise getattr(importlib.import_module(module), name)("what happened")
for name in sys.argv[1:]:
    sys.argv[1] = name
    try:
        guarded(work)
    except SystemExit as end:
        print(name, end.code, file=sys.stderr)
    except Exception:
        print(name, "traceback", file=sys.stderr)
"""


def test_errors_have_their_exit_codes_and_only_a_wait_is_no_error() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, *CODES], capture_output=True, text=True, timeout=100)
    expected = []
    for name, code in CODES.items():
        if name.startswith("builtins.Zero"):
            expected.append(f"{name} traceback")  # Python ends with 1
            continue
        said = "what happened" if code in (75, 130) else "error: what happened"
        expected += [said, f"{name} {code}"]
    assert done.stderr.splitlines() == expected


def test_an_error_that_quotes_a_file_does_not_command_the_terminal() -> None:
    program = (
        "import alray.cli\nfrom alray.config import ConfigError\n"
        "def work(): raise ConfigError('got \\x1b[31mred\\x00\\n  and more')\nalray.cli.guarded(work)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert done.stderr == "error: got \\x1b[31mred\\x00\n  and more\n"


@pytest.mark.parametrize(("raised", "code"), [("ZeroDivisionError()", 1), ("alray.patience.Away('away')", 1)])
def test_a_process_ends_with_the_code(raised: str, code: int) -> None:
    program = f"import alray.cli, alray.patience\ndef work(): raise {raised}\nalray.cli.guarded(work)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=100).returncode == code
