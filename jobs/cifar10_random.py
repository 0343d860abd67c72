#!/usr/bin/env python
"""Random sampling on CIFAR-10: what every strategy has to beat. The same runs as jobs/cifar10_base.py otherwise."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # a job file is a program, not part of the package

from cifar10_base import PRESETS

from alray import replace
from alray.cli import job

if __name__ == "__main__":
    job({name: replace(config, {"strategy": "random"}) for name, config in PRESETS.items()})
