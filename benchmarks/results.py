"""Dated results: what was measured, with the command, the versions, the commit and the hardware beside it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"


def _portable(argument: str) -> str:
    """An absolute path as seen from here: results name no machine's folders."""
    return os.path.relpath(argument) if os.path.isabs(argument) else argument


def record(name: str, result: dict[str, Any]) -> Path:
    """Write benchmarks/results/<name>.json; returns its path."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    about = {
        "date": date.today().isoformat(),
        "command": " ".join(["python", "benchmarks/" + Path(sys.argv[0]).name, *map(_portable, sys.argv[1:])]),
        "commit": commit.strip(),
        "hardware": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "versions": {package: version(package) for package in ("ray", "torch", "timm", "numpy", "pyarrow")},
    }
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps({**about, **result}, indent=1) + "\n")
    print(f"written: {path}")
    return path
