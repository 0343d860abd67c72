"""A real Label Studio server on loopback, for tests: `make label-studio` installs it in an environment of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

VARIABLE = "ALRAY_LABEL_STUDIO"  # names the executable label-studio
HERE = Path(__file__).resolve().parents[2] / ".venv-label-studio" / "bin" / "label-studio"
EXECUTABLE = os.environ.get(VARIABLE) or (str(HERE) if HERE.exists() else "")
LEGACY = "0123456789abcdef0123456789abcdef01234567"  # the token of the first user
NEEDED = f"Label Studio: `make label-studio` installs it, and {VARIABLE} names another executable"


def sdk() -> None:
    """Skip the tests of a module unless the server and the SDK are installed."""
    if not EXECUTABLE:
        pytest.skip(NEEDED, allow_module_level=True)
    pytest.importorskip("label_studio_sdk", reason="label-studio-sdk: pip install 'alray[label-studio]'")


class Studio:
    """A server with its SQLite database in a folder. files: the folder of its local-files serving."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.files = folder, folder / "files"
        self.files.mkdir(parents=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server, and wait until it answers. The first start makes the database, which takes a minute."""
        hidden = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LABEL_STUDIO"))}
        settings = {
            "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true", "LABEL_STUDIO_BASE_DATA_DIR": str(self.folder),
            "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(self.files), "COLLECT_ANALYTICS": "false",
            "LATEST_VERSION_CHECK": "false", "SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": "", "HOME": str(self.folder),
        }  # fmt: skip
        command = [
            EXECUTABLE, "start", "--no-browser", "--internal-host", "127.0.0.1", "--port", str(self.port),
            "--data-dir", str(self.folder), "--username", "first@example.org", "--password", "not-a-secret",
            "--user-token", LEGACY, "--enable-legacy-api-token",
        ]  # fmt: skip
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=hidden | settings, start_new_session=True, cwd=self.folder
            )
        until = time.monotonic() + 400
        while not self.answers():
            log_text = (self.folder / "server.log").read_text()[-2000:]
            assert self.process.poll() is None, log_text
            assert time.monotonic() < until, log_text
            time.sleep(0.5)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def stop(self) -> None:
        """Kill the server with all of its processes."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
