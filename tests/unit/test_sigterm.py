"""SIGTERM stops a command as Ctrl-C does; code that uses alray as a library keeps its own handlers."""

from __future__ import annotations

import subprocess
import sys

import pytest

BEGIN = """
import multiprocessing, os, signal, sys, time
from alray.cli import guarded
def send():
    os.kill(os.getpid(), signal.SIGTERM)
"""
ENDS = {
    "at work": ("guarded(send)", 143, "SIGTERM came, stopped: the same command continues\n"),
    "in another guarded": (
        "guarded(lambda: guarded(send))",
        143,
        "SIGTERM came, stopped: the same command continues\n",
    ),
    "where Ctrl-C is ignored": (
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\nguarded(send)",
        143,
        "SIGTERM came, stopped: the same command continues\n",
    ),
    "where Ctrl-C has another handler": (
        "signal.signal(signal.SIGINT, lambda *_: print('told', file=sys.stderr))\nguarded(send)",
        0,
        "told\n",
    ),
    "in the clean-up, too": (
        "def work():\n    try:\n        send()\n    finally:\n        send(); print('clean', file=sys.stderr)\n"
        "guarded(work)",
        143,
        "clean\nSIGTERM came, stopped: the same command continues\n",
    ),
    "again when the first one is lost": (
        "from alray import sigterm\nsigterm.TIDY = 0.1\ndef work():\n    try:\n        send()\n"
        "    except BaseException:\n        time.sleep(0.2)\n    send()\n    print('not stopped')\nguarded(work)",
        143,
        "SIGTERM came, stopped: the same command continues\n",
    ),
    "while it waits for a head that got it, too": (
        "from alray import head_watch\ndef work():\n    try:\n        send()\n    finally:\n"
        "        head_watch._end('127.0.0.1:1', 8.0)\nguarded(work)",
        143,
        "SIGTERM came, stopped: the same command continues\n",
    ),
    "in a fork": (
        "def work():\n    one = multiprocessing.get_context('fork').Process(target=send)\n"
        "    one.start()\n    one.join()\n"
        "    print(one.exitcode, file=sys.stderr)\nguarded(work)",
        0,
        "-15\n",
    ),
    "at the end of the process, too": (
        "import atexit\natexit.register(print, 'clean', file=sys.stderr)\natexit.register(send)\nguarded(send)",
        143,
        "SIGTERM came, stopped: the same command continues\nclean\n",
    ),
    "after the work": ("guarded(lambda: None)\nsend()", -15, ""),
    "while alray is a library": ("import alray\nfrom alray import run\nsend()", -15, ""),
    "before Ray's start": (
        "from alray.ray_signals import kept\ndef work():\n    with kept():\n        send()\n"
        "        print('not stopped')\nguarded(work)",
        143,
        "SIGTERM came, stopped: the same command continues\n",
    ),
    "after Ray's start": (
        "from alray.ray_signals import kept\ndef work():\n    with kept():\n"
        "        signal.signal(signal.SIGTERM, signal.SIG_DFL)\n    send()\nguarded(work)",
        143,
        "SIGTERM came, stopped: the same command continues\n",
    ),
    "in another thread's guarded": (
        "import threading\none = threading.Thread(target=guarded, args=(lambda: None,))\none.start()\none.join()\n"
        "print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, file=sys.stderr)",
        0,
        "True\n",
    ),
}


@pytest.mark.parametrize("when", ENDS)
def test_sigterm_stops_the_work_as_ctrl_c_does(when: str) -> None:
    program, code, said = ENDS[when]
    done = subprocess.run([sys.executable, "-c", BEGIN + program], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (code, said)
